"""Resource limits: what a process starts with when nothing was asked (getrlimit(2))."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput
from lamina.linux.procfs import INFINITY, effective_capabilities, hard_limits, in_first_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAP_SYS_RESOURCE = 24
NUMBERS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_MIB = 1 << 20
# The kernel's own first values (include/asm-generic/resource.h), with the soft limits that systemd gives services.
# Where a number depends on the machine (NPROC, SIGPENDING) the hard limit stands for it.
_DEFAULTS = {
    "RLIMIT_STACK": (8 * _MIB, INFINITY),
    "RLIMIT_CORE": (0, INFINITY),
    "RLIMIT_NOFILE": (1024, 1 << 20),
    "RLIMIT_MEMLOCK": (8 * _MIB, 8 * _MIB),
    "RLIMIT_MSGQUEUE": (819200, 819200),
    "RLIMIT_NICE": (0, 0),
    "RLIMIT_RTPRIO": (0, 0),
}


def effective_limits(
    asked: list[dict[str, Any]], capabilities: int | None = None, *, mapped: bool = False
) -> tuple[tuple[tuple[int, int, int], ...], tuple[str, ...]]:
    """Every limit as (number, soft, hard), and which of those asked for had to be lowered to the caller's hard limit.

    *capabilities* are the caller's effective ones, if they are known already. *mapped*: the process will be in a user
    namespace. Hard limits are raised by root of the first one alone, whatever capabilities another one's root has
    (getrlimit(2); kernel/sys.c, do_prlimit). Raises InvalidInput for an unknown name, one that is listed twice, or a
    soft limit above the hard one.
    """
    wanted = {}
    for limit in asked:
        name = limit["type"]
        if name not in NUMBERS:
            raise InvalidInput(f"set limit {name}: the names are {', '.join(sorted(NUMBERS))}")
        if name in wanted:
            raise InvalidInput(f"set limit {name}: it is listed twice", remedy="keep one of them")
        soft, hard = int(limit["soft"]) & INFINITY, int(limit["hard"]) & INFINITY
        if soft > hard:
            raise InvalidInput(f"set limit {name}: the soft limit {soft} is above the hard limit {hard}")
        wanted[name] = (soft, hard)
    if capabilities is None:
        capabilities = 0 if os.geteuid() else effective_capabilities()
    may_raise = not mapped and not os.geteuid() and capabilities >> _CAP_SYS_RESOURCE & 1
    ceilings = {} if may_raise and in_first_user_namespace() else hard_limits()
    whose = "which cannot be raised in a user namespace" if mapped else "who may not raise it"
    limits, lowered = [], []
    for name, number in NUMBERS.items():
        ceiling = ceilings.get(number, INFINITY)
        soft, hard = wanted.get(name) or _DEFAULTS.get(name, (INFINITY, INFINITY))
        if hard > ceiling:
            if name in wanted:
                lowered.append(f"{name} is {ceiling}: the hard limit of the caller, {whose}")
            hard = ceiling
        limits.append((number, min(soft, hard), hard))
    return tuple(limits), tuple(lowered)


def lowered_limits(process: dict[str, Any], linux: dict[str, Any]) -> tuple[str, ...]:
    """Which of the limits of `process` had to be lowered, in words."""
    asked = process.get("rlimits")
    return effective_limits(asked, mapped=is_mapped(linux))[1] if asked else ()


def is_mapped(linux: dict[str, Any]) -> bool:
    """Whether `linux.namespaces` has a user namespace, made or joined."""
    return any(namespace["type"] == "user" for namespace in linux.get("namespaces") or [])
