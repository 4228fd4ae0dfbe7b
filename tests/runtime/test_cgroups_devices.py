"""Device rules: the specification's list, what v1 holds of it, and the program that v2 runs; no kernel needed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput, Unsupported
from lamina.linux import bpf
from lamina.runtime.cgroups.device_program import compile_rules
from lamina.runtime.cgroups.devices import (
    ANY,
    DEFAULTS,
    DENY_ALL,
    Rule,
    lines_v1,
    read_v1,
    reduce_rules,
    rules_of,
)

BITS = {"m": 1, "r": 2, "w": 4}


def answer(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Run the program as the kernel would, on a device and an access."""
    word = sum(BITS[letter] for letter in access) << 16 | {"b": 1, "c": 2}[kind]
    context = struct.pack("=III", word, major, minor)
    registers = {1: 0}
    at = steps = 0
    while steps < len(program):
        code, both, offset, immediate = bpf.INSN.unpack_from(program, at * bpf.INSN.size)
        target, source = both & 0xF, both >> 4
        at, steps = at + 1, steps + 1
        wide = immediate & 0xFFFFFFFFFFFFFFFF  # sign-extended, for jumps of 64 bits
        if code == 0x61:  # BPF_LDX | BPF_MEM | BPF_W
            assert source == 1
            registers[target] = struct.unpack_from("=I", context, offset)[0]
        elif code == 0xB4:  # 32-bit move of a constant
            registers[target] = immediate & 0xFFFFFFFF
        elif code == 0xBC:
            registers[target] = registers[source] & 0xFFFFFFFF
        elif code == 0x54:
            registers[target] = registers[target] & immediate & 0xFFFFFFFF
        elif code == 0x74:
            registers[target] = (registers[target] & 0xFFFFFFFF) >> immediate
        elif code == 0x15:
            at += offset if registers[target] == wide else 0
        elif code == 0x55:
            at += offset if registers[target] != wide else 0
        elif code == 0x95:
            return bool(registers[0])
        else:
            raise AssertionError(f"unknown code {code:#x}")
        assert at >= 0 and offset >= 0
    raise AssertionError("the program has no end")


def meant(rules: list[Rule], kind: str, major: int, minor: int, access: str) -> bool:
    """The specification: for each kind of access the last entry that speaks of it counts."""
    for letter in access:
        allowed = False
        for rule in rules:
            same = rule.kind in ("a", kind) and rule.major in (ANY, major) and rule.minor in (ANY, minor)
            if same and letter in rule.access:
                allowed = rule.allow
        if not allowed:
            return False
    return True


numbers = st.sampled_from([ANY, 0, 1, 5, 136, (1 << 31) - 1])
accesses = st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"])
rules_strategy = st.lists(
    st.builds(Rule, st.booleans(), st.sampled_from("abc"), numbers, numbers, accesses), max_size=8
)
devices = st.tuples(
    st.sampled_from("bc"), st.sampled_from([0, 1, 5, 136, 7]), st.sampled_from([0, 1, 5, 9]), accesses
)


@given(rules_strategy, st.lists(devices, min_size=1, max_size=20))
def test_the_program_means_what_the_list_says(rules, asked):
    program = compile_rules(rules)
    for device in asked:
        assert answer(program, *device) is meant(rules, *device), device


def v1_allows(held, kind: str, major: int, minor: int, access: str) -> bool:
    """devcgroup_check_permission of the kernel: one exception has to speak of the whole access to allow it, or of a
    part of it to deny it."""
    for (other, its_major, its_minor), its_access in held.exceptions.items():
        if other == kind and its_major in (ANY, major) and its_minor in (ANY, minor):
            if not held.allow and set(access) <= set(its_access):
                return True
            if held.allow and set(access) & set(its_access):
                return False
    return bool(held.allow)


