"""Statistics out of cgroup v2's files: cgroup-v2.rst, psi.rst."""

from __future__ import annotations

from lamina.runtime.cgroups.stats import Cpu, Device, Files, Hugetlb, Memory, Misc, Pressure, Stalled
from lamina.runtime.cgroups.stats_v1 import pids, rdma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MICROSECOND = 1000  # in nanoseconds


def read(place: bytes) -> dict[str, object]:
    """The parts of Stats that the group keeps: cpu.stat and pressure always, others where the controller is there."""
    files = Files(place)
    return {part: amounts for part, reader in _READERS if (amounts := reader(files)) is not None}


def _cpu(files: Files) -> Cpu | None:
    stat = files.table("cpu.stat")
    if "usage_usec" not in stat:
        return None
    bursts = "nr_bursts" in stat
    return Cpu(
        usage_ns=stat["usage_usec"] * _MICROSECOND,
        user_ns=stat.get("user_usec", 0) * _MICROSECOND,
        system_ns=stat.get("system_usec", 0) * _MICROSECOND,
        periods=stat.get("nr_periods", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        throttled_ns=stat.get("throttled_usec", 0) * _MICROSECOND,
        bursts=stat["nr_bursts"] if bursts else None,
        burst_ns=stat.get("burst_usec", 0) * _MICROSECOND if bursts else None,
    )


def _memory(files: Files) -> Memory | None:
    usage = files.number("memory.current")
    if usage is None:
        return None
    detail, events = files.table("memory.stat"), files.table("memory.events")
    return Memory(
        usage_bytes=usage,
        limit_bytes=files.number("memory.max"),
        peak_bytes=files.number("memory.peak"),
        cache_bytes=detail.get("file", 0),
        rss_bytes=detail.get("anon", 0),
        working_set_bytes=max(0, usage - detail.get("inactive_file", 0)),
        swap_bytes=files.number("memory.swap.current"),
        swap_limit_bytes=files.number("memory.swap.max"),
        failures=events.get("max", 0),
        oom_kills=events.get("oom_kill", 0),
        kernel_bytes=detail.get("kernel", detail.get("slab", 0) + detail.get("kernel_stack", 0)),
        kernel_tcp_bytes=detail.get("sock"),
        detail=detail,
    )


def _io(files: Files) -> tuple[Device, ...] | None:
    if files.text("io.stat") is None:
        return None
    names = {
        "rbytes": "read_bytes", "wbytes": "write_bytes", "rios": "reads", "wios": "writes", "dbytes": "discard_bytes",
        "dios": "discards",
    }  # fmt: skip
    found = []
    for device, words in files.nested("io.stat").items():
        counts = {names[key]: int(amount) for key, amount in words.items() if key in names}
        if counts:
            major, minor = map(int, device.split(":"))
            found.append(Device(major, minor, **counts))
    return tuple(found)


def _hugetlb(files: Files) -> dict[str, Hugetlb] | None:
    found = {}
    for file in files.names():
        if file.startswith("hugetlb.") and file.endswith(".current") and ".rsvd." not in file:
            base = file.removesuffix(".current")
            found[base.removeprefix("hugetlb.")] = Hugetlb(
                usage_bytes=files.number(file) or 0,
                limit_bytes=files.number(f"{base}.max"),
                failures=files.table(f"{base}.events").get("max", 0),
            )
    return found or None


def _misc(files: Files) -> dict[str, Misc] | None:
    if files.text("misc.current") is None:
        return None
    limits = files.table("misc.max")
    return {name: Misc(amount, limits.get(name)) for name, amount in files.table("misc.current").items()}


def _pressure(files: Files) -> dict[str, Pressure] | None:
    found = {}
    for resource in ("cpu", "memory", "io", "irq"):
        lines = files.nested(f"{resource}.pressure")
        stalled = {
            which: Stalled(
                float(words["avg10"]),
                float(words["avg60"]),
                float(words["avg300"]),
                int(words["total"]) * _MICROSECOND,
            )
            for which, words in lines.items()
            if "total" in words
        }
        if stalled:
            # of interrupts there is only "full": who waits for one waits as a whole
            some = stalled.get("some") or stalled["full"]
            found[resource] = Pressure(some, stalled.get("full"))
    return found or None


_READERS: tuple[tuple[str, Callable[[Files], object]], ...] = (
    ("cpu", _cpu),
    ("memory", _memory),
    ("pids", pids),
    ("io", _io),
    ("hugetlb", _hugetlb),
    ("rdma", rdma),
    ("misc", _misc),
    ("pressure", _pressure),
)
