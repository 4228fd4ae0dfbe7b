"""A container's log, written out: by time, by its last lines, with the time of each line."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lamina.cli.when import timestamp

if TYPE_CHECKING:
    from typing import Protocol

    from lamina.engine import Container

    class LogEntry(Protocol):
        """What `Container.logs` gives."""

        @property
        def stream(self) -> str: ...
        @property
        def time_ns(self) -> int: ...
        @property
        def data(self) -> bytes: ...
        @property
        def end(self) -> int: ...


DESCRIPTORS = {"stdout": 1, "stderr": 2}


class Transcript:
    """How to write a log. *since* and *until* are seconds since 1970."""

    def __init__(self, timestamps: bool, since: float | None, until: float | None) -> None:
        self.timestamps, self.since, self.until = timestamps, since, until

    def write(self, container: Container, tail: int | None, follow: bool) -> None:
        """Write what is there, or the last *tail* lines of it, then what comes, if *follow*."""
        written = 0
        if tail is not None:
            entries = list(container.logs())
            written = entries[-1].end if entries else 0
            for stream, line in deque(self._lines(entries), maxlen=tail):
                put(stream, line)
        rest = (entry for entry in container.logs(follow=follow) if entry.end > written)
        if tail is not None and not follow:
            return
        for stream, piece in self._lines(rest) if self.timestamps else self._pieces(rest):
            put(stream, piece)

    def _wanted(self, entries: Iterable[LogEntry]) -> Iterator[LogEntry]:
        for entry in entries:
            moment = entry.time_ns / 1e9
            if self.until is not None and moment > self.until:
                return
            if self.since is None or moment >= self.since:
                yield entry

    def _pieces(self, entries: Iterable[LogEntry]) -> Iterator[tuple[str, bytes]]:
        """As it was written: half a line is half a line."""
        return ((entry.stream, entry.data) for entry in self._wanted(entries))

    def _lines(self, entries: Iterable[LogEntry]) -> Iterator[tuple[str, bytes]]:
        """Whole lines, each stream's put together on its own; the time of a line is that of its beginning."""
        begun: dict[str, tuple[int, bytes]] = {}
        for entry in self._wanted(entries):
            since, before = begun.pop(entry.stream, (entry.time_ns, b""))
            *lines, rest = (before + entry.data).split(b"\n")
            for line in lines:
                yield entry.stream, self._stamped(since, line) + b"\n"
                since = entry.time_ns
            if rest:
                begun[entry.stream] = (since, rest)
        for stream, (since, rest) in begun.items():
            yield stream, self._stamped(since, rest)

    def _stamped(self, time_ns: int, line: bytes) -> bytes:
        return f"{timestamp(time_ns / 1e9)} ".encode() + line if self.timestamps else line


def put(stream: str, data: bytes) -> None:
    """Write all of it, now: who follows a log wants to see it."""
    while data:
        data = data[os.write(DESCRIPTORS[stream], data) :]
