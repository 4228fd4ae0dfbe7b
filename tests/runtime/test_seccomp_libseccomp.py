"""The compiler against libseccomp, the reference: the same verdicts, for the default profile and for generated ones.

Generated profiles keep to what libseccomp (2.5.4 and 2.6.0 were looked at) gets right itself; what it gets wrong is
tested against a model of the specification in test_seccomp_compiler.py:

* bounds (< <= > >=) of one call whose upper 32 bits differ lose one of the rules (`lseek(_, x > 1 << 32)` beside
  `lseek(_, x <= 1)` permits 1 << 31);
* of several conditions in a rule, bounds and != can be dropped, or drop those of another rule;
* with x32 among the architectures, conditions of one call leak into another's.
"""

from __future__ import annotations

import ctypes.util
import json
from functools import cache
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.linux.capabilities import CAPABILITIES
from lamina.runtime.capabilities import DEFAULT_CAPABILITIES
from lamina.runtime.seccomp import compile_filter, resolve_profile
from lamina.runtime.seccomp.architectures import ARCHITECTURES, BY_NAME, system_calls
from lamina.runtime.seccomp.profile import DEFAULT
from support import bpf, libseccomp
from support.profiles import (
    EQUALITIES,
    ORDERS,
    Profile,
    arguments_for,
    interesting,
    narrow_and_large,
    profiles,
    questions,
)

X32_BIT = 0x40000000


@pytest.fixture(autouse=True)
def _needs_libseccomp() -> None:
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("needs libseccomp")


@cache
def both_know(name: str) -> bool:
    """Whether this libseccomp has the same numbers for the call; it is often older than the profile."""
    if name not in system_calls() or libseccomp.resolve(name) == libseccomp.SCMP_ERROR:
        return False
    for architecture in ARCHITECTURES:
        theirs = libseccomp.library().seccomp_syscall_resolve_name_arch(
            libseccomp.TOKENS[architecture.scmp], name.encode()
        )
        if theirs < 0:  # -101 and the like: multiplexed, what it is directly is not told
            multiplexed = -225 <= theirs <= -101
            if not multiplexed and architecture.name in system_calls()[name].numbers:
                return False
        elif theirs != system_calls()[name].numbers.get(architecture.name):
            return False
    return True


def known_to_both(profile: Profile) -> Profile:
    kept = [{**rule, "names": [n for n in rule["names"] if both_know(n)]} for rule in profile["syscalls"]]
    return {**profile, "syscalls": [rule for rule in kept if rule["names"]]}


@pytest.mark.parametrize("optimize", [1, 2])
@pytest.mark.parametrize(
    "capabilities", [DEFAULT_CAPABILITIES, (), tuple(CAPABILITIES)], ids=["default", "none", "all"]
)
@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_default_profile(arch: str, capabilities: tuple[str, ...], optimize: int) -> None:
    """Every number, in every convention, with every argument that the profile speaks of and its neighbours."""
    raw = json.loads(DEFAULT.read_bytes())
    # where we are stricter than libseccomp on purpose, ask for what both agree on: see the next test
    raw["syscalls"].append({"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"})
    profile = known_to_both(resolve_profile(raw, capabilities, arch))
    reference = libseccomp.reference(profile, BY_NAME[arch].scmp, optimize=optimize)
    program = bpf.instructions(compile_filter(profile, arch, newer_fail=False))
    bpf.verify(program)
    conditional: dict[str, list[int]] = {}
    for rule in profile["syscalls"]:
        rule.setdefault("args", [])
    for rule in profile["syscalls"]:
        if rule["args"]:
            conditional.update({name: interesting(profile, name) for name in rule["names"]})
    conventions = ("x86_64", "x86", "x32") if arch == "x86_64" else ("aarch64", "arm")
    calls = system_calls()
    for convention in conventions:
        base = X32_BIT if convention == "x32" else 0
        for number in (*range(600), *range(0xF0000, 0xF0010), 0x3FFFFFFF):
            assert bpf.verdict(program, convention, base | number) == bpf.verdict(
                reference, convention, base | number
            )
        for name, values in conditional.items():
            if convention in calls[name].numbers:
                number = calls[name].numbers[convention]
                narrow = calls[name].narrow or convention in ("x86", "arm")
                for arguments in product([v & 0xFFFFFFFF if narrow else v for v in values], repeat=2):
                    asked = (convention, number, arguments)
                    assert bpf.verdict(program, *asked) == bpf.verdict(reference, *asked), (name, asked)
    for convention, number in (("none", 0), ("x86_64", -1), ("x86", -1), ("aarch64", -1), ("arm", -1)):
        assert bpf.verdict(program, convention, number) == bpf.verdict(reference, convention, number)


