"""Profiles compiled: what the program decides, against a plain model of the specification; its form and its limits."""

from __future__ import annotations

import errno
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.seccomp import compile_filter, default_profile, filter_flags
from lamina.runtime.seccomp.architectures import system_calls
from lamina.runtime.seccomp.assembler import Code, assemble
from support import bpf
from support.profiles import (
    EQUALITIES,
    ORDERS,
    Profile,
    allowed,
    arguments_for,
    interesting,
    narrow_and_large,
    profiles,
    questions,
)

EVERY_OPERATOR = (*EQUALITIES, *ORDERS, "SCMP_CMP_NE")
CONVENTIONS = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}
EPERM, ENOSYS = bpf.errno_verdict(errno.EPERM), bpf.errno_verdict(errno.ENOSYS)


def compiled(profile: Profile, arch: str = "x86_64", **options: Any) -> list[bpf.Instruction]:
    program = bpf.instructions(compile_filter(profile, arch, **options))
    bpf.verify(program)
    return program


def one(name: str, *args: tuple[int, str, int], action: str = "SCMP_ACT_ALLOW", **more: Any) -> Profile:
    listed = [{"index": i, "op": f"SCMP_CMP_{op}", "value": value} for i, op, value in args]
    return {"names": [name], "action": action, "args": listed, **more}


def denying(*entries: Profile, architectures: tuple[str, ...] = ()) -> Profile:
    words = [f"SCMP_ARCH_{name}" for name in architectures]
    return {"defaultAction": "SCMP_ACT_ERRNO", "architectures": words, "syscalls": list(entries)}


WORDS = {arch: tuple(f"SCMP_ARCH_{name.upper()}" for name in names) for arch, names in CONVENTIONS.items()}


@pytest.mark.parametrize("arch", CONVENTIONS)
@given(data=st.data())
def test_decides_as_the_specification_says(arch: str, data: st.DataObject) -> None:
    """Any operators, any number of conditions, rules ORed, in every convention; 64-bit arguments by both halves."""
    profile = data.draw(profiles(3, EVERY_OPERATOR, architectures=WORDS[arch]))
    program = compiled(profile, arch, newer_fail=False)
    present = {arch} | {word.removeprefix("SCMP_ARCH_").lower() for word in profile["architectures"]}
    for name, convention, number in questions(profile, tuple(sorted(present))):
        if narrow_and_large(profile, name):
            continue  # has a test of its own
        for values in arguments_for(profile, name):
            arguments = tuple(v & 0xFFFFFFFF for v in values) if convention in ("x86", "arm") else values
            expected = bpf.ALLOW if allowed(profile, name, convention, arguments) else EPERM
            assert bpf.verdict(program, convention, number, arguments) == expected, (
                name,
                convention,
                arguments,
            )


@given(profile=profiles(2, ("SCMP_CMP_EQ", "SCMP_CMP_LE"), repeat=True))
def test_several_conditions_on_one_argument_are_rules_of_their_own(profile: Profile) -> None:
    program = compiled(profile, newer_fail=False)
    for name, convention, number in questions(profile, ("x86_64",)):
        if not narrow_and_large(profile, name):
            for arguments in product(interesting(profile, name)[::2], repeat=2):
                expected = bpf.ALLOW if allowed(profile, name, convention, (*arguments, 0)) else EPERM
                assert bpf.verdict(program, convention, number, arguments) == expected


def test_the_first_rule_without_conditions_decides() -> None:
    read = system_calls()["read"].numbers["x86_64"]
    conditional = one("read", (0, "EQ", 1), action="SCMP_ACT_TRAP")
    entries = [conditional, one("read"), one("read", action="SCMP_ACT_LOG")]
    assert bpf.verdict(compiled(denying(*entries)), "x86_64", read, (1,)) == bpf.ALLOW
    assert bpf.verdict(compiled(denying(*reversed(entries))), "x86_64", read, (1,)) == bpf.LOG


