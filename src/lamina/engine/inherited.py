"""What a child of this thread would have from it, and keep as a supervisor: whether another process that was started by
this program earlier, and has it from then, would have children that are like its own.

Signals, descriptors, the umask and the working directory are not among it: a supervisor gives these up (`detaching`).
Nor is a session keyring, which a container has of its own. Sources: fork(2), execve(2), proc_pid_status(5),
namespaces(7), ld.so(8).
"""

from __future__ import annotations

import os
from functools import partial

from lamina.errors import KernelError, Unsupported
from lamina.linux import attributes
from lamina.linux.constants import (
    PR_GET_CHILD_SUBREAPER,
    PR_GET_SECUREBITS,
    PR_GET_THP_DISABLE,
    PR_GET_TIMERSLACK,
)
from lamina.linux.fd import Fd
from lamina.linux.process import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# of /proc/PID/status; all that begin with Cap are capability sets
_STATUS = (
    b"Uid:",
    b"Gid:",
    b"Groups:",
    b"Cap",
    b"NoNewPrivs:",
    b"Seccomp",  # and how many filters
    b"Speculation",
    b"Cpus_allowed:",
    b"Mems_allowed:",
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts")
_FILES = (
    "cgroup",
    "limits",
    "oom_score_adj",
    "attr/current",
    "attr/exec",
    "loginuid",
    "sessionid",
)
# what the interpreter, the C library and its loader read when they begin
_EARLY, _EARLY_PREFIXES = (
    (b"LC_ALL", b"LC_CTYPE", b"LANG", b"GLIBC_TUNABLES", b"LOCPATH"),
    (b"LD_", b"MALLOC_"),
)
_CLAMPS = 48  # where these begin in struct sched_attr


def inherited() -> tuple[Any, ...]:
    """All of it, to be compared; first what `rights` are. Raises OSError where there is no /proc."""
    return (
        rights(),
        _read(-1, "/proc/self/coredump_filter"),
        os.getpriority(os.PRIO_PROCESS, 0),
        *(_asked(ask) for ask in _ASKED),
        *((name, os.environb.get(name)) for name in sorted(os.environb) if _is_early(name)),
    )


def rights(process: str = "thread-self") -> tuple[Any, ...]:
    """What /proc says of it, of this thread or of the first one of a *process*, a pid. Raises OSError where that is
    gone, or not to be looked at.
    """
    at = os.open(f"/proc/{process}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = [line for line in _read(at, "status").splitlines() if line.startswith(_STATUS)]
        root = os.stat("root", dir_fd=at)
        return (
            *status,
            *(_read(at, name) for name in _FILES),
            *(_link(at, f"ns/{name}") for name in _NAMESPACES),
            (root.st_dev, root.st_ino),
            _link(at, "root"),  # which mount of that directory: for who looks from outside
        )
    finally:
        os.close(at)


def _asked(ask: Callable[[], Any]) -> Any:
    """None where this kernel, or a filter of system calls, has no answer."""
    try:
        return ask()
    except (KernelError, Unsupported):
        return None


def _scheduling() -> tuple[bytes, bytes]:
    """Policy, flags, nice and priority, and the clamps: what lies between tells of the slice, which may be any."""
    found = attributes.sched_getattr()
    return found[4:24], found[_CLAMPS:]


def _subreaper() -> bytes:
    """Whose child a supervisor becomes."""
    found = bytearray(4)
    prctl(PR_GET_CHILD_SUBREAPER, found)
    return bytes(found)


def _is_early(variable: bytes) -> bool:
    return variable in _EARLY or variable.startswith(_EARLY_PREFIXES)


def _read(at: int, name: str) -> bytes:
    pieces = []
    try:
        with Fd(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)) as file:
            while piece := os.read(file, 1 << 14):
                pieces.append(piece)
    except OSError:  # no security module labels processes here
        return b""
    return b"".join(pieces)


def _link(at: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=at)
    except FileNotFoundError:  # older kernels have no time namespaces
        return ""


_ASKED: tuple[Callable[[], Any], ...] = (
    _scheduling,
    attributes.ioprio_get,
    attributes.personality,
    attributes.get_mempolicy,
    partial(prctl, PR_GET_SECUREBITS),
    partial(prctl, PR_GET_TIMERSLACK),
    partial(prctl, PR_GET_THP_DISABLE),
    _subreaper,
)
