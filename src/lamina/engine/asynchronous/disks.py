"""What goes to files and comes from them while a loop stays with a process: a thread does it, as disks may wait.

Each stands in the place of what would do it at once, and looks the same to supervisor/pump.py.
"""

from __future__ import annotations

import os
from stat import S_ISREG
from typing import TYPE_CHECKING

from lamina.linux.descriptors import duplicate
from lamina.supervisor.pump import CHUNK

if TYPE_CHECKING:
    from lamina.engine.asynchronous.readiness import LoopWatch
    from lamina.supervisor.logs import Writer
    from lamina.supervisor.pump import Drain, Sink
    from lamina.supervisor.stdio import Stdio


def _nothing() -> None:
    """What there is to do when a thread has written."""


class Log:
    """A container's log, written by a thread."""

    def __init__(self, log: Writer, watch: LoopWatch) -> None:
        self._log, self._watch = log, watch

    @property
    def error(self) -> OSError | None:
        """Why it ended, as the log itself says."""
        return self._log.error

    def write(self, stream: bytes, data: bytes) -> None:
        """Have *data* written."""
        self._watch.aside(lambda: self._log.write(stream, data), _nothing)

    def rest(self) -> bool:
        """Whether another writer could go on with it: nobody does that to a container in the foreground."""
        return False

    def close(self) -> None:
        """It is closed by whoever opened it."""


class File:
    """A file of the caller, written by a thread. An error is raised by the next write, or is in `error`."""

    unblocked = True

    def __init__(self, sink: Sink, watch: LoopWatch) -> None:
        self._sink, self._watch = sink, watch
        self.fd = sink.fd
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Have all of it written."""
        if self.error is not None:
            raise self.error
        self._watch.aside(lambda: self._write(data), _nothing)
        return len(data)

    def _write(self, data: memoryview) -> None:
        try:
            while data and self.error is None:
                data = data[os.write(self.fd, data) :]
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Close it, when the thread is done with it."""
        if self._watch.is_busy:
            self._watch.aside(self._sink.close, _nothing)
        else:
            self._sink.close()


class Ahead:
    """A file of the caller that is read by a thread, a piece ahead. The descriptor is a copy, ours."""

    def __init__(self, fd: int) -> None:
        self._fd, self._data = duplicate(fd, 3), b""

    def fetch(self) -> None:
        """Read the next piece, in the thread; what cannot be read is the end."""
        try:
            self._data = os.read(self._fd, CHUNK)
        except OSError:
            self._data = b""

    def take(self, fd: int, most: int) -> bytes:
        """What was read; in the place of read(2)."""
        return self._data

    def close(self) -> None:
        """Close the copy, when no thread reads."""
        os.close(self._fd)


class Disks:
    """Puts all of them into the streams of one process; `close` when no thread is at work for them any more."""

    def __init__(self, stdio: Stdio, watch: LoopWatch) -> None:
        self._files: list[tuple[Drain, File]] = []
        self._ahead: Ahead | None = None
        for drain in stdio.drains:
            if drain.log is not None:
                drain.log = Log(drain.log, watch)
            if drain.sink is not None and is_file(drain.sink.fd):
                file = File(drain.sink, watch)
                drain.sink = file  # type: ignore[assignment]  # looks the same
                self._files.append((drain, file))
        feed = stdio.feed
        if feed is not None and feed.source >= 0 and is_file(feed.source):
            self._ahead = Ahead(feed.source)
            feed.take = self._ahead.take
            watch.ahead[feed.source] = self._ahead.fetch

    def close(self) -> None:
        """Let go of the copies, and tell the streams of errors."""
        for drain, file in self._files:
            drain.error = drain.error or file.error
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def is_file(fd: int) -> bool:
    """Whether *fd* is one of a file on a disk."""
    return S_ISREG(os.fstat(fd).st_mode)