def test_of_conditional_rules_the_most_particular_decides() -> None:
    lseek = system_calls()["lseek"].numbers["x86_64"]
    entries = [
        one("lseek", (1, "GE", 3), action="SCMP_ACT_LOG"),
        one("lseek", (1, "LT", 10), action="SCMP_ACT_KILL_PROCESS"),
        one("lseek", (1, "LT", 5), action="SCMP_ACT_TRAP"),
        one("lseek", (1, "EQ", 4), action="SCMP_ACT_ALLOW"),
    ]
    for order in (entries, entries[::-1]):
        program = compiled(denying(*order))
        found = [bpf.verdict(program, "x86_64", lseek, (0, value)) for value in (4, 3, 7, 10, 1 << 40)]
        assert found == [bpf.ALLOW, bpf.TRAP, bpf.KILL_PROCESS, bpf.LOG, bpf.LOG]


@pytest.mark.parametrize(
    ("action", "errno_ret", "verdict"),
    [
        ("SCMP_ACT_KILL", None, 0),
        ("SCMP_ACT_KILL_THREAD", None, 0),
        ("SCMP_ACT_KILL_PROCESS", None, bpf.KILL_PROCESS),
        ("SCMP_ACT_TRAP", None, bpf.TRAP),
        ("SCMP_ACT_ERRNO", None, EPERM),
        ("SCMP_ACT_ERRNO", 0, 0x00050000),
        ("SCMP_ACT_ERRNO", 38, ENOSYS),
        ("SCMP_ACT_TRACE", 7, bpf.TRACE | 7),
        ("SCMP_ACT_LOG", None, bpf.LOG),
        ("SCMP_ACT_NOTIFY", None, bpf.NOTIFY),
        ("SCMP_ACT_ALLOW", None, bpf.ALLOW),
    ],
)
def test_every_action(action: str, errno_ret: int | None, verdict: int) -> None:
    entry = one("read", action=action) | ({} if errno_ret is None else {"errnoRet": errno_ret})
    default = "SCMP_ACT_ALLOW" if action != "SCMP_ACT_ALLOW" else "SCMP_ACT_ERRNO"
    program = compiled({"defaultAction": default, "syscalls": [entry]})
    assert bpf.verdict(program, "x86_64", 0) == verdict
    whole = {"defaultAction": action} | ({} if errno_ret is None else {"defaultErrnoRet": errno_ret})
    assert bpf.verdict(compiled(whole), "x86_64", 0) == verdict


def test_a_rule_with_the_default_action_has_no_effect() -> None:
    program = compiled(denying(one("read", action="SCMP_ACT_ERRNO"), one("read")))
    assert bpf.verdict(program, "x86_64", 0) == bpf.ALLOW
    other = compiled(denying(one("read", action="SCMP_ACT_ERRNO", errnoRet=13), one("read")))
    assert bpf.verdict(other, "x86_64", 0) == bpf.errno_verdict(13)


# -- conventions -----------------------------------------------------------------------------------------------


def test_foreign_conventions_are_killed() -> None:
    program = compiled(denying(one("read")))
    assert bpf.verdict(program, "x86_64", 0) == bpf.ALLOW
    for convention, number in (("x86", 3), ("aarch64", 63), ("none", 0), ("x32", 0x40000000)):
        assert bpf.verdict(program, convention, number) == bpf.KILL
    # a call that a tracer skips has the number -1, and is none of x32
    assert bpf.verdict(program, "x86_64", -1) == EPERM


def test_x32_alone_on_an_arm_machine_leaves_x86_64_out() -> None:
    program = compiled(denying(one("read"), architectures=("X32",)), "aarch64")
    assert bpf.verdict(program, "x32", 0x40000000) == bpf.ALLOW
    assert bpf.verdict(program, "x86_64", 0) == bpf.KILL
    assert bpf.verdict(program, "aarch64", 63) == bpf.ALLOW


def test_architectures_without_a_table_change_nothing() -> None:
    entry = one("read")
    assert compiled(denying(entry, architectures=("MIPS", "S390X", "RISCV64"))) == compiled(denying(entry))
    assert compiled(denying(entry, architectures=("X86_64", "X86_64"))) == compiled(denying(entry))


# -- newer calls -----------------------------------------------------------------------------------------------


