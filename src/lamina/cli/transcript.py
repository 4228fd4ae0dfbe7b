"""A container's log, written out: with the time of each line, and what the driver noted with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from lamina.cli.when import nanoseconds

if TYPE_CHECKING:
    from typing import Protocol

    class LogEntry(Protocol):
        """What `Container.logs` gives."""

        @property
        def stream(self) -> str: ...
        @property
        def time_ns(self) -> int: ...
        @property
        def data(self) -> bytes: ...
        @property
        def attributes(self) -> tuple[tuple[str, str], ...]: ...


DESCRIPTORS = {"stdout": 1, "stderr": 2}


def write(entries: Iterable[LogEntry], *, timestamps: bool, details: bool) -> None:
    """Write *entries* out, each as soon as it comes."""
    if timestamps or details:
        for stream, line in _lines(entries, timestamps, details):
            put(stream, line)
    else:
        for entry in entries:  # as it was written: half a line is half a line
            put(entry.stream, entry.data)


def _lines(entries: Iterable[LogEntry], timestamps: bool, details: bool) -> Iterator[tuple[str, bytes]]:
    """Whole lines, each stream's put together on its own; what is said of a line is of its beginning."""
    begun: dict[str, tuple[bytes, bytes]] = {}
    for entry in entries:
        said = _said(entry, timestamps, details)
        head, before = begun.pop(entry.stream, (said, b""))
        *lines, rest = (before + entry.data).split(b"\n")
        for line in lines:
            yield entry.stream, head + line + b"\n"
            head = said
        if rest:
            begun[entry.stream] = (head, rest)
    for stream, (head, rest) in begun.items():
        yield stream, head + rest


def _said(entry: LogEntry, timestamps: bool, details: bool) -> bytes:
    """What comes before a line, as docker has it."""
    said = f"{nanoseconds(entry.time_ns)} " if timestamps else ""
    if details:
        said += ",".join(f"{key}={text}" for key, text in entry.attributes) + " "
    return said.encode("utf-8", "replace")


def put(stream: str, data: bytes) -> None:
    """Write all of it, now: who follows a log wants to see it."""
    while data:
        data = data[os.write(DESCRIPTORS[stream], data) :]
