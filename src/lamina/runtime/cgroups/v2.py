"""cgroup v2: what to write for what is asked, which the specification says in v1's words. cgroup-v2.rst of the kernel.

What v2 cannot express (real-time budgets, kernel memory, swappiness, an OOM killer switched off, classes and priorities
of packets, leaf weights) is refused. Zero means "not set" as in `v1`.
"""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.runtime.cgroups.resources import number, only
from lamina.runtime.cgroups.v1 import device_number, page_size, pids, rate, rdma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.resources import Resources, Setting

# the state of a group, not a resource; what they do has verbs of its own
_NO_RESOURCES = frozenset(
    ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "cgroup.controllers", "cgroup.type", "cgroup.kill",
     "cgroup.freeze", "cgroup.events", "cgroup.stat")
)  # fmt: skip
_CPU = frozenset(("shares", "quota", "period", "burst", "idle", "realtimePeriod", "realtimeRuntime"))
_MEMORY = frozenset(
    ("limit", "swap", "reservation", "kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy",
     "checkBeforeUpdate")
)  # fmt: skip
_RATES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def _refuse(limits: Resources, keys: tuple[str, ...], what: str, why: str) -> None:
    for key in keys:
        if limits.get(key):
            raise Unsupported(f"limit {what}.{key}: cgroup v2 {why}", remedy="leave it out on this host")


def weight_of_shares(shares: int) -> int:
    """`cpu.weight` (1 to 10000, by default 100) for v1's shares (2 to 262144, by default 1024).

    A parabola through minimum, default and maximum, in logarithms: runc since 1.3.2, crun since 1.23 (decision 0020).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def weight_of_blkio(weight: int) -> int:
    """`io.weight` (1 to 10000) for v1's weight (10 to 1000), as every runtime converts it."""
    return 1 + (max(10, min(1000, weight)) - 10) * 9999 // 990


def cpu(limits: Resources) -> list[Setting]:
    """`cpu.weight`, `cpu.max`, `cpu.max.burst`, `cpu.idle`. A quota without a period leaves the period as it is."""
    only(limits, _CPU, "cpu")
    _refuse(limits, ("realtimePeriod", "realtimeRuntime"), "cpu", "has no budget for real-time processes")
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
    _refuse(limits, ("kernel", "kernelTCP"), "memory", "counts the kernel's memory with the rest")
    _refuse(limits, ("disableOOMKiller",), "memory", "cannot switch the OOM killer off")
    if limits.get("swappiness") is not None:
        _refuse({"swappiness": True}, ("swappiness",), "memory", "has no swappiness of a group")
    if limits.get("useHierarchy") is False:
        _refuse({"useHierarchy": True}, ("useHierarchy",), "memory", "always counts hierarchically")
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


def io(limits: Resources) -> list[Setting]:
    """`io.bfq.weight` where bfq is a scheduler, else `io.weight` (converted), and `io.max`."""
    only(limits, frozenset(("weight", "leafWeight", "weightDevice", *_RATES)), "blockIO")
    _refuse(limits, ("leafWeight",), "blockIO", "lets no processes compete with child groups")
    settings: list[Setting] = []
    weight = number(limits, "weight", "blockIO")
    if weight:
        settings.append(_io_weight("default", weight))
    for entry in limits.get("weightDevice") or ():
        _refuse(entry, ("leafWeight",), "blockIO.weightDevice", "lets no processes compete with child groups")
        if amount := number(entry, "weight", "blockIO.weightDevice"):
            settings.append(_io_weight(device_number(entry), amount))
    for key, word in _RATES.items():
        for entry in limits.get(key) or ():
            settings += [("io.max", f"{device_number(entry)} {word}={rate(entry, key) or 'max'}")]
    return settings


def _io_weight(device: str, weight: int) -> Setting:
    return ("io.bfq.weight", f"{device} {weight}", "io.weight", f"{device} {weight_of_blkio(weight)}")


def hugetlb(limits: list[dict[str, Any]]) -> list[Setting]:
    """`hugetlb.<size>.max`, and `.rsvd.max` where the kernel counts what is reserved (since Linux 5.7)."""
    settings: list[Setting] = []
    for entry in limits:
        size, text = page_size(entry), str(number(entry, "limit", "hugepageLimits") or 0)
        settings += [(f"hugetlb.{size}.max", text), (f"hugetlb.{size}.rsvd.max", text)]
    return settings


def unified_settings(asked: dict[str, str], layout: Layout) -> dict[str, list[Setting]]:
    """The specification's `unified`: files of v2 as they are, by controller; the core's own under "".

    They come after everything else: where both speak of the same file this one counts.
    """
    if layout.v2 is None:
        raise Unsupported("limit unified: this host has no cgroup v2", remedy="say it in v1's words")
    found: dict[str, list[Setting]] = {}
    for key, text in asked.items():
        controller, _, rest = key.partition(".")
        if not rest or "/" in key or "\0" in key or key in _NO_RESOURCES:
            raise InvalidInput(f"limit unified: {key!r} is no file of a resource")
        if not isinstance(text, str):
            raise InvalidInput(f"limit unified: the value of {key} is {text!r}, not a string")
        if controller == "cgroup":
            controller = ""
        elif controller not in layout.v2_controllers:
            elsewhere = ", which is a v1 hierarchy here" if controller in layout.v1 else ""
            raise Unsupported(
                f"limit unified: {key} needs the {controller} controller in cgroup v2{elsewhere}",
                remedy="have it enabled and delegated (see `lamina doctor`), or leave the limit out",
            )
        # files with a line for each device take one line at a time
        found.setdefault(controller, []).extend((key, line) for line in text.strip().split("\n"))
    return found


TABLE: dict[str, Callable[[Any], list[Setting]]] = {
    "cpu": cpu,
    "cpuset": cpuset,
    "memory": memory,
    "pids": pids,
    "blkio": io,
    "hugetlb": hugetlb,
    "rdma": rdma,
}
