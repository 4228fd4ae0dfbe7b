"""Following what others write, by a loop: events, logs. The kernel says when there is something new (inotify(7))."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lamina.engine.asynchronous.threads import ending, in_thread, to_its_end
from lamina.linux.inotify import (
    IN_CREATE,
    IN_DELETE,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
    inotify_add_watch,
    inotify_init1,
    inotify_rm_watch,
    read_events,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from lamina.linux.fd import Fd

    T = TypeVar("T")

_CHANGES = IN_MODIFY | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR
# a thread brings so many at once
BATCH = 256
# how often to look although nobody said anything: a network file system, a writer that was killed
SELDOM = 1.0
# the same where the kernel watches no more for this user
OFTEN = 0.05


async def following(
    looks: Callable[[], Iterator[T | None]],
    directory: Callable[[], bytes],
    until: float | None = None,
) -> AsyncIterator[T]:
    """What *looks* gives, a None of which says that there is nothing more at the moment: then a change in the
    *directory* is waited for, or the time *until* (seconds since 1970). What reads a disk is done by threads.
    """
    found = await in_thread(looks, undo=_close)
    notice = Notice()
    try:
        await in_thread(lambda: notice.watch(directory()))
        notice.listen()
        while True:
            notice.clear()
            batch, more = await in_thread(lambda: _take(found))
            for one in batch:
                yield one
            if more is None:
                return
            if not more:
                await notice.happens(until)
    finally:
        notice.close()
        await to_its_end(ending(lambda: _close(found)))


def _take(found: Iterator[T | None]) -> tuple[list[T], bool | None]:
    """The next of them, and whether there may be more: None says that it is over, False that one has to wait."""
    batch: list[T] = []
    for one in found:
        if one is None:
            return batch, False
        batch.append(one)
        if len(batch) == BATCH:
            return batch, True
    return batch, None


def _close(found: Iterator[object]) -> None:
    close: Callable[[], None] | None = getattr(found, "close", None)
    if close is not None:
        close()


class _Inotify:
    """The instance of one loop, for all that it watches: a user may have only so many (128, usually)."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.fd: Fd = inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.notices: dict[int, list[Notice]] = {}
        self.users = self.coming = 0
        self.loop.add_reader(self.fd, self._read)

    def _read(self) -> None:
        try:
            for wd, mask in read_events(self.fd):
                told = list(self.notices.get(wd, ()))
                if mask & IN_Q_OVERFLOW:
                    told = [one for several in self.notices.values() for one in several]
                if mask & IN_IGNORED:
                    self.notices.pop(wd, None)
                for one in told:
                    one.happened.set()
        except BlockingIOError:
            pass

    def leave(self, notice: Notice, wd: int) -> None:
        """Nobody is behind *notice* any more."""
        several = self.notices.get(wd, [])
        if notice in several:
            several.remove(notice)
            if not several and not self.coming:  # else it may be the one that another is being given
                del self.notices[wd]
                try:
                    inotify_rm_watch(self.fd, wd)
                except OSError:
                    pass  # the directory is gone, which is still to be heard
        self.users -= 1
        if not self.users:
            self.loop.remove_reader(self.fd)
            self.fd.close()
            _instances.pop(self.loop, None)


_instances: WeakKeyDictionary[asyncio.AbstractEventLoop, _Inotify] = WeakKeyDictionary()


class Notice:
    """Whether anything has changed in a directory. Of one loop."""

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self._wd, self._listens = -1, False
        self._inotify: _Inotify | None = None
        try:
            loop = asyncio.get_running_loop()
            self._inotify = _instances.get(loop)
            if self._inotify is None:
                self._inotify = _instances[loop] = _Inotify()
            self._inotify.users += 1
            self._inotify.coming += 1
        except OSError:
            pass  # there can be no more of them: it is looked often

    def watch(self, directory: bytes) -> None:
        """Say which; may be another thread's work."""
        if self._inotify is None:
            return
        try:
            self._wd = inotify_add_watch(self._inotify.fd, directory, _CHANGES)
        except OSError:
            self._wd = -1  # it is gone, or no more can be watched

    def listen(self) -> None:
        """From now on it is told; what changed before has to be looked at."""
        if self._inotify is not None:
            self._inotify.coming -= 1
            self._listens = True
            if self._wd >= 0:
                self._inotify.notices.setdefault(self._wd, []).append(self)

    def clear(self) -> None:
        """To be called before a look."""
        self.happened.clear()

    async def happens(self, until: float | None) -> None:
        """Until something changes, or one should look all the same; not beyond *until* (seconds since 1970)."""
        seconds = SELDOM if self._wd >= 0 else OFTEN
        if until is not None:
            seconds = min(seconds, max(0.0, until - time.time()))
        try:
            async with asyncio.timeout(seconds):
                await self.happened.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """It is not told any more."""
        if self._inotify is not None:
            if not self._listens:
                self._inotify.coming -= 1
            self._inotify.leave(self, self._wd)
            self._inotify = None


async def each(found: Callable[[], Iterator[T]]) -> AsyncIterator[T]:
    """What an iterator of the engine gives, read by threads."""
    iterator = await in_thread(found, undo=_close)
    try:
        more: bool | None = True
        while more:
            batch, more = await in_thread(lambda: _take(iterator))
            for one in batch:
                yield one
    finally:
        await to_its_end(ending(lambda: _close(iterator)))