def test_calls_newer_than_the_profile_do_not_exist() -> None:
    """A C library that meets ENOSYS uses the older call; with EPERM it gives up."""
    known = denying(one("cachestat"), architectures=("X86_64", "X86", "X32"))
    program = compiled(known)
    for convention, base in (("x86_64", 0), ("x86", 0), ("x32", 0x40000000)):
        assert bpf.verdict(program, convention, base | 450) == EPERM
        assert bpf.verdict(program, convention, base | 451) == bpf.ALLOW
        assert bpf.verdict(program, convention, base | 452) == ENOSYS
        assert bpf.verdict(program, convention, base | 5000) == ENOSYS
        assert bpf.verdict(compiled(known, newer_fail=False), convention, base | 452) == EPERM
    # a rule that denies the newest call counts as knowing it
    denied = compiled(denying(one("read"), one("mseal", action="SCMP_ACT_ERRNO")))
    assert bpf.verdict(denied, "x86_64", 462) == EPERM
    assert bpf.verdict(denied, "x86_64", 463) == ENOSYS


@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"])
def test_newer_calls_where_the_default_permits(default: str) -> None:
    program = compiled({"defaultAction": default, "syscalls": [one("read", action="SCMP_ACT_KILL")]})
    assert bpf.verdict(program, "x86_64", 5000) not in (ENOSYS, bpf.KILL)


def test_arms_private_calls_say_nothing_about_age() -> None:
    program = compiled(denying(one("set_tls"), one("mseal"), architectures=("ARM",)), "aarch64")
    assert bpf.verdict(program, "arm", 0xF0005) == bpf.ALLOW
    assert bpf.verdict(program, "arm", 0xF0006) == EPERM
    assert bpf.verdict(program, "arm", 463) == ENOSYS


# -- what the kernel sees --------------------------------------------------------------------------------------


def test_cve_2019_10063_high_bits_of_a_32_bit_argument() -> None:
    """The kernel truncates an int; a filter that compares 64 bits is passed with one more bit set (TIOCSTI)."""
    TIOCSTI, AF_ALG = 0x5412, 38
    calls = system_calls()
    program = compiled(
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                one("ioctl", (1, "EQ", TIOCSTI), action="SCMP_ACT_ERRNO"),
                one("socket", (0, "EQ", AF_ALG), action="SCMP_ACT_ERRNO"),
            ],
        }
    )
    for high in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert bpf.verdict(program, "x86_64", calls["ioctl"].numbers["x86_64"], (0, TIOCSTI | high)) == EPERM
        assert bpf.verdict(program, "x86_64", calls["socket"].numbers["x86_64"], (AF_ALG | high,)) == EPERM
    # a pointer or a length is compared whole
    exact = compiled(denying(one("mmap", (1, "EQ", 5))))
    assert bpf.verdict(exact, "x86_64", calls["mmap"].numbers["x86_64"], (0, 5 | 1 << 32)) == EPERM


@pytest.mark.parametrize(
    ("operator", "value", "matches", "misses"),
    [
        ("EQ", 0xFFFFFFFFFFFFFFFF, [0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF], [0, 1]),  # -1, as people write it
        ("EQ", 0x100000005, [], [5, 0x100000005, 0]),
        ("NE", 0x100000005, [5, 0x100000005, 0], []),
        ("GT", 0x100000000, [], [0, 0xFFFFFFFF, 0x100000001]),
        ("GE", 0x100000000, [], [0, 0xFFFFFFFF, 0x100000001]),
        ("LT", 0x100000000, [0, 0xFFFFFFFF, 0x100000001], []),
        ("LE", 0x100000000, [0, 0xFFFFFFFF, 0x100000001], []),
    ],
)
def test_a_32_bit_argument_compared_with_more(
    operator: str, value: int, matches: list[int], misses: list[int]
) -> None:
    program = compiled(denying(one("personality", (0, operator, value))))
    number = system_calls()["personality"].numbers["x86_64"]
    assert all(bpf.verdict(program, "x86_64", number, (argument,)) == bpf.ALLOW for argument in matches)
    assert all(bpf.verdict(program, "x86_64", number, (argument,)) == EPERM for argument in misses)


SOCKETCALL, IPC = 102, 117


