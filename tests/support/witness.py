"""What happens in a directory while a test runs, also what is taken back before it ends (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

OPEN, CHANGES = 0x20, 0x4 | 0x40 | 0x80 | 0x100 | 0x200  # IN_ATTRIB, IN_MOVED_*, IN_CREATE, IN_DELETE
_EVENT = struct.Struct("=iIII")


class Witness:
    """From now on it notes what is done to the entries of *directory*, of the kinds in *mask*."""

    def __init__(self, directory: Path, mask: int = CHANGES) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._fd >= 0
        assert libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) >= 0

    def names(self) -> set[str]:
        """The entries concerned so far; "" for the directory itself."""
        found: set[str] = set()
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(data):
                _, _, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                found.add(data[at - length : at].rstrip(b"\0").decode())

    def close(self) -> None:
        os.close(self._fd)
