"""cgroup v2: what to write for what is asked, which the specification says in v1's words. cgroup-v2.rst of the kernel.

What v2 cannot express (real-time budgets, kernel memory, swappiness, an OOM killer switched off, classes and priorities
of packets, leaf weights) is refused. Zero means "not set" as in `v1`.
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.cgroups.resources import number, only
from lamina.runtime.cgroups.v1 import pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.cgroups.resources import Resources, Setting

_CPU = frozenset(("shares", "quota", "period", "burst", "idle", "realtimePeriod", "realtimeRuntime"))
_MEMORY = frozenset(
    ("limit", "swap", "reservation", "kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy",
     "checkBeforeUpdate")
)  # fmt: skip


def refuse(limits: Resources, keys: tuple[str, ...], what: str, why: str) -> None:
    """Raise Unsupported when any of *keys* is asked for."""
    for key in keys:
        if limits.get(key):
            raise Unsupported(f"limit {what}.{key}: cgroup v2 {why}", remedy="leave it out on this host")


def weight_of_shares(shares: int) -> int:
    """`cpu.weight` (1 to 10000, by default 100) for v1's shares (2 to 262144, by default 1024).

    A parabola through minimum, default and maximum, in logarithms: runc since 1.3.2, crun since 1.23 (decision 0014).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def cpu(limits: Resources) -> list[Setting]:
    """`cpu.weight`, `cpu.max`, `cpu.max.burst`, `cpu.idle`. A quota without a period leaves the period as it is."""
    only(limits, _CPU, "cpu")
    refuse(limits, ("realtimePeriod", "realtimeRuntime"), "cpu", "has no budget for real-time processes")
    settings: list[Setting] = []
    shares, quota = number(limits, "shares", "cpu"), number(limits, "quota", "cpu")
    period, burst, idle = (number(limits, key, "cpu") for key in ("period", "burst", "idle"))
    if shares:
        settings.append(("cpu.weight", str(weight_of_shares(shares))))
    if quota or period:
        most = str(quota) if quota and quota > 0 else "max"
        settings.append(("cpu.max", f"{most} {period}" if period else most))
    if burst is not None:
        settings.append(("cpu.max.burst", str(burst)))
    if idle is not None:
        # after the weight: an idle group refuses one
        settings.append(("cpu.idle", str(idle)))
    return settings


def cpuset(limits: Resources) -> list[Setting]:
    """`cpuset.cpus` and `cpuset.mems`."""
    return [(f"cpuset.{key}", str(limits[key])) for key in ("cpus", "mems") if limits.get(key)]


def memory(limits: Resources) -> list[Setting]:
    """`memory.max`, `memory.swap.max` (swap alone, where v1 counts memory and swap together), `memory.low`."""
    only(limits, _MEMORY, "memory")
    refuse(limits, ("kernel", "kernelTCP"), "memory", "counts the kernel's memory with the rest")
    refuse(limits, ("disableOOMKiller",), "memory", "cannot switch the OOM killer off")
    if limits.get("swappiness") is not None:
        refuse({"swappiness": True}, ("swappiness",), "memory", "has no swappiness of a group")
    if limits.get("useHierarchy") is False:
        refuse({"useHierarchy": True}, ("useHierarchy",), "memory", "always counts hierarchically")
    settings: list[Setting] = []
    limit, swap = number(limits, "limit", "memory"), number(limits, "swap", "memory")
    reservation = number(limits, "reservation", "memory")
    if limit and limit < 0 and not swap:
        swap = -1  # as v1 has it: no limit for memory is none for both
    if swap:
        # before the limit: what is to be swapped out when the limit is set must have a place
        settings.append(("memory.swap.max", _swap_alone(limit, swap)))
    if limit:
        settings.append(("memory.max", _bytes(limit)))
    if reservation:
        settings.append(("memory.low", _bytes(reservation)))
    return settings


def _bytes(amount: int) -> str:
    return "max" if amount < 0 else str(amount)


def _swap_alone(limit: int | None, swap: int) -> str:
    if swap < 0:
        return "max"
    if not limit or limit < 0:
        raise InvalidInput(
            "limit memory.swap: memory and swap together are limited, but memory is not",
            remedy="set memory.limit as well",
        )
    if swap < limit:
        raise InvalidInput(f"limit memory.swap: {swap} for memory and swap is less than {limit} for memory")
    return str(swap - limit)


TABLE: dict[str, Callable[[Any], list[Setting]]] = {
    "cpu": cpu,
    "cpuset": cpuset,
    "memory": memory,
    "pids": pids,
}


def table(part: str) -> Callable[[Any], list[Setting]]:
    """The function for the controller *part* (v1's name); those that are seldom asked for are loaded when they are."""
    if part in TABLE:
        return TABLE[part]
    from lamina.runtime.cgroups import v2_io

    return v2_io.TABLE[part]
