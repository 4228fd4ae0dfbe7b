"""The driver "json-file": docker's, to the byte, so that whatever reads docker's logs reads these.

    {"log":"hello\\n","stream":"stdout","time":"2026-01-31T12:00:00.123456789Z"}

A line of output is one of the log; one that is longer than 16 KiB, or has no end, is several, of which only the last
has the line break. moby, daemon/logger/jsonfilelog and daemon/logger/copier.go
"""

from __future__ import annotations

import json
import time

from lamina.supervisor.logs import LogEntry
from lamina.supervisor.logs.lines import LONGEST_LINE, moment, time_of
from lamina.supervisor.logs.rotation import Rotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

STREAMS = {b"o": "stdout", b"e": "stderr"}
# as docker writes them; each byte that is no UTF-8 becomes the escaped replacement character
_ESCAPES: dict[int, str] = {number: f"\\u{number:04x}" for number in (*range(32), *b"<>&", 0x2028, 0x2029)}
_ESCAPES |= {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r"}
_ESCAPES |= {0xDC00 + byte: "\\ufffd" for byte in range(128, 256)}


class JsonWriter:
    """Appends to the log at *path*; see `Rotated` for *most* and *files*. *attributes* go into each line."""

    def __init__(
        self, path: bytes, most: int = 0, files: int = 1, attributes: Mapping[str, str] | None = None
    ) -> None:
        self._file = Rotated(path, most, files)
        self._begun = {b"o": b"", b"e": b""}
        self._attributes = b""
        if attributes:
            pairs = ",".join(f"{_quoted(key)}:{_quoted(text)}" for key, text in sorted(attributes.items()))
            self._attributes = b'"attrs":{' + pairs.encode() + b"},"
        self._file.end_line()

    @property
    def error(self) -> OSError | None:
        """What ended it."""
        return self._file.error

    def write(self, stream: bytes, data: bytes) -> None:
        """Append the lines that end in *data*; what is left waits for its end."""
        *lines, rest = (self._begun[stream] + data).split(b"\n")
        now = moment(time.time_ns())
        for line in lines:
            self._line(stream, line + b"\n", now)
        while len(rest) >= LONGEST_LINE:
            self._put(stream, rest[:LONGEST_LINE], now)
            rest = rest[LONGEST_LINE:]
        self._begun[stream] = rest

    def _line(self, stream: bytes, line: bytes, now: bytes) -> None:
        while len(line) - 1 > LONGEST_LINE:
            self._put(stream, line[:LONGEST_LINE], now)
            line = line[LONGEST_LINE:]
        self._put(stream, line, now)

    def _put(self, stream: bytes, line: bytes, now: bytes) -> None:
        text = line.decode("utf-8", "surrogateescape").translate(_ESCAPES).encode()
        name = STREAMS[stream].encode()
        end = b'"time":"' + now + b'"}\n'
        self._file.append(b'{"log":"', text, b'","stream":"', name, b'",', self._attributes, end)

    def rest(self) -> bool:
        """Whether everything is written down: not while a line has no end."""
        return not any(self._begun.values())

    def close(self) -> None:
        """Append what has no end of line, and close the file; a second call does nothing."""
        if self._file.fd >= 0:
            for stream, rest in self._begun.items():
                if rest:
                    self._put(stream, rest, moment(time.time_ns()))
        self._file.close()


def _quoted(text: str) -> str:
    return '"' + text.translate(_ESCAPES) + '"'


def attributes_of(
    options: Mapping[str, str], labels: Mapping[str, str], env: Mapping[str, str]
) -> dict[str, str]:
    """What the options `labels` and `env`, names separated by commas, choose."""
    found = {}
    for option, known in (("labels", labels), ("env", env)):
        for name in options.get(option, "").split(","):
            if name in known:
                found[name] = known[name]
    return found


class JsonLines:
    """Reads a file's bytes as they come. A line that is none (cut short by a crash) is passed over."""

    def __init__(self, name: str = "log") -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[LogEntry]:
        """The entries that end in *data*."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                found = json.loads(line)
                text, stream, when = found["log"], found["stream"], time_of(found["time"])
                attributes = tuple(
                    (str(key), str(given)) for key, given in (found.get("attrs") or {}).items()
                )
                if stream in ("stdout", "stderr"):
                    yield LogEntry(stream, when, text.encode("utf-8", "surrogatepass"), attributes)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