def test_a_multiplexer_opens_nothing_that_is_closed_directly() -> None:
    """socketcall(2) hides the address family in memory: what depends on it is not permitted there."""
    program = compiled(
        denying(
            *(one("socket", (0, "EQ", 2)), one("bind"), one("semop"), one("shmat", (2, "EQ", 0))),
            architectures=("X86",),
        )
    )
    verdicts = [bpf.verdict(program, "x86", SOCKETCALL, (call,)) for call in (1, 2, 3)]
    assert verdicts == [EPERM, bpf.ALLOW, EPERM]
    # the upper half of ipc's first argument is a version
    asked = (1, 1 | 1 << 16, 21, 21 | 1 << 16, 0)
    assert [bpf.verdict(program, "x86", IPC, (call,)) for call in asked] == [
        bpf.ALLOW,
        bpf.ALLOW,
        EPERM,
        EPERM,
        EPERM,
    ]
    assert bpf.verdict(program, "x86", 359, (2,)) == bpf.ALLOW


def test_a_multiplexer_closes_what_is_closed_for_some_arguments() -> None:
    entries = [
        one("socket", (0, "EQ", 38), action="SCMP_ACT_ERRNO"),
        one("socket", (0, "EQ", 40), action="SCMP_ACT_KILL_PROCESS"),
        one("connect", (0, "EQ", 0), action="SCMP_ACT_LOG"),
    ]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": entries}
    verdicts = [bpf.verdict(compiled(profile), "x86", SOCKETCALL, (call,)) for call in (1, 2, 3)]
    assert verdicts == [bpf.KILL_PROCESS, bpf.ALLOW, bpf.LOG]


def test_a_profile_that_names_the_multiplexer_means_it() -> None:
    program = compiled(denying(one("socket", (0, "EQ", 2)), one("socketcall"), architectures=("X86",)))
    assert bpf.verdict(program, "x86", SOCKETCALL, (1,)) == bpf.ALLOW


# -- form ------------------------------------------------------------------------------------------------------


def test_the_default_program_is_small() -> None:
    """What installing it costs the kernel grows with its size; libseccomp's has 1,000 instructions, or 1,250."""
    profile = default_profile(DEFAULT_CAPABILITIES, "x86_64")
    program = compiled(profile)
    assert len(program) < 300
    assert len(compiled({**profile, "architectures": []})) < 90
    deepest = max(
        bpf.run(program, convention, base + number).steps
        for convention, base in (("x86_64", 0), ("x86", 0), ("x32", 0x40000000))
        for number in range(600)
    )
    assert deepest < 25


