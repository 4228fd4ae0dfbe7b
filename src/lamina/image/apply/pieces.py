"""Content of a file written as it comes, holes left out."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.tar.entry import Entry


def write_pieces(fd: int, entry: Entry) -> None:
    """Write what the archive has for *entry* to the new, empty file *fd*. Raises Corrupt, OSError."""
    if entry.sparse is None:
        for chunk in entry.chunks():
            _write(fd, chunk)
        return
    os.ftruncate(fd, entry.size)
    pieces = iter(entry.sparse)
    left = 0
    for chunk in entry.chunks():
        while chunk:
            if not left:
                offset, left = next(pieces)
                os.lseek(fd, offset, os.SEEK_SET)
            _write(fd, chunk[:left])
            done = min(left, len(chunk))
            left -= done
            chunk = chunk[done:]


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
