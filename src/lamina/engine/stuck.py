"""Who holds a container and cannot let go of it, because somebody has stopped that process (SIGSTOP, a debugger)."""

from __future__ import annotations

import os

from lamina.engine.settling import SIGKILL, Process, wake_supervisor
from lamina.errors import Conflict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home


def free(home: Home, verb: str, state: dict[str, Any] | None, *, last: bool) -> None:
    """See to it that a holder that is stopped lets go of the container: its supervisor goes on, or, where that was
    tried before (*last*), is killed, which loses nothing. Somebody's program is not ours to let go on. Raises
    Conflict, naming it.
    """
    pid = holder(home)
    if not pid or not is_stopped(pid):
        return
    supervisor = (state or {}).get("supervisor") or {}
    if supervisor.get("pid") != pid:
        raise Conflict(
            f"{verb} container {home.short_id}: process {pid}, which has it in hand, is stopped",
            remedy=f"let it go on with 'kill -CONT {pid}', or end it",
        )
    if last:
        end_supervisor(home)
    else:
        wake_supervisor(state or {})


def end_supervisor(home: Home) -> None:
    """Kill who looks after the container, if that is a process of ours: nothing is lost. Raises Corrupt."""
    with Process((home.read("state") or {}).get("supervisor")) as process:
        process.send(SIGKILL)


def holder(home: Home) -> int:
    """The process that took the container's lock; 0 where the kernel does not tell us. See proc_locks(5)."""
    path = home.path + b"/lock"
    try:
        inode = b":%d" % os.stat(path).st_ino
        with open("/proc/locks", "rb") as table:
            found = [line.split() for line in table if b"FLOCK" in line]
    except OSError:
        return 0
    for _, kind, _, how, pid, file, *_ in (words for words in found if len(words) == 8):
        if (kind, how) == (b"FLOCK", b"WRITE") and file.endswith(inode) and _has_open(int(pid), path):
            return int(pid)
    return 0


def _has_open(pid: int, path: bytes) -> bool:
    """Files of other file systems have the same inode numbers."""
    place = b"/proc/%d/fd" % pid
    try:
        names = os.listdir(place)
    except OSError:
        return False
    return any(_leads_to(place + b"/" + name, path) for name in names)


def _leads_to(link: bytes, path: bytes) -> bool:
    try:
        return os.readlink(link) == path
    except OSError:  # closed meanwhile
        return False


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped, by a signal or by who traces it."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except (OSError, IndexError):
        return False
