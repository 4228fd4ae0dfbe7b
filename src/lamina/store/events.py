"""What happened to containers, images, volumes and networks: a line of JSON an event, in the order in which they were
written.

    <root>/events/log       what is written now
    <root>/events/log.1     what was written before, once `log` had become larger than LARGEST

A line is appended by one write(2) to a file opened with O_APPEND, so lines of many processes never mix, and a crash
can cut short the last one and nothing else. Events are told as they happen, and are no record that anything depends
on: a disk that is full loses events, never a container.
"""

from __future__ import annotations

import os
from errno import ENOENT
from time import time_ns

from lamina.document import encode
from lamina.linux.fd import Fd, owned
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from lamina.store.root import Store

LARGEST = 4 << 20
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK = 1 << 16


@value
class Event:
    """`type` is "container", "image", "volume" or "network", `action` docker's word for what happened ("start",
    "die", "pull"), `id` what it happened to, `attributes` what is to be said of it (as text), `time_ns` when, in
    nanoseconds since 1970.
    """

    time_ns: int
    type: str
    action: str
    id: str
    attributes: dict[str, str]


def event(
    type: str, action: str, id: str, attributes: Mapping[str, object] | None = None, **more: object
) -> Event:
    """An event of this moment. Attributes that are None are left out."""
    said = {name: str(what) for name, what in {**(attributes or {}), **more}.items() if what is not None}
    return Event(time_ns(), type, action, id, said)


def about(asked: Mapping[str, Any], action: str, **attributes: object) -> Event:
    """What happened to the container whose record is *asked*: its labels, image and name are said beside *attributes*,
    as in docker.
    """
    said = {
        **(asked.get("labels") or {}),
        "image": asked.get("image"),
        "name": asked.get("name"),
        **attributes,
    }
    return event("container", action, str(asked.get("id", "")), said)


def ending(asked: Mapping[str, Any], status: int, oom_kills: int) -> list[Event]:
    """A container's end, what the kernel did to it before, and that it is gone, if it was to be."""
    said = [about(asked, "oom")] if oom_kills else []
    said.append(about(asked, "die", exitCode=status))
    if asked.get("rm"):
        said.append(about(asked, "destroy"))
    return said


def note(store: Store, *events: Event) -> None:
    """Write *events* down, by one write. Never raises: what cannot be written is lost."""
    if not events:
        return
    try:
        with _open(store.events) as descriptor:
            lines = [encode(one.__dict__) + "\n" for one in events]
            os.write(descriptor, "".join(lines).encode("utf-8", "surrogateescape"))
            full = os.fstat(descriptor).st_size > LARGEST
        if full:
            _turn(store.events)
    except OSError:
        pass


def _open(directory: bytes) -> Fd:
    try:
        return owned(os.open, directory + b"/log", _FLAGS, 0o600)
    except FileNotFoundError:
        from lamina.store.root import make_directory

        make_directory(directory, 0o700, exist_ok=True)
        return owned(os.open, directory + b"/log", _FLAGS, 0o600)


def _turn(directory: bytes) -> None:
    """Begin a new file. Of several that find it too large one does; whoever has it open still writes to the old one."""
    from lamina.store.lock import LOCK_EX, turn

    with turn(directory, LOCK_EX):
        if os.stat(directory + b"/log").st_size > LARGEST:
            os.rename(directory + b"/log", directory + b"/log.1")


class Reader:
    """Reads events from the oldest that is kept on, each once, also those that come later.

    What was written to the older file by somebody who had it open when the newer one was begun is read as well.
    """

    def __init__(self, store: Store) -> None:
        self._directory = store.events
        self._files: list[_Tail] = []

    def read(self) -> Iterator[Event]:
        """The events that have come since the last time."""
        self._look()
        for file in self._files:
            yield from file.read()

    def skip(self) -> None:
        """What there is now is not of interest."""
        self._look()
        for file in self._files:
            file.skip()

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        while self._files:
            self._files.pop().close()

    def _look(self) -> None:
        """Open what is not open yet, and let go of what is older than the two that are kept."""
        for name in (b"/log.1", b"/log"):
            try:
                descriptor = os.open(self._directory + name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != ENOENT:
                    raise
                continue
            if any(os.path.sameopenfile(descriptor, file.fd) for file in self._files):
                os.close(descriptor)
            else:
                self._files.append(_Tail(descriptor))
        while len(self._files) > 3:
            self._files.pop(0).close()


class _Tail:
    """One file, and how far it was read."""

    def __init__(self, fd: int) -> None:
        self.fd, self._rest = fd, b""

    def read(self) -> Iterator[Event]:
        while data := os.read(self.fd, CHUNK):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                found = _parse(line)
                if found is not None:
                    yield found

    def skip(self) -> None:
        for _ in self.read():
            pass

    def close(self) -> None:
        os.close(self.fd)


def _parse(line: bytes) -> Event | None:
    """The event of a line; None for one that was cut short by a crash, and what was written behind that."""
    from lamina.document import decode
    from lamina.errors import InvalidInput

    try:
        found: dict[str, Any] = decode(line, "event")
        return Event(
            int(found["time_ns"]),
            str(found["type"]),
            str(found["action"]),
            str(found["id"]),
            {str(name): str(what) for name, what in found["attributes"].items()},
        )
    except (InvalidInput, KeyError, TypeError, ValueError, AttributeError):
        return None
