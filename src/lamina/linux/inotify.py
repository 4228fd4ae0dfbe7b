"""Being told of changes of files and directories. inotify(7)."""

from __future__ import annotations

import os
import struct

from lamina.linux.call import encoded, opened, syscall
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.linux.call import Path

# include/uapi/linux/inotify.h
IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x02, 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF = 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED = 0x4000, 0x8000
IN_ONLYDIR = 0x01000000
# struct inotify_event without the name behind it: wd, mask, cookie, len
_EVENT = struct.Struct("=iIII")


def inotify_init1(flags: int) -> Fd:
    """A descriptor that becomes readable when something happens. *flags*: O_NONBLOCK, O_CLOEXEC. inotify_init1(2)

    EMFILE: this user has as many as he may.
    """
    return opened("inotify_init1", flags)


def inotify_add_watch(fd: int, path: Path, mask: int) -> int:
    """Tell of *mask* at *path*; the number of the watch, the same for the same file. inotify_add_watch(2)

    ENOSPC: this user watches as much as he may.
    """
    return syscall("inotify_add_watch", fd, encoded(path), mask, target=path)


def inotify_rm_watch(fd: int, wd: int) -> None:
    """Tell of that no longer; IN_IGNORED is the last that is heard of it. inotify_rm_watch(2)"""
    syscall("inotify_rm_watch", fd, wd)


def read_events(fd: int) -> Iterator[tuple[int, int]]:
    """What happened, as (watch, mask). Raises BlockingIOError."""
    data, at = os.read(fd, 1 << 16), 0
    while at < len(data):
        wd, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        yield wd, mask
