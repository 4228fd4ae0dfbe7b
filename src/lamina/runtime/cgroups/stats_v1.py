"""Statistics out of cgroup v1's files: cpuacct.rst, memory.rst, blkio-controller.rst, hugetlb.rst, pids.rst."""

from __future__ import annotations

import os

from lamina.runtime.cgroups.oom import kills_below
from lamina.runtime.cgroups.stats import Cpu, Device, Files, Hugetlb, Memory, Pids, Rdma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# the kernel keeps limits as a number of pages: the greatest that it can say, less up to a page of any size, means none
_UNLIMITED = (1 << 63) - (1 << 34)


def read(paths: dict[str, bytes]) -> dict[str, object]:
    """The parts of Stats that these groups keep."""
    found: dict[str, object] = {}
    for part, controller, reader in _READERS:
        if controller in paths and (amounts := reader(Files(paths[controller]))) is not None:
            found[part] = amounts
    if "cpu" in paths and "cpuacct" not in paths:
        throttled = Files(paths["cpu"]).table("cpu.stat")
        found["cpu"] = Cpu(usage_ns=0, **_throttling(throttled))
    elif "cpu" in paths and isinstance(found.get("cpu"), Cpu):
        from lamina.values import replace

        found["cpu"] = replace(found["cpu"], **_throttling(Files(paths["cpu"]).table("cpu.stat")))
    return found


def _throttling(stat: dict[str, int]) -> dict[str, Any]:
    amounts = {
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled_ns": stat.get("throttled_time", 0),
    }
    if "nr_bursts" in stat:
        amounts |= {"bursts": stat["nr_bursts"], "burst_ns": stat.get("burst_time", 0)}
    return amounts


def _cpu(files: Files) -> Cpu | None:
    usage = files.number("cpuacct.usage")
    if usage is None:
        return None
    user, system = files.number("cpuacct.usage_user"), files.number("cpuacct.usage_sys")
    if user is None or system is None:  # before Linux 4.7: in ticks
        tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        stat = files.table("cpuacct.stat")
        user, system = stat.get("user", 0) * tick, stat.get("system", 0) * tick
    each = tuple(map(int, (files.text("cpuacct.usage_percpu") or "").split()))
    return Cpu(usage, user, system, each)


def _limit(files: Files, name: str) -> int | None:
    limit = files.number(name)
    return limit if limit is not None and limit < _UNLIMITED else None


def _memory(files: Files) -> Memory | None:
    usage = files.number("memory.usage_in_bytes")
    if usage is None:
        return None
    detail = files.table("memory.stat")
    both, limit = files.number("memory.memsw.usage_in_bytes"), _limit(files, "memory.limit_in_bytes")
    both_limit = _limit(files, "memory.memsw.limit_in_bytes")
    return Memory(
        usage_bytes=usage,
        limit_bytes=limit,
        peak_bytes=files.number("memory.max_usage_in_bytes"),
        cache_bytes=detail.get("total_cache", detail.get("cache", 0)),
        rss_bytes=detail.get("total_rss", detail.get("rss", 0)),
        working_set_bytes=max(0, usage - detail.get("total_inactive_file", 0)),
        # the two are read one after the other: the difference may be less than nothing
        swap_bytes=None if both is None else max(0, both - usage),
        swap_limit_bytes=None if both_limit is None else both_limit - (limit or 0),
        # where both limits are the same, that of both together is met first
        failures=(files.number("memory.failcnt") or 0) + (files.number("memory.memsw.failcnt") or 0),
        oom_kills=kills_below(files.place),
        kernel_bytes=files.number("memory.kmem.usage_in_bytes"),
        kernel_tcp_bytes=files.number("memory.kmem.tcp.usage_in_bytes"),
        detail=detail,
    )


def pids(files: Files) -> Pids | None:
    """The same files in both versions."""
    current = files.number("pids.current")
    if current is None:
        return None
    refused = files.table("pids.events").get("max")
    return Pids(current, files.number("pids.max"), files.number("pids.peak"), refused)


def _blkio(files: Files) -> tuple[Device, ...]:
    devices: dict[str, dict[str, int]] = {}
    # what bfq schedules and what is throttled are counted apart; recursive: with the groups below (since Linux 5.3)
    for amount, files_of_it in _BLKIO:
        for name in files_of_it:
            lines = [line.split() for line in (files.text(name) or "").splitlines()]
            rows = [words for words in lines if len(words) == 3]
            for device, what, number in rows:
                if (key := amount.get(what)) is not None:
                    devices.setdefault(device, {})[key] = int(number)
            if rows:
                break
    return tuple(
        Device(*map(int, device.split(":")), **counts) for device, counts in devices.items()
    )  # fmt: skip


_BYTES = {"Read": "read_bytes", "Write": "write_bytes", "Discard": "discard_bytes"}
_OPERATIONS = {"Read": "reads", "Write": "writes", "Discard": "discards"}
_BLKIO = tuple(
    (
        keys,
        tuple(f"blkio.{policy}.{name}{end}" for policy in ("throttle", "bfq") for end in ("_recursive", "")),
    )
    for keys, name in ((_BYTES, "io_service_bytes"), (_OPERATIONS, "io_serviced"))
)


def _hugetlb(files: Files) -> dict[str, Hugetlb]:
    found = {}
    for file in files.names():
        if file.endswith(".usage_in_bytes") and ".rsvd." not in file:
            base = file.removesuffix(".usage_in_bytes")
            found[base.removeprefix("hugetlb.")] = Hugetlb(
                files.number(file) or 0,
                _limit(files, f"{base}.limit_in_bytes"),
                files.number(f"{base}.max_usage_in_bytes"),
                files.number(f"{base}.failcnt") or 0,
            )
    return found


def rdma(files: Files) -> dict[str, Rdma] | None:
    """The same file in both versions."""
    if files.text("rdma.current") is None:
        return None
    return {
        device: Rdma(int(words.get("hca_handle", 0)), int(words.get("hca_object", 0)))
        for device, words in files.nested("rdma.current").items()
    }


_READERS: tuple[tuple[str, str, Callable[[Files], object]], ...] = (
    ("cpu", "cpuacct", _cpu),
    ("memory", "memory", _memory),
    ("pids", "pids", pids),
    ("io", "blkio", _blkio),
    ("hugetlb", "hugetlb", _hugetlb),
    ("rdma", "rdma", rdma),
)
