"""Reading a container's log: all that is there, and what comes, through rotation, removal and cutting."""

from __future__ import annotations

import os
import time
from collections import deque
from itertools import islice

from lamina.errors import Corrupt
from lamina.linux.descriptors import duplicate
from lamina.supervisor.logs import JSON_FILE, K8S_FILE, LOCAL, LogEntry, path_of
from lamina.supervisor.logs.rotation import TRIES, files
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    class Parser(Protocol):
        """From a file's bytes, as they come, to entries."""

        def feed(self, data: bytes) -> Iterator[LogEntry]: ...


BLOCK = 1 << 20
# of the last lines so much is held until it is known that they are the last ones, an entry counted with what it takes
HELD, OF_AN_ENTRY = 32 << 20, 256
# seconds between two looks at a log that is followed
OFTEN = 0.05


def _parser(driver: str, name: str) -> Parser:
    if driver == LOCAL:
        from lamina.supervisor.logs.frames import Frames

        return Frames(name)
    if driver == JSON_FILE:
        from lamina.supervisor.logs.json_lines import JsonLines

        return JsonLines(name)
    assert driver == K8S_FILE
    from lamina.supervisor.logs.cri import CriLines

    return CriLines(name)


class Log:
    """The log that *driver* wrote in the *directory* of the container *identity*."""

    def __init__(self, directory: bytes, driver: str, identity: str) -> None:
        self.driver, self.path = driver, path_of(directory, driver, identity)

    def exists(self) -> bool:
        """Whether there is any file of it."""
        return bool(files(self.path))

    def read(
        self,
        goes_on: Callable[[], bool] | None = None,
        *,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
    ) -> Iterator[LogEntry]:
        """The entries of the time from *since* to *until* (seconds since 1970), the oldest first, or of what is there
        the last *tail* lines. Raises Corrupt, OSError.

        As long as *goes_on* says so, also those that come.
        """
        for entry in self.looks(goes_on, since=since, until=until, tail=tail):
            if entry is None:
                time.sleep(OFTEN)
            else:
                yield entry

    def looks(
        self,
        goes_on: Callable[[], bool] | None = None,
        *,
        since: float | None = None,
        until: float | None = None,
        tail: int | None = None,
    ) -> Iterator[LogEntry | None]:
        """The same, for who waits in another way: None where there is nothing more at the moment."""
        reader = _Reader(self)
        if tail is not None and since is None and until is None:
            reader.begin_near_end(tail)
        try:
            while True:
                # before reading: what comes after that is read at the next turn
                more = goes_on is not None and (until is None or time.time() <= until) and goes_on()
                found = _between(reader.available(), since, until)
                if tail is None:
                    yield from found
                else:
                    with reader.copy() as same:
                        again = _between(same.available(), since, until)
                        yield from last_lines(found, tail, again)
                    tail = None
                if not more:
                    return
                yield None
        finally:
            reader.close()


def _between(entries: Iterator[LogEntry], since: float | None, until: float | None) -> Iterator[LogEntry]:
    for entry in entries:
        moment = entry.time_ns / 1e9
        if (since is None or moment >= since) and (until is None or moment <= until):
            yield entry


def last_lines(
    entries: Iterable[LogEntry], most: int, again: Iterable[LogEntry] | None = None
) -> Iterator[LogEntry]:
    """The end of *entries*, from where so many lines begin; what has no line break at the end counts as one.

    They are held until all have been seen, or, where they are large (a line may be a gigabyte), read once more: *again*
    begins with the same ones.
    """
    kept: deque[LogEntry] = deque()
    lines = size = gone = 0
    rest = iter(entries)
    for entry in rest:
        kept.append(entry)
        lines += entry.data.count(b"\n")
        size += len(entry.data) + OF_AN_ENTRY
        while lines - kept[0].data.count(b"\n") > most:
            first = kept.popleft()
            lines -= first.data.count(b"\n")
            size -= len(first.data) + OF_AN_ENTRY
            gone += 1
        if size > HELD and again is not None:
            yield from _once_more(kept, lines, rest, most, islice(again, gone, None))
            return
    if kept and not kept[-1].data.endswith(b"\n"):
        lines += 1
    yield from _without_lines(kept, lines - most)