@given(rules_strategy, st.lists(devices, min_size=1, max_size=20))
def test_what_v1_holds_allows_nothing_that_the_list_does_not(rules, asked):
    rules = [DENY_ALL, *rules]
    try:
        held = reduce_rules(rules)
    except Unsupported:
        return
    for device in asked:
        if v1_allows(held, *device):
            assert meant(rules, *device), device
        elif len(device[3]) == 1:  # v1 does not add up what several exceptions allow together
            assert not meant(rules, *device), device


def test_the_list_begins_with_nothing_and_ends_with_what_everybody_has():
    rules = rules_of(
        [{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "mrw"}, {"allow": False}]
    )
    assert rules[0] == DENY_ALL
    assert rules[1:3] == [Rule(True, "c", 10, 229, "rwm"), DENY_ALL]
    assert rules[3:] == list(DEFAULTS)
    assert str(rules[1]) == "c 10:229 rwm"
    assert [str(rule) for rule in DEFAULTS[:3]] == ["c *:* m", "b *:* m", "c 1:3 rwm"]
    assert str(DEFAULTS[-1]) == "c 10:200 rwm"  # net/tun, as runc and crun have it again


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"type": "p"}, "no type of device"),
        ({"access": "x"}, "no access"),
        ({"access": "rx"}, "no access"),
        ({"major": "1"}, "not a whole number"),
        ({"major": -2}, "no device number"),
        ({"minor": 1 << 31}, "no device number"),
    ],
)
def test_entries_that_cannot_be_meant(entry, words):
    with pytest.raises(InvalidInput, match=words):
        rules_of([{"allow": True, **entry}])


def test_an_entry_with_an_unknown_word_is_refused():
    with pytest.raises(Unsupported, match=r"devices\.path"):
        rules_of([{"allow": True, "path": "/dev/null"}])


def test_v1_cannot_hold_an_exception_from_an_exception():
    rules = rules_of(
        [{"allow": True, "type": "c", "major": 10}, {"allow": False, "type": "c", "major": 10, "minor": 229}]
    )
    with pytest.raises(Unsupported, match=r"cgroup v1 cannot except c 10:229 rwm from c 10:\* rwm"):
        reduce_rules(rules)
    assert not answer(compile_rules(rules), "c", 10, 229, "r")
    assert answer(compile_rules(rules), "c", 10, 1, "r")


def test_v1_from_the_beginning():
    held = reduce_rules(
        [DENY_ALL, Rule(True, "c", 1, 3, "r"), Rule(True, "c", 1, 3, "w"), Rule(True, "a", 5, 0, "m")]
    )
    assert lines_v1(held) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 1:3 rw"),
        ("devices.allow", "b 5:0 m"),
        ("devices.allow", "c 5:0 m"),
    ]
    open_house = reduce_rules([DENY_ALL, Rule(True, "a", ANY, ANY, "rwm"), Rule(False, "b", 8, ANY, "w")])
    assert lines_v1(open_house) == [("devices.allow", "a"), ("devices.deny", "b 8:* w")]


def test_v1_while_it_runs_writes_only_what_differs_and_allows_first():
    now = read_v1("c 1:3 rwm\nb *:* m\nc 136:* rw\n")
    held = reduce_rules(
        [DENY_ALL, Rule(True, "c", 1, 3, "rw"), Rule(True, "c", 136, ANY, "rwm"), Rule(True, "c", 9, 9, "r")]
    )
    assert lines_v1(held, now) == [
        ("devices.allow", "c 136:* m"),
        ("devices.allow", "c 9:9 r"),
        ("devices.deny", "c 1:3 m"),
        ("devices.deny", "b *:* m"),
    ]
    assert lines_v1(held, held) == []
    assert lines_v1(held, read_v1("a *:* rwm\n"))[0] == ("devices.deny", "a")


def test_a_rule_for_everything_makes_the_rest_of_the_program_superfluous():
    assert len(compile_rules([Rule(True, "c", 1, 1, "r"), DENY_ALL])) == len(compile_rules([DENY_ALL]))
