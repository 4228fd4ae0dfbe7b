"""`lamina-runtime events`: statistics and out-of-memory kills, as runc writes them: one JSON object a line.

https://github.com/opencontainers/runc/blob/main/types/events.go
"""

from __future__ import annotations

import select
import sys

from lamina.argv.declare import Arguments, Option, Verb
from lamina.document import encode
from lamina.errors import Conflict, Unsupported
from lamina.runtime.container import groups
from lamina.runtime.container.begin import first_process
from lamina.runtime.container.directory import STOPPED
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def seconds(text: str) -> float:
    """A time such as 5s, 500ms, 1m."""
    number = text.rstrip("msh")
    unit = text[len(number) :]
    try:
        found = float(number) * UNITS[unit]
    except (KeyError, ValueError):
        raise ValueError("is not a time such as 5s or 500ms") from None
    if not 0 < found < 1e9:
        raise ValueError("is not a time above 0")
    return found


VERB = Verb(
    "events",
    (
        Option("stats", help="Print the statistics once"),
        Option("interval", "", "TIME", "Print statistics this often (5s)", convert=seconds, default=5.0),
        HELP,
    ),
    (ID,),
)


def do(args: Arguments) -> int:
    """Print them, once or until the container has ended; 0."""
    found = container(args)
    record = found.record()
    if found.status(record) == STOPPED:
        raise Conflict(f"watch container {found.id}: container not running")
    cgroup = groups.of(record)
    if cgroup is None:
        raise Unsupported(f"watch container {found.id}: it has no control groups")
    _say(found.id, "stats", numbers(cgroup.stats()))
    if args.stats:
        return 0
    with first_process(found, record) as pidfd:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        watch = _watch(cgroup, poll)
        while True:
            ready = poll.poll(args.interval * 1000)
            if any(fd == pidfd for fd, _ in ready):
                return 0
            if not ready:
                _say(found.id, "stats", numbers(cgroup.stats()))
            # v1 tells of it a moment before it counts it: so it is asked whatever woke us
            for _ in range(watch.kills() if watch is not None else 0):
                _say(found.id, "oom", None)


def _watch(cgroup: Any, poll: select.poll) -> Any:
    try:
        watch = cgroup.watch_oom()
    except Unsupported:
        return None
    poll.register(watch, watch.events)
    return watch


def _say(identity: str, kind: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": identity}
    if data is not None:
        event["data"] = data
    sys.stdout.write(encode(event) + "\n")
    sys.stdout.flush()


def numbers(stats: Any) -> dict[str, Any]:
    """The statistics in the shape of runc's events; what a controller does not keep is left out."""
    found: dict[str, Any] = {}
    if stats.cpu is not None:
        cpu = stats.cpu
        found["cpu"] = {
            "usage": {
                "total": cpu.usage_ns,
                "percpu": list(cpu.per_cpu_ns),
                "kernel": cpu.system_ns or 0,
                "user": cpu.user_ns or 0,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        }
    if stats.memory is not None:
        found["memory"] = _memory(stats.memory)
    if stats.pids is not None:
        found["pids"] = {"current": stats.pids.current, "limit": stats.pids.limit or 0}
    found["blkio"] = {
        "ioServiceBytesRecursive": _blocks(stats.io, "read_bytes", "write_bytes"),
        "ioServicedRecursive": _blocks(stats.io, "reads", "writes"),
    }
    found["hugetlb"] = {
        size: {"usage": page.usage_bytes, "max": page.peak_bytes or 0, "failcnt": page.failures}
        for size, page in (stats.hugetlb or {}).items()
    }
    return found


def _memory(memory: Any) -> dict[str, Any]:
    # runc's word for no limit is the largest number
    largest = (1 << 64) - 1
    swap_usage = memory.usage_bytes + (memory.swap_bytes or 0)
    no_limit = memory.limit_bytes is None or memory.swap_limit_bytes is None
    return {
        "cache": memory.cache_bytes,
        "usage": {
            "limit": largest if memory.limit_bytes is None else memory.limit_bytes,
            "usage": memory.usage_bytes,
            "max": memory.peak_bytes or 0,
            "failcnt": memory.failures,
        },
        "swap": {
            "limit": largest if no_limit else memory.limit_bytes + memory.swap_limit_bytes,
            "usage": swap_usage,
            "failcnt": 0,
        },
        "raw": dict(memory.detail or {}),
    }


def _blocks(devices: Any, read: str, write: str) -> list[dict[str, Any]]:
    return [
        {"major": device.major, "minor": device.minor, "op": word, "value": getattr(device, key)}
        for device in devices
        for word, key in (("Read", read), ("Write", write))
    ]