def masks_disagree(profile: Profile) -> bool:
    """Whether several equalities of one argument can hold at once and lead to different actions: which of them decides
    is left open by the specification, and depends on the halves of the masks with libseccomp.
    """
    seen: dict[tuple[str, int], set[tuple[int, str]]] = {}
    for rule in profile["syscalls"]:
        for argument in rule.get("args") or []:
            if argument["op"] in EQUALITIES:
                mask = argument["value"] if argument["op"] == "SCMP_CMP_MASKED_EQ" else (1 << 64) - 1
                for name in rule["names"]:
                    seen.setdefault((name, argument["index"]), set()).add((mask, rule["action"]))
    return any(
        len({mask for mask, _ in kinds}) > 1 < len({action for _, action in kinds}) for kinds in seen.values()
    )


def compare(profile: Profile) -> None:
    profile = known_to_both(profile)
    if masks_disagree(profile):
        return
    try:
        reference = libseccomp.reference(profile, optimize=1 + len(profile["syscalls"]) % 2)
    except libseccomp.Refused:  # two actions for the same conditions
        return
    program = bpf.instructions(compile_filter(profile, "x86_64", newer_fail=False))
    bpf.verify(program)
    calls = system_calls()
    for name, convention, number in questions(profile, ("x86_64", "x86")):
        if convention == "x86_64" and narrow_and_large(profile, name):
            continue
        for values in arguments_for(profile, name):
            arguments = tuple(
                value & 0xFFFFFFFF if convention == "x86" or calls[name].narrow >> place & 1 else value
                for place, value in enumerate(values)
            )
            asked = (convention, number, arguments)
            assert bpf.verdict(program, *asked) == bpf.verdict(reference, *asked), (name, asked)


X86 = ("SCMP_ARCH_X86",)
ACTIONS = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO")


@given(profiles(1, (*EQUALITIES, *ORDERS), ACTIONS, architectures=X86, orders_small=True))
def test_one_condition_a_rule_and_several_actions(profile: Profile) -> None:
    compare(profile)


@given(profiles(1, ("SCMP_CMP_NE", *EQUALITIES), architectures=X86))
def test_one_condition_a_rule_and_inequality(profile: Profile) -> None:
    compare(profile)


@given(profiles(3, ("SCMP_CMP_EQ",), architectures=X86))
def test_several_conditions_a_rule(profile: Profile) -> None:
    compare(profile)


@given(st.lists(st.sampled_from(sorted(system_calls())), min_size=1, max_size=50))
@settings(max_examples=max(10, settings().max_examples // 10))
def test_names_alone(names: list[str]) -> None:
    """Including those that x86 multiplexes, which without conditions are the same to both; but not these alone: with no
    rule for the machine's own architecture libseccomp 2.5 forgets those of x86.
    """
    architectures = ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64"]
    profile = known_to_both(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": architectures,
            "syscalls": [{"names": ["read", *names], "action": "SCMP_ACT_ALLOW", "args": []}],
        }
    )
    reference = libseccomp.reference(profile)
    program = bpf.instructions(compile_filter(profile, "x86_64", newer_fail=False))
    for convention in ("x86_64", "x86", "x32", "aarch64", "arm"):
        base = X32_BIT if convention == "x32" else 0
        for number in range(600):
            for first in range(26) if convention == "x86" and number in (102, 117) else (0,):
                asked = (convention, base | number, (first,))
                assert bpf.verdict(program, *asked) == bpf.verdict(reference, *asked), asked


def test_where_we_are_stricter() -> None:
    """libseccomp permits socketcall(SYS_SOCKET, ...) for all families when socket(2) is permitted for some."""
    entry = {
        "names": ["socket"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}],
    }
    profile: Profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [entry],
    }
    program = bpf.instructions(compile_filter(profile, "x86_64"))
    reference = libseccomp.reference(profile)
    assert bpf.verdict(reference, "x86", 102, (1,)) == bpf.ALLOW
    assert bpf.verdict(program, "x86", 102, (1,)) == bpf.errno_verdict(1)
    # and it compares an int in 64 bits, which the kernel then truncates
    entry["args"] = [{"index": 0, "value": 40, "op": "SCMP_CMP_GT"}]
    smuggled = (38 | 1 << 32,)
    assert bpf.verdict(libseccomp.reference(profile), "x86_64", 41, smuggled) == bpf.ALLOW
    assert (
        bpf.verdict(bpf.instructions(compile_filter(profile, "x86_64")), "x86_64", 41, smuggled) != bpf.ALLOW
    )
