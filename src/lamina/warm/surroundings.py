"""Whether another process lives as this one does: who it is, what it may, what it sees, what it is counted under.

A client asks at a name that it made of its own surroundings (cli/warm_client.h), which is enough for one that means
well. This is for one that does not: a process in a sandbox, or in a container, must not get something done outside of
it. proc_pid_status(5), namespaces(7), cgroups(7), credentials(7).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# of /proc/PID/status; all that begin with Cap are capability sets
SAME = (
    b"Uid:",
    b"Gid:",
    b"Groups:",
    b"Cap",
    b"Speculation",
    b"THP_enabled:",
    b"Cpus_allowed:",
    b"Mems_allowed:",
)
# who is confined in a way that cannot be compared, or watched, is never like anybody
UNLIKE_ANYBODY = ((b"NoNewPrivs:", b"0"), (b"Seccomp:", b"0"), (b"TracerPid:", b"0"))
NAMESPACES = (
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
)
FILES = ("limits", "cgroup", "oom_score_adj")


class Process:
    """What /proc says of the process *pid*: `same` is equal for two that live alike, None for one like nobody.

    Raises OSError where the process is gone, or hidden from us.
    """

    def __init__(self, pid: int) -> None:
        at = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._status = read(at, "status").splitlines()
            self.same = None
            if all(self._field(key) == value for key, value in UNLIKE_ANYBODY):
                self.same = (
                    *(line for line in self._status if line.startswith(SAME)),
                    *(read(at, name) for name in FILES),
                    _label(at),
                    *(_link(at, f"ns/{name}") for name in NAMESPACES),
                    _root(at),
                )
        finally:
            os.close(at)

    def _field(self, key: bytes) -> bytes:
        return next((line[len(key) :].strip() for line in self._status if line.startswith(key)), b"")

    @property
    def umask(self) -> int:
        """The mask of the modes of what it makes. umask(2)"""
        return int(self._field(b"Umask:"), 8)

    @property
    def ignored(self) -> set[int]:
        """The signals that it ignores."""
        return _signals(self._field(b"SigIgn:"))

    @property
    def blocked(self) -> set[int]:
        """The signals that it blocks."""
        return _signals(self._field(b"SigBlk:"))


def read(at: int, name: str) -> bytes:
    """A whole file of a process's directory."""
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
    try:
        return b"".join(_pieces(file))
    finally:
        os.close(file)


def _pieces(file: int) -> Iterable[bytes]:
    while piece := os.read(file, 1 << 14):
        yield piece


def _label(at: int) -> bytes:
    try:
        return read(at, "attr/current")
    except OSError:  # no security module labels processes here
        return b""


def _link(at: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=at)
    except FileNotFoundError:  # older kernels have no time namespaces
        return ""


def _root(at: int) -> tuple[int, int]:
    found = os.stat("root", dir_fd=at)
    return found.st_dev, found.st_ino


def _signals(mask: bytes) -> set[int]:
    number = int(mask, 16)
    return {signal for signal in range(1, 65) if number >> (signal - 1) & 1}
