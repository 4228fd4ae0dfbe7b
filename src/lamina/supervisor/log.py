"""What a container wrote, on disk: frames of a 16-byte header and the bytes as they were read.

    byte 0        "o" standard output (and a terminal), "e" standard error
    bytes 4..8    length of what follows, little endian
    bytes 8..16   when it was read, nanoseconds since 1970

Frames are only ever appended, each by one writev(2), so a crash can cut short the last one and nothing else; a reader
stops there.
"""

from __future__ import annotations

import os
import struct
import time

from lamina.errors import Corrupt
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<cxxxIQ")
OUT, ERR = b"o", b"e"
STREAMS = {OUT: "stdout", ERR: "stderr"}
# more than is ever read at once: a longer frame is none
LONGEST = 16 << 20


@value
class LogEntry:
    """A piece of output: `stream` is "stdout" or "stderr", `time_ns` counts from 1970, `end` is where it ends in the
    file.
    """

    stream: str
    time_ns: int
    data: bytes
    end: int = 0


class LogWriter:
    """Appends to the log at *path*, which is made. A disk that is full ends the log, never the container: `error`
    keeps what went wrong.
    """

    def __init__(self, path: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        os.fchmod(self._fd, 0o600)
        self._end = os.fstat(self._fd).st_size
        self.error: OSError | None = None

    def write(self, stream: bytes, data: bytes) -> None:
        """Append one frame."""
        if self.error is not None or not data:
            return
        size = HEADER.size + len(data)
        try:
            if os.writev(self._fd, (HEADER.pack(stream, len(data), time.time_ns()), data)) != size:
                os.ftruncate(self._fd, self._end)
                raise OSError(28, "the disk is full")
            self._end += size
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_log(path: bytes, begin: int = 0) -> Iterator[LogEntry]:
    """The entries of the log at *path* from byte *begin* on, oldest first; none where there is none. Raises Corrupt."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with open(descriptor, "rb") as file:
        file.seek(begin)
        while len(header := file.read(HEADER.size)) == HEADER.size:
            stream, length, time_ns = HEADER.unpack(header)
            if stream not in STREAMS or length > LONGEST:
                raise Corrupt(
                    f"read {os.fsdecode(path)}: no frame begins at byte {file.tell() - HEADER.size}"
                )
            data = file.read(length)
            if len(data) < length:
                return  # being written, or cut short by a crash
            yield LogEntry(STREAMS[stream], time_ns, data, file.tell())
