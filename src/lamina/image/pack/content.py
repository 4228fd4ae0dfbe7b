"""A file's content into an archive: where it is zeros for long, they are left out as a sparse file's are.

What counts as zeros is decided by the content, in pieces at fixed places, so the archive does not depend on which holes
a file system happens to have; holes only make looking quicker.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENXIO

from lamina.errors import Conflict
from lamina.image.tar.writer import padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.pack.sink import Sink

PIECE = 256 << 10
WORTH_IT = 1 << 20  # shorter files, and fewer zeros than this in all, are written as they are
_ZEROS = bytes(PIECE)
_AT_ONCE = 1 << 20


def pieces_of(fd: int, size: int) -> list[tuple[int, int]] | None:
    """The data of a file with many zeros as (offset, length), None for any other. Raises OSError."""
    if size < 2 * WORTH_IT:
        return None
    found: list[tuple[int, int]] = []
    total = hole = 0
    for offset in range(0, size, PIECE):
        length = min(PIECE, size - offset)
        if offset < hole:
            continue
        if offset + length > hole and (hole := _hole_until(fd, offset, size)) >= offset + length:
            continue
        data = os.pread(fd, length, offset)
        if data == _ZEROS[: len(data)]:
            continue
        total += length
        if found and sum(found[-1]) == offset:
            found[-1] = found[-1][0], found[-1][1] + length
        else:
            found.append((offset, length))
    return found if size - total >= WORTH_IT else None


def _hole_until(fd: int, offset: int, size: int) -> int:
    """Where the hole at *offset* ends, cut to whole pieces; *offset* if there is none."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == ENXIO:
            return size
        if error.errno == EINVAL:
            return offset
        raise
    return data // PIECE * PIECE


def write_content(fd: int, pieces: list[tuple[int, int]], sink: Sink, name: bytes) -> None:
    """Write *pieces* of the file, and the padding. Raises Conflict where it has become shorter, OSError."""
    total = 0
    for offset, length in pieces:
        end = offset + length
        while offset < end:
            data = os.pread(fd, min(_AT_ONCE, end - offset), offset)
            if not data:
                raise Conflict(f"pack {os.fsdecode(name)}: it became shorter while it was read")
            sink.write(data)
            offset += len(data)
        total += length
    sink.write(padding(total))
