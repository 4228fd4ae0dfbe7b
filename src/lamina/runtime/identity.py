"""Which process it was: a number alone is another process's some day."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_boot = ""


def identity_of(pid: int) -> dict[str, Any]:
    """What tells process *pid* from another one that gets its number later: start time, and this boot."""
    return {"pid": pid, "start_time": _start_time(pid), "boot": boot_id()}


def same_process(pid: int, state: dict[str, Any]) -> bool:
    """Whether *pid* is still the process whose `identity_of` is in *state*."""
    return state.get("boot") == boot_id() and _start_time(pid) == state.get("start_time") is not None


def age(state: dict[str, Any]) -> float:
    """Seconds since the process of `identity_of` in *state* started; no change of the clock disturbs that."""
    import time

    return max(
        0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(state["start_time"]) / os.sysconf("SC_CLK_TCK")
    )


def boot_id() -> str:
    """Differs after every boot of the machine, but not within a life of this program."""
    global _boot
    if not _boot:
        with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
            _boot = file.read().decode().strip()
    return _boot


def _start_time(pid: int) -> int | None:
    """Clock ticks after boot, proc_pid_stat(5) field 22; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            # the name of the program, field 2, may contain anything, also parentheses
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