def _once_more(
    kept: deque[LogEntry], lines: int, rest: Iterator[LogEntry], most: int, again: Iterator[LogEntry]
) -> Iterator[LogEntry]:
    """`last_lines` of *kept*, which have so many *lines*, and the *rest*: counted, and then taken from *again*."""
    count, last = len(kept), kept[-1]
    kept.clear()
    for last in rest:
        count += 1
        lines += last.data.count(b"\n")
    if not last.data.endswith(b"\n"):
        lines += 1
    yield from _without_lines(islice(again, count), lines - most)


def _without_lines(entries: Iterable[LogEntry], less: int) -> Iterator[LogEntry]:
    """The *entries* without their first lines, so many *less*."""
    for entry in entries:
        data = entry.data
        while less > 0 and data:
            _, newline, data = data.partition(b"\n")
            less -= len(newline)
        if data:
            yield replace(entry, data=data)


class _Reader:
    """Where somebody is in a log: in which file, how far."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._fd = -1
        self._at = 0
        self._parser: Parser | None = None

    def copy(self) -> _Reader:
        """Another one at the same place."""
        made = _Reader(self._log)
        if self._fd >= 0 or self._open_oldest():
            made._fd = duplicate(self._fd, 3)
            made._begin()
            made._at = self._at
        return made

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def available(self) -> Iterator[LogEntry]:
        """What is there, from where we are to the end of the newest file."""
        if self._fd < 0 and not self._open_oldest():
            return
        while True:
            yield from self._rest_of_file()
            if not self._next():
                return

    def begin_near_end(self, lines: int) -> None:
        """Begin in the newest file, where more than so many lines are left, if it has as many. (It has predecessors
        only where a size was given that it does not exceed.)
        """
        if not self._open(lambda found: len(found) - 1):
            return
        try:
            at = self._near_end(lines)
        except Corrupt:  # is said by who reads
            at = 0
        if at:
            self._at = at
        else:
            self.close()

    def _near_end(self, lines: int) -> int:
        from lamina.supervisor.logs.ending import FrameMarks, LineMarks, near_end

        marks: FrameMarks | LineMarks
        if self._log.driver == LOCAL:
            from lamina.supervisor.logs.frames import whole_frames

            marks = FrameMarks(whole_frames(self._fd)[0])
        else:
            marks = LineMarks(self._fd)
        return near_end(self._fd, lines, marks, lambda: _parser(self._log.driver, "log"))

    def _rest_of_file(self) -> Iterator[LogEntry]:
        if os.fstat(self._fd).st_size < self._at:  # it was cut, and begun anew
            self._begin()
        assert self._parser is not None
        while data := os.pread(self._fd, BLOCK, self._at):
            self._at += len(data)
            yield from self._parser.feed(data)

    def _open_oldest(self) -> bool:
        return self._open(lambda found: 0)

    def _open(self, choose: Callable[[list[int]], int | None]) -> bool:
        """Open the file that *choose* chooses, by its place among the inodes of all, the oldest first. Whether there is
        one. Between the look and the opening the name may have become another file's: then all is looked at again.
        """
        for _ in range(TRIES):
            found = files(self._log.path)
            at = choose([inode for _, inode in found])
            if at is None or not found:
                return False
            name, inode = found[at]
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if os.fstat(fd).st_ino != inode:
                os.close(fd)
                continue
            self.close()
            self._fd = fd
            self._begin()
            return True
        return False  # at the next look

    def _begin(self) -> None:
        self._at = 0
        self._parser = _parser(self._log.driver, os.fsdecode(self._log.path))

    def _next(self) -> bool:
        """Go on with the file after this one, if there is one; whether there is more to read. It is found by where this
        one is by now: between two looks it may have been renamed more than once.
        """
        mine = os.fstat(self._fd).st_ino

        def after(inodes: list[int]) -> int | None:
            if mine not in inodes:
                return 0  # removed, or rotated away: what is there now came later
            at = inodes.index(mine) + 1
            return at if at < len(inodes) else None

        if after([inode for _, inode in files(self._log.path)]) is None:
            return False
        # it has got its last record, perhaps between our last look and its renaming
        if os.fstat(self._fd).st_size > self._at:
            return True
        return self._open(after)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
