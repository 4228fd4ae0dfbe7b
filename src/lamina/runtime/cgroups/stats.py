"""What a container's control groups have used, as numbers with units: the same values for cgroup v1 and v2.

Names end in their unit: `_ns` nanoseconds, `_bytes` bytes; others are counts. A limit is None where there is none, and
a number None where this kernel or version of cgroups does not keep it. A controller whose group the container has not
is None (its part of the hierarchy), or empty.
"""

from __future__ import annotations

import os

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.cgroups.cgroup import Cgroup


@value
class Cpu:
    """Time on processors. `per_cpu_ns` is v1's alone. Throttling: periods with a quota, how many of them ran out of
    it, and for how long processes waited then; bursts likewise (Linux 5.14)."""

    usage_ns: int
    user_ns: int | None = None
    system_ns: int | None = None
    per_cpu_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    bursts: int | None = None
    burst_ns: int | None = None


@value
class Memory:
    """Memory. `usage_bytes` counts the page cache as well; `working_set_bytes` is what is left without the part of it
    that has not been used lately, which is what monitors compare with the limit.

    `cache_bytes` page cache, `rss_bytes` anonymous memory; `swap_bytes` swap alone (v1's memsw less memory);
    `swap_limit_bytes` likewise (v1: of memory and swap together, less memory's limit); `peak_bytes` the most so far;
    `failures` how often the limit was met; `oom_kills` processes killed; `detail` all of memory.stat.
    """

    usage_bytes: int
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    cache_bytes: int = 0
    rss_bytes: int = 0
    working_set_bytes: int = 0
    swap_bytes: int | None = None
    swap_limit_bytes: int | None = None
    failures: int = 0
    oom_kills: int = 0
    kernel_bytes: int | None = None
    kernel_tcp_bytes: int | None = None
    detail: dict[str, int] | None = None


@value
class Pids:
    """Processes and threads; `refused` how often the limit kept one from being born."""

    current: int
    limit: int | None = None
    peak: int | None = None
    refused: int | None = None


@value
class Device:
    """What was read from and written to one block device: bytes and operations."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    reads: int = 0
    writes: int = 0
    discard_bytes: int = 0
    discards: int = 0


@value
class Hugetlb:
    """Huge pages of one size; `failures` how often the limit was met."""

    usage_bytes: int
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    failures: int = 0


@value
class Rdma:
    """Handles and objects of one RDMA device."""

    handles: int
    objects: int


@value
class Misc:
    """A resource that can only be counted (misc.current): which ones there are is the processor's matter."""

    current: int
    limit: int | None = None


@value
class Stalled:
    """A line of a PSI file: the share of the last 10, 60 and 300 seconds, in percent, and the sum so far."""

    avg10: float
    avg60: float
    avg300: float
    total_ns: int


@value
class Pressure:
    """Pressure stall information (psi.rst): time in which `some` or all (`full`) processes waited for a resource."""

    some: Stalled
    full: Stalled | None = None


@value
class Stats:
    """Everything at one moment. `hugetlb` by page size as in the files' names, `rdma` by device, `misc` by resource,
    `pressure` by "cpu", "memory", "io", "irq"."""

    cpu: Cpu | None = None
    memory: Memory | None = None
    pids: Pids | None = None
    io: tuple[Device, ...] = ()
    hugetlb: dict[str, Hugetlb] | None = None
    rdma: dict[str, Rdma] | None = None
    misc: dict[str, Misc] | None = None
    pressure: dict[str, Pressure] | None = None


def read_stats(cgroup: Cgroup) -> Stats:
    """See `Cgroup.stats`. In a hybrid each controller is read where it is."""
    parts: dict[str, object] = {}
    if "" in cgroup.paths:
        from lamina.runtime.cgroups import stats_v2

        parts.update(stats_v2.read(cgroup.paths[""]))
    if any(cgroup.paths):
        from lamina.runtime.cgroups import stats_v1

        parts.update(stats_v1.read(cgroup.paths))
    return Stats(**parts)  # type: ignore[arg-type]  # each of its field's type


class Files:
    """The files of one group, read and parsed; what is not there is None or empty."""

    def __init__(self, place: bytes) -> None:
        self.place = place

    def text(self, name: str) -> str | None:
        """What the file says, None where it is not there or cannot be read (a controller that is switched off)."""
        try:
            with open(self.place + b"/" + name.encode(), "rb", buffering=0) as file:
                return file.readall().decode(errors="replace")
        except OSError:
            return None

    def names(self) -> list[str]:
        """The files of the group; none when it is gone."""
        try:
            return sorted(os.fsdecode(name) for name in os.listdir(self.place))
        except FileNotFoundError:
            return []

    def number(self, name: str) -> int | None:
        """A single number; None for "max"."""
        text = (self.text(name) or "").strip()
        return int(text) if text.lstrip("-").isdigit() else None

    def table(self, name: str) -> dict[str, int]:
        """Lines of `name number`."""
        found = {}
        for line in (self.text(name) or "").splitlines():
            key, _, amount = line.rpartition(" ")
            if amount.lstrip("-").isdigit():
                found[key] = int(amount)
        return found

    def nested(self, name: str) -> dict[str, dict[str, str]]:
        """Lines of `name key=word key=word`."""
        found = {}
        for line in (self.text(name) or "").splitlines():
            key, *words = line.split()
            found[key] = {k: v for k, equals, v in (word.partition("=") for word in words) if equals}
        return found
