"""The driver "local": frames of a 16-byte header and the bytes as they were read.

    byte 0        "o" standard output (and a terminal), "e" standard error, "c" nothing: it was closed in good order
    bytes 4..8    length of what follows, little endian
    bytes 8..16   when it was read, nanoseconds since 1970

Frames are only ever appended, each by one writev(2), so a crash can cut short the last one and nothing else. Whoever
goes on with a log whose last frame does not say that it was closed looks for the last whole one and cuts there.
"""

from __future__ import annotations

import os
import struct
import time

from lamina.errors import Corrupt
from lamina.supervisor.logs import LogEntry
from lamina.supervisor.logs.rotation import Rotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<cxxxIQ")
OUT, ERR, CLOSED = b"o", b"e", b"c"
STREAMS = {OUT: "stdout", ERR: "stderr"}
# more than is ever read at once: a longer frame is none
LONGEST = 16 << 20


class LogWriter:
    """Appends to the log at *path*, which is made; see `Rotated` for *most* and *files*."""

    def __init__(self, path: bytes, most: int = 0, files: int = 1) -> None:
        self._file = Rotated(path, most, files)
        self._wrote = False
        _mend(self._file.fd)

    @property
    def error(self) -> OSError | None:
        """What ended it."""
        return self._file.error

    def write(self, stream: bytes, data: bytes) -> None:
        """Append one frame."""
        if data:
            self._wrote = True
            self._file.append(HEADER.pack(stream, len(data), time.time_ns()), data)

    def rest(self) -> bool:
        """Everything is written down: note that, so that who goes on need not look for the end."""
        if self._wrote and self._file.fd >= 0:
            self._file.append(HEADER.pack(CLOSED, 0, time.time_ns()))
            self._wrote = False
        return True

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self.rest()
        self._file.close()


def _mend(fd: int) -> None:
    """Cut off what a crash left of the last frame."""
    size = os.fstat(fd).st_size
    if not size:
        return
    last = os.pread(fd, HEADER.size, max(0, size - HEADER.size))
    if len(last) == HEADER.size and HEADER.unpack(last)[:2] == (CLOSED, 0):
        return
    try:
        _, whole = whole_frames(fd)
    except Corrupt:
        return  # none of ours: a reader says so, or meets where somebody cut it
    if whole != size:
        os.ftruncate(fd, whole)


def whole_frames(fd: int) -> tuple[list[int], int]:
    """See `ending.whole_frames`."""
    from lamina.supervisor.logs import ending

    return ending.whole_frames(fd, HEADER.size, OUT + ERR + CLOSED, LONGEST)


class Frames:
    """Reads frames from a file's bytes as they come. `whole` is how many of them belong to whole frames."""

    def __init__(self, name: str = "log") -> None:
        self.name, self.whole = name, 0
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that end in *data*. Raises Corrupt."""
        data = self._rest + data
        at = 0
        try:
            while len(data) - at >= HEADER.size:
                stream, length, time_ns = HEADER.unpack_from(data, at)
                if (stream not in STREAMS and stream != CLOSED) or length > LONGEST:
                    raise Corrupt(f"read {self.name}: no frame begins at byte {self.whole}")
                end = at + HEADER.size + length
                if end > len(data):
                    break
                self.whole += end - at
                begin, at = at + HEADER.size, end
                if stream != CLOSED:
                    yield LogEntry(STREAMS[stream], time_ns, data[begin:end])
        finally:
            self._rest = data[at:]
