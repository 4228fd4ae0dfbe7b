"""What a container uses at one moment: out of its control groups, and of its own network's counters in /proc."""

from __future__ import annotations

import os
import time

from lamina.engine.settling import Process, state_of
from lamina.store.containers import PAUSED, RUNNING
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home


@value
class Usage:
    """Amounts so far: `cpu_ns` nanoseconds on processors, `read_bytes` and `write_bytes` of block devices,
    `received_bytes` and `sent_bytes` of its own network's interfaces but the loopback. Amounts now: `memory_bytes`
    without the page cache that has not been used lately, `pids` processes and threads. `memory_limit_bytes` is the
    machine's memory where it has no limit. `at_ns` is when that was, on a clock of its own.

    None is what nothing can tell: it does not run, is in no control group of that controller, has no network apart.
    """

    at_ns: int
    cpu_ns: int | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    received_bytes: int | None = None
    sent_bytes: int | None = None
    pids: int | None = None

    def cpu_percent(self, before: Usage) -> float | None:
        """The share of one processor that it used since *before*, in percent: up to 100 for each that there is."""
        if self.cpu_ns is None or before.cpu_ns is None or self.at_ns <= before.at_ns:
            return None
        # less than nothing: it was started anew between
        return 100 * max(0, self.cpu_ns - before.cpu_ns) / (self.at_ns - before.at_ns)

    @property
    def memory_percent(self) -> float | None:
        """The share of its limit, in percent."""
        if self.memory_bytes is None or not self.memory_limit_bytes:
            return None
        return 100 * self.memory_bytes / self.memory_limit_bytes


def usage(home: Home) -> Usage:
    """See `Usage`; of one that does not run, nothing. Raises NotFound."""
    if state_of(home) not in (RUNNING, PAUSED):
        return Usage(time.monotonic_ns())
    state = home.read("state") or {}
    with Process(state) as first:
        network, first_pid = _network(first.pid), first.pid
        if not first.is_there:  # the number may be another's by now
            network, first_pid = {}, 0
    found = _groups(state["cgroup"]) if state.get("cgroup") else {}
    if first_pid and found.get("cpu_ns") is None:
        found = {**_processes(first_pid), **{key: what for key, what in found.items() if what is not None}}
    return Usage(time.monotonic_ns(), **found, **network)


def _groups(record: dict[str, Any]) -> dict[str, int | None]:
    from lamina.runtime.cgroups import reopen

    group = reopen(record)
    stats = group.stats()
    found: dict[str, int | None] = {}
    # time on processors is counted by v1's cpuacct, not by its cpu; by v2 always
    if stats.cpu is not None and ("cpuacct" in group.paths or "cpu" not in group.paths):
        found["cpu_ns"] = stats.cpu.usage_ns
    if stats.memory is not None:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
        found["memory_bytes"] = stats.memory.working_set_bytes
        found["memory_limit_bytes"] = min(stats.memory.limit_bytes or whole, whole)
    if stats.pids is not None:
        found["pids"] = stats.pids.current
    if "blkio" in group.paths or os.path.exists(group.paths.get("", b"") + b"/io.stat"):
        found["read_bytes"] = sum(device.read_bytes for device in stats.io)
        found["write_bytes"] = sum(device.write_bytes for device in stats.io)
    return found


def _processes(first: int) -> dict[str, int | None]:
    """What its processes say of themselves, where no control group counts: with the time of those that have ended and
    were waited for, and memory without what is a file's. proc_pid_stat(5), proc_pid_status(5).
    """
    from lamina.engine.processes import members

    ticks, memory, threads = 0, 0, 0
    for pid in members(first, {}):
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
                fields = stat.read(4096).rpartition(b") ")[2].split()
            with open(f"/proc/{pid}/status", "rb", buffering=0) as status:
                lines = dict(line.partition(b":")[::2] for line in status.read(1 << 14).splitlines())
        except OSError:
            continue  # it has ended meanwhile
        ticks += sum(map(int, fields[11:15]))
        memory += sum(int(lines[name].split()[0]) for name in (b"RssAnon", b"RssShmem") if name in lines)
        threads += int(fields[17])
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")
    return {
        "cpu_ns": ticks * (10**9 // os.sysconf("SC_CLK_TCK")),
        "memory_bytes": memory << 10,
        "memory_limit_bytes": whole,
        "pids": threads,
    }


def _network(pid: int) -> dict[str, int | None]:
    """proc_pid_net(5), `dev`: 16 numbers an interface, the first of each half are bytes."""
    try:
        if os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            return {}
        with open(f"/proc/{pid}/net/dev", "rb", buffering=0) as file:
            lines = file.readall().splitlines()[2:]
    except OSError:
        return {}
    amounts = [
        row.split() for name, _, row in (line.partition(b":") for line in lines) if name.strip() != b"lo"
    ]
    return {
        "received_bytes": sum(int(row[0]) for row in amounts),
        "sent_bytes": sum(int(row[8]) for row in amounts),
    }
