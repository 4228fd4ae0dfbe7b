"""cgroup v1: what to write for what is asked. Documentation/admin-guide/cgroup-v1/ of the kernel.

Zero means "not set" where the specification's authors read it so (runc): shares, quota, period, weights and memory.
"""

from __future__ import annotations

from lamina.runtime.cgroups.resources import number, only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.cgroups.resources import Resources, Setting

# in the order in which they are written: memory and swap together must never be less than memory alone
_CPU = {
    "shares": "cpu.shares",
    "period": "cpu.cfs_period_us",
    "quota": "cpu.cfs_quota_us",
    "burst": "cpu.cfs_burst_us",
    "realtimePeriod": "cpu.rt_period_us",
    "realtimeRuntime": "cpu.rt_runtime_us",
    "idle": "cpu.idle",
}
_MEMORY = {
    "limit": "memory.limit_in_bytes",
    "swap": "memory.memsw.limit_in_bytes",
    "reservation": "memory.soft_limit_in_bytes",
    "kernel": "memory.kmem.limit_in_bytes",
    "kernelTCP": "memory.kmem.tcp.limit_in_bytes",
}
_MEMORY_SWITCHES = {
    "swappiness": "memory.swappiness",
    "disableOOMKiller": "memory.oom_control",
    "useHierarchy": "memory.use_hierarchy",
}
_UNSET_IS_ZERO = frozenset(
    ("shares", "period", "quota", "realtimePeriod", "limit", "swap", "reservation", "kernel", "kernelTCP")
)


def _plain(table: dict[str, str], limits: Resources, what: str) -> list[Setting]:
    settings: list[Setting] = []
    for key, file in table.items():
        amount = number(limits, key, what)
        if amount is not None and not (amount == 0 and key in _UNSET_IS_ZERO):
            settings.append((file, str(amount)))
    return settings


def cpu(limits: Resources) -> list[Setting]:
    """Shares, quota and the real-time budget: sched-bwc.rst, sched-rt-group.rst."""
    only(limits, frozenset(_CPU), "cpu")
    return _plain(_CPU, limits, "cpu")


def cpuset(limits: Resources) -> list[Setting]:
    """Processors and memory nodes: cpusets.rst."""
    return [(f"cpuset.{key}", str(limits[key])) for key in ("cpus", "mems") if limits.get(key)]


def memory(limits: Resources) -> list[Setting]:
    """Memory, alone and with swap: memory.rst."""
    only(limits, frozenset((*_MEMORY, *_MEMORY_SWITCHES, "checkBeforeUpdate")), "memory")
    settings = _plain(_MEMORY, limits, "memory")
    for key, file in _MEMORY_SWITCHES.items():
        if limits.get(key) is not None:
            settings.append((file, str(int(limits[key]))))
    return settings


def pids(limits: Resources) -> list[Setting]:
    """The number of processes and threads; the same file in both versions: pids.rst."""
    only(limits, frozenset(("limit",)), "pids")
    limit = number(limits, "limit", "pids")
    return [] if limit is None else [("pids.max", str(limit) if limit > 0 else "max")]


TABLE: dict[str, Callable[[Any], list[Setting]]] = {
    "cpu": cpu,
    "cpuset": cpuset,
    "memory": memory,
    "pids": pids,
}


def table(part: str) -> Callable[[Any], list[Setting]]:
    """The function for the controller *part*; those that are seldom asked for are loaded when they are."""
    if part in TABLE:
        return TABLE[part]
    from lamina.runtime.cgroups import v1_io

    return v1_io.TABLE[part]