@given(
    chosen=st.lists(st.sampled_from(sorted(system_calls())), unique=True, max_size=400),
    words=st.lists(st.sampled_from(["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"])),
)
@settings(max_examples=max(10, settings().max_examples // 10))
def test_lists_of_names(chosen: list[str], words: list[str]) -> None:
    entry = {"names": chosen or ["read"], "action": "SCMP_ACT_ALLOW"}
    program = compiled(
        {"defaultAction": "SCMP_ACT_ERRNO", "architectures": words, "syscalls": [entry]}, newer_fail=False
    )
    calls = system_calls()
    for convention in {"x86_64"} | {word.removeprefix("SCMP_ARCH_").lower() for word in words}:
        allowed_numbers = {
            calls[n].numbers[convention] for n in entry["names"] if convention in calls[n].numbers
        }
        base = 0x40000000 if convention == "x32" else 0
        for number in (*range(base, base + 600), 0xF0002):
            if convention == "x32" or number < 600 or convention == "arm":
                expected = bpf.ALLOW if number in allowed_numbers else EPERM
                # socketcall and ipc stand for others on x86
                if convention != "x86" or number not in (SOCKETCALL, IPC):
                    assert bpf.verdict(program, convention, number) == expected, (convention, number)


def test_jumps_farther_than_a_byte() -> None:
    """A thousand conditions: verdicts and other branches are out of reach of the eight bits of a conditional jump."""
    names = sorted(system_calls())[::4]
    entries = [
        one(
            name,
            (0, "EQ", place),
            (3, "GT", place << 20),
            action=("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")[place % 2],
        )
        for place, name in enumerate(names)
    ]
    program = compiled(denying(*entries, architectures=("X86", "X32")), newer_fail=False)
    assert len(program) > 1000
    for place, name in enumerate(names):
        for convention, number in system_calls()[name].numbers.items():
            if convention in ("x86_64", "x86", "x32") and number not in (SOCKETCALL, IPC):
                arguments = (place, 0, 0, (place << 20) + 1)
                expected = (bpf.ALLOW, bpf.LOG)[place % 2]
                assert bpf.verdict(program, convention, number, arguments) == expected
                assert bpf.verdict(program, convention, number, (place, 0, 0, 0)) == EPERM


@pytest.mark.parametrize("length", range(245, 265))
@pytest.mark.parametrize("far", [True, False])
def test_every_distance_of_a_jump(length: int, far: bool) -> None:
    """A long way on one side of a comparison, a short one on the other: its own verdict, or a way that is shared."""
    code = Code()
    short = (
        code.load(16, code.jump("==", 7, code.ret(bpf.LOG), code.ret(bpf.TRAP))) if far else code.ret(bpf.LOG)
    )
    long = code.jump("==", 9, code.ret(bpf.ALLOW), short)
    for place in range(length):
        long = code.keep(0xFFFF0000 | place, long)
    for yes, no in ((long, short), (short, long)):
        program = bpf.instructions(assemble(code, code.load(0, code.jump("==", 5, yes, no))))
        bpf.verify(program)
        for number in (4, 5):
            assert bpf.verdict(program, "x86_64", number, (7,)) == bpf.LOG
            assert bpf.verdict(program, "x86_64", number, (6,)) == (bpf.TRAP if far else bpf.LOG)


def test_a_mask_of_nothing_is_no_condition() -> None:
    """It holds always, so its rule is the first one without conditions."""
    always = one("lseek", (1, "MASKED_EQ", 0))
    particular = one("lseek", (1, "EQ", 4), action="SCMP_ACT_TRAP")
    program = compiled(denying(particular, always))
    assert bpf.verdict(program, "x86_64", system_calls()["lseek"].numbers["x86_64"], (0, 4)) == bpf.ALLOW


def test_more_than_the_kernel_takes_is_refused() -> None:
    entries = [
        one("mmap", (0, "EQ", value << 31), (1, "EQ", value << 31), (2, "EQ", 7)) for value in range(1500)
    ]
    with pytest.raises(InvalidInput, match="the kernel takes 4096"):
        compile_filter(denying(*entries))


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({}, "no defaultAction"),
        ({"defaultAction": "SCMP_ACT_DENY"}, "unknown action 'SCMP_ACT_DENY'"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "takes no errnoRet"),
        (denying(one("read", errnoRet=3)), "takes no errnoRet"),
        (denying(one("read", action="SCMP_ACT_ERRNO", errnoRet=4096)), "not between 0 and 4095"),
        (denying(one("read", action="SCMP_ACT_ERRNO", errnoRet=-1)), "not between 0 and 4095"),
        (denying(one("read", (6, "EQ", 0))), "has no argument 6"),
        (denying(one("read", (-1, "EQ", 0))), "has no argument -1"),
        (denying(one("read", (0, "ALMOST", 0))), "unknown operator 'SCMP_CMP_ALMOST'"),
        (denying(one("read", (0, "EQ", 1 << 64))), "does not fit into 64 bits"),
        (denying(one("read", (0, "EQ", -1))), "does not fit into 64 bits"),
        (denying({"names": [], "action": "SCMP_ACT_ALLOW"}), "names no system call"),
        (denying({"action": "SCMP_ACT_ALLOW"}), "without 'names'"),
        (denying({"names": ["read"]}), "without 'action'"),
        (denying(one("read"), architectures=("PDP11",)), "unknown architecture 'SCMP_ARCH_PDP11'"),
    ],
)
def test_what_cannot_be_meant(profile: Profile, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        compile_filter(profile, "x86_64")


def test_flags() -> None:
    profile: Profile = {"defaultAction": "SCMP_ACT_ALLOW"}
    assert filter_flags(profile) == 0
    words = [f"SECCOMP_FILTER_FLAG_{word}" for word in ("TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")]
    assert filter_flags({**profile, "flags": words}) == 2 | 4
    notifying = {**profile, "flags": words, "syscalls": [one("read", action="SCMP_ACT_NOTIFY")]}
    assert filter_flags(notifying) == 2 | 4 | 8 | 32
    with pytest.raises(InvalidInput, match="unknown flag"):
        filter_flags({**profile, "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]})
