"""Seccomp profiles: strategies that make them, and a plain model of what they mean, independent of the compiler."""

from __future__ import annotations

import errno
import functools
from typing import Any

from hypothesis import strategies as st

from lamina.runtime.seccomp.architectures import system_calls

Profile = dict[str, Any]

ALLOW, LOG, TRAP, EPERM = 0x7FFF0000, 0x7FFC0000, 0x00030000, 0x00050000 | errno.EPERM
VALUES = {"SCMP_ACT_ALLOW": ALLOW, "SCMP_ACT_LOG": LOG, "SCMP_ACT_TRAP": TRAP, "SCMP_ACT_ERRNO": EPERM}

# calls with and without 32-bit arguments, of one, two or all conventions; none that x86 multiplexes
NAMES = (
    *(
        "read",
        "write",
        "mmap",
        "lseek",
        "clone",
        "splice",
        "mq_open",
        "execve",
        "openat",
        "personality",
        "fstat64",
    ),
    *("set_tls", "prctl", "ioctl", "fchown32", "rt_sigaction", "no_such_call"),
)
EQUALITIES = ("SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ")
ORDERS = ("SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_GT")
SMALL = (0, 1, 2, 5, 38, 0x7FFFFFFF, 0x80000000, 0x7E020000, 0xFFFFFFFE, 0xFFFFFFFF)
LARGE = (0x100000000, 0x100000005, 0x500000001, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF)

small = st.sampled_from(SMALL) | st.integers(0, 0xFFFFFFFF)
values = small | st.sampled_from(LARGE) | st.integers(0, 0xFFFFFFFFFFFFFFFF)


# made once: Hypothesis labels and validates each strategy that it meets for the first time
one_of_them = functools.cache(st.sampled_from)
yes_or_no = st.booleans()


@functools.cache
def several(least: int, most: int, of: st.SearchStrategy[Any], unique: bool = False) -> Any:
    return st.lists(of, min_size=least, max_size=most, unique=unique)


@functools.cache
@st.composite
def conditions(
    draw: st.DrawFn, index: int, operators: tuple[str, ...], orders_small: bool = False
) -> Profile:
    operator = draw(one_of_them(operators))
    value = draw(small if orders_small and operator in ORDERS else values)
    condition = {"index": index, "op": operator, "value": value}
    if operator == "SCMP_CMP_MASKED_EQ":
        condition["valueTwo"] = draw(values) & (value if draw(yes_or_no) else 0xFFFFFFFFFFFFFFFF)
    return condition


places = st.integers(0, 2)


@functools.cache
@st.composite
def rules(
    draw: st.DrawFn,
    names: tuple[str, ...],
    most: int,
    operators: tuple[str, ...],
    actions: tuple[str, ...],
    repeat: bool,
    orders_small: bool,
) -> Profile:
    """One rule with at most *most* conditions, on the same argument if *repeat*."""
    indices = draw(several(0, most, places, not repeat))
    return {
        "names": draw(several(1, 2, one_of_them(names))),
        "action": draw(one_of_them(actions)),
        "args": [draw(conditions(index, operators, orders_small)) for index in indices],
    }


@st.composite
def profiles(
    draw: st.DrawFn,
    most: int,
    operators: tuple[str, ...],
    actions: tuple[str, ...] = ("SCMP_ACT_ALLOW",),
    *,
    architectures: tuple[str, ...] = (),
    repeat: bool = False,
    orders_small: bool = False,
) -> Profile:
    """A list of rules for a few calls (so that rules meet), each with at most *most* conditions."""
    names = tuple(draw(several(1, 4, one_of_them(NAMES))))
    rule = rules(names, most, operators, actions, repeat, orders_small)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [word for word in architectures if draw(yes_or_no)],
        "syscalls": draw(several(1, 6, rule)),
    }


def questions(profile: Profile, architectures: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """(name, architecture, number) of every call that the profile names, and of one that it does not."""
    named = {name for rule in profile["syscalls"] for name in rule["names"]} | {"getpid"}
    calls = system_calls()
    return [
        (name, architecture, calls[name].numbers[architecture])
        for name in sorted(named & calls.keys())
        for architecture in architectures
        if architecture in calls[name].numbers
    ]


def interesting(profile: Profile, name: str) -> list[int]:
    """Argument values around those that the profile's conditions on the call name."""
    found = {0, 3, 0xFFFFFFFF, 0x100000000, 0xFFFFFFFFFFFFFFFF}
    for rule in profile["syscalls"]:
        if name in rule["names"]:
            for condition in rule["args"]:
                for value in (condition["value"], condition.get("valueTwo", 0)):
                    found |= {
                        value,
                        value + 1,
                        value - 1,
                        value ^ 1 << 32,
                        value & 0xFFFFFFFF,
                        value >> 32 << 32,
                    }
    return sorted(value & 0xFFFFFFFFFFFFFFFF for value in found)


def arguments_for(profile: Profile, name: str, wanted: int = 60) -> list[tuple[int, int, int]]:
    """Three arguments each: the interesting values in different company, about *wanted* of them."""
    values = interesting(profile, name)
    strides = (1, 7, 11)  # values meet others than their neighbours
    return [
        (
            values[at % len(values)],
            values[at * strides[1] % len(values)],
            values[at * strides[2] // 3 % len(values)],
        )
        for at in range(wanted)
    ]


def holds(condition: Profile, arguments: tuple[int, ...], bits: int) -> bool:
    argument, value = arguments[condition["index"]], condition["value"]
    second = condition.get("valueTwo", 0)
    if bits == 32:
        argument, value, second = argument & 0xFFFFFFFF, value & 0xFFFFFFFF, second & 0xFFFFFFFF
    answers: dict[str, bool] = {
        "SCMP_CMP_EQ": argument == value,
        "SCMP_CMP_NE": argument != value,
        "SCMP_CMP_LT": argument < value,
        "SCMP_CMP_LE": argument <= value,
        "SCMP_CMP_GT": argument > value,
        "SCMP_CMP_GE": argument >= value,
        "SCMP_CMP_MASKED_EQ": argument & value == second & value,
    }
    return answers[condition["op"]]


def allowed(profile: Profile, name: str, architecture: str, arguments: tuple[int, ...]) -> bool:
    """Whether a profile whose only action is ALLOW (default ERRNO) allows the call: what the specification says."""
    narrow = system_calls()[name].narrow

    def all_hold(several: list[Profile]) -> bool:
        return all(
            holds(
                c,
                arguments,
                64 if architecture in ("x86_64", "aarch64") and not narrow >> c["index"] & 1 else 32,
            )
            for c in several
        )

    for rule in profile["syscalls"]:
        if name in rule["names"]:
            repeated = len({c["index"] for c in rule["args"]}) < len(rule["args"])
            groups = [[c] for c in rule["args"]] if repeated else [rule["args"]]
            if any(all_hold(group) for group in groups):
                return True
    return False


def narrow_and_large(profile: Profile, name: str) -> bool:
    """Whether a condition compares a 32-bit argument of the call with a larger number."""
    narrow = system_calls()[name].narrow
    return any(
        narrow >> c["index"] & 1 and (c["value"] | c.get("valueTwo", 0)) >> 32
        for rule in profile["syscalls"]
        if name in rule["names"]
        for c in rule["args"]
    )
