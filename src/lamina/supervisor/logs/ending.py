"""Near the end of a log's file: where so many of its last lines begin, found without making entries of all before.

A file of a gigabyte has ten million entries and more, and who looks at a log mostly looks at its last lines.
"""

from __future__ import annotations

import os
import struct

from lamina.errors import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from lamina.supervisor.logs.following import Parser

    class Marks(Protocol):
        """Places in a file at which a record begins, at least one in each BLOCK; the first is 0."""

        def before(self, place: int) -> int:
            """The last one below *place*, which is above 0."""


BLOCK = 1 << 20
BEGINNING = struct.Struct("<II")


def near_end(fd: int, most: int, marks: Marks, parser: Callable[[], Parser]) -> int:
    """A place in the file at which a record begins, and after which there are more than *most* lines; 0 where there are
    no more in it. What *parser* makes reads from there on. Raises Corrupt, OSError.
    """
    end = os.fstat(fd).st_size
    lines = 0
    while end > 0:
        begin = marks.before(end)
        reading, at = parser(), begin
        while at < end and (data := os.pread(fd, min(BLOCK, end - at), at)):
            at += len(data)
            lines += sum(entry.data.count(b"\n") for entry in reading.feed(data))
        if lines > most:
            return begin
        end = begin
    return 0


class LineMarks:
    """Of a file of lines: after each end of one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def before(self, place: int) -> int:
        """See `Marks`."""
        begin = place
        while begin > 0:
            end, begin = min(begin, place - 1), max(0, begin - BLOCK)
            found = os.pread(self._fd, end - begin, begin).find(b"\n") if begin else -1
            if found >= 0:
                return begin + found + 1
        return 0


class FrameMarks:
    """Of a file of frames: from one header to the next, from its beginning. Raises Corrupt where that leads nowhere."""

    def __init__(self, places: list[int]) -> None:
        self._places = places

    def before(self, place: int) -> int:
        """See `Marks`."""
        while self._places and self._places[-1] >= place:
            self._places.pop()
        return self._places[-1] if self._places else 0


def whole_frames(fd: int, size_of_header: int, kinds: bytes, longest: int) -> tuple[list[int], int]:
    """Where frames begin, one for each BLOCK, and where the last whole one ends. A header begins with one of *kinds*,
    three bytes more, and the length of what follows the header. Raises Corrupt, OSError.
    """
    size, known, look = os.fstat(fd).st_size, frozenset(kinds), BEGINNING.unpack_from
    places, at = [0], 0
    while data := os.pread(fd, BLOCK, at):
        last, here = min(len(data), size - at) - size_of_header, 0
        while here <= last:
            kind, length = look(data, here)
            if kind & 0xFF not in known or length > longest:
                raise Corrupt(f"read log: no frame begins at byte {at + here}")
            here += size_of_header + length
        if at + here > size:  # the last one was cut short
            return places, at + here - size_of_header - length
        if not here:  # not even a header is left
            break
        at += here
        places.append(at)
    return places, at
