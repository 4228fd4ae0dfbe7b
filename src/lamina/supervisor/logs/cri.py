"""The driver "k8s-file": lines as the kubelet, and podman, read them.

    2026-01-31T12:00:00.123456789Z stdout F hello

F ends a line, P is a part of one that goes on in the next line of the same stream. kubernetes, CRI logging format
"""

from __future__ import annotations

import time

from lamina.supervisor.logs import LogEntry
from lamina.supervisor.logs.lines import LONGEST_LINE, moment, time_of
from lamina.supervisor.logs.rotation import Rotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS = {b"o": b"stdout", b"e": b"stderr"}


class CriWriter:
    """Appends to the log at *path*; see `Rotated` for *most* and *files*."""

    def __init__(self, path: bytes, most: int = 0, files: int = 1) -> None:
        self._file = Rotated(path, most, files)
        self._file.end_line()

    @property
    def error(self) -> OSError | None:
        """What ended it."""
        return self._file.error

    def write(self, stream: bytes, data: bytes) -> None:
        """Append what was read, at once."""
        *lines, rest = data.split(b"\n")
        head = moment(time.time_ns(), fixed=True) + b" " + STREAMS[stream]
        for line in lines:
            while len(line) > LONGEST_LINE:
                self._file.append(head, b" P ", line[:LONGEST_LINE], b"\n")
                line = line[LONGEST_LINE:]
            self._file.append(head, b" F ", line, b"\n")
        for at in range(0, len(rest), LONGEST_LINE):
            self._file.append(head, b" P ", rest[at : at + LONGEST_LINE], b"\n")

    def rest(self) -> bool:
        """Everything is written down at once."""
        return True

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()


class CriLines:
    """Reads a file's bytes as they come. A line that is none (cut short by a crash) is passed over."""

    def __init__(self, name: str = "log") -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that end in *data*."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            when, _, rest = line.partition(b" ")
            stream, _, rest = rest.partition(b" ")
            kind, space, text = rest.partition(b" ")
            if not space or kind not in (b"F", b"P") or stream not in STREAMS.values():
                continue
            try:
                moment_ns = time_of(when.decode())
            except ValueError:
                continue
            yield LogEntry(stream.decode(), moment_ns, text + b"\n" if kind == b"F" else text)
