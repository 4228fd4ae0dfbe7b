"""Waiting by an event loop: for descriptors, and for whatever the engine's own steps wait for (engine/waits.py)."""

from __future__ import annotations

import asyncio
import signal
from errno import EPERM
from typing import TYPE_CHECKING

from lamina.engine.asynchronous.threads import in_thread, pool
from lamina.linux.descriptors import POLLERR, POLLIN, POLLOUT
from lamina.supervisor.pump import Watch
from lamina.supervisor.signals import PipeSignalBlocked

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from lamina.engine.waits import Wait, Waits

    T = TypeVar("T")
    Job = tuple[Callable[[], None], Callable[[], None]]


async def readable(fd: int, seconds: float | None = None) -> bool:
    """Whether *fd* can be read, or has ended, within *seconds* (None: however long that takes)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()

    def say(what: bool) -> None:
        if not future.done():
            future.set_result(what)

    loop.add_reader(fd, say, True)
    timer = None if seconds is None else loop.call_later(seconds, say, False)
    try:
        return await future
    finally:
        loop.remove_reader(fd)
        if timer is not None:
            timer.cancel()


class _End:
    """What steps returned: a StopIteration does not come through a future."""

    def __init__(self, result: Any) -> None:
        self.result = result


async def follow(steps: Waits[T]) -> T:
    """Go through *steps*: each by a thread, the waiting between them by the loop."""
    happened: bool | None = None

    def step() -> Wait | _End:
        try:
            return next(steps) if happened is None else steps.send(happened)
        except StopIteration as end:
            return _End(end.value)

    try:
        while True:
            wait = await in_thread(step)
            if isinstance(wait, _End):
                result: T = wait.result
                return result
            if wait.fd >= 0:
                happened = await readable(wait.fd, wait.seconds)
            else:
                await asyncio.sleep(wait.seconds or 0)
                happened = False
    finally:
        steps.close()


class LoopWatch(Watch):
    """A watch whose descriptors the running loop waits for; `happens` in place of `wait`.

    What is done `aside` is done by a thread, one thing at a time, and nothing is read meanwhile. An exception of a
    handler is raised by `happens`. `ahead` says what a thread does before one of a descriptor is said to be readable.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._happened = False
        self._failure: BaseException | None = None
        self._always: dict[int, asyncio.Handle] = {}
        self._jobs: list[Job] = []
        self._running = False
        self.ahead: dict[int, Callable[[], None]] = {}

    # -- what is waited for

    def set(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Wait for *mask* (0: for errors only) on *fd*, instead of what was said before."""
        same = self._masks.get(fd) == mask
        if not same:
            self.drop(fd)
        super().set(fd, mask, handler)
        if not same:
            self._add(fd)

    def drop(self, fd: int) -> None:
        """Forget *fd*; to be called before it is closed."""
        if fd in self._masks:
            self._remove(fd)
        super().drop(fd)

    def _add(self, fd: int) -> None:
        mask = self._masks[fd]
        if self._running and mask & POLLIN:
            return  # when the thread is done
        if mask & POLLIN and (fetch := self.ahead.get(fd)) is not None:
            self.aside(fetch, lambda: self._tell(fd, POLLIN))
            return
        try:
            if mask & POLLIN or not mask:
                self._loop.add_reader(fd, self._tell, fd, mask & POLLIN or POLLERR)
            if mask & POLLOUT:
                self._loop.add_writer(fd, self._tell, fd, POLLOUT)
        except OSError as error:
            if error.errno != EPERM:
                raise
            # epoll_ctl(2): a file, or a device that never makes anybody wait
            self._always[fd] = self._loop.call_soon(self._tell_always, fd, mask)

    def _remove(self, fd: int) -> None:
        if (handle := self._always.pop(fd, None)) is not None:
            handle.cancel()
            return
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)

    def _tell(self, fd: int, events: int) -> None:
        handler = self._handlers.get(fd)
        if handler is not None:
            self._do(lambda: handler(events))

    def _tell_always(self, fd: int, mask: int) -> None:
        del self._always[fd]
        self._tell(fd, mask)
        if self._masks.get(fd) == mask and fd not in self._always:
            self._add(fd)

    def _do(self, work: Callable[[], None]) -> None:
        # in a program that lets SIGPIPE kill it the signal is blocked no longer than this: the thread is the loop's
        blocked = PipeSignalBlocked() if signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL else None
        try:
            work()
        except Exception as error:
            self._fail(error)
        finally:
            if blocked is not None:
                blocked.close()
        self.wake()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error

    def wake(self) -> None:
        """Have whoever waits look."""
        self._happened = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def happens(self, seconds: float | None) -> bool:
        """Wait for up to *seconds* (None: for ever) until somebody was told something; whether anybody was. Raises what
        a handler raised.
        """
        if not self._happened and self._failure is None:
            await self._woken(seconds)
        if self._failure is not None:
            raise self._failure
        happened, self._happened = self._happened, False
        return happened

    async def _woken(self, seconds: float | None) -> None:
        self._waiter = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self._in_vain)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _in_vain(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what a thread does

    @property
    def is_busy(self) -> bool:
        """Whether something is done aside."""
        return self._running

    def aside(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Have a thread do *work*, and call *then*, in the order of the calls; nothing is read until then."""
        self._jobs.append((work, then))
        if not self._running:
            self._running = True
            for fd, mask in self._masks.items():
                if mask & POLLIN:
                    self._remove(fd)
            self._next()

    def _next(self) -> None:
        jobs, self._jobs = self._jobs, []

        def work() -> None:
            for do, _ in jobs:
                do()

        begun = asyncio.wrap_future(pool("endings").submit(work))
        begun.add_done_callback(lambda done: self._done(done, jobs))

    def _done(self, done: asyncio.Future[None], jobs: list[Job]) -> None:
        if (error := done.exception()) is not None:
            self._fail(error)
        for _, then in jobs:
            self._do(then)
        if self._jobs:
            self._next()
            return
        self._running = False
        self._do(self._add_again)

    def _add_again(self) -> None:
        for fd, mask in tuple(self._masks.items()):
            if mask & POLLIN:
                self._add(fd)

    async def settled(self) -> None:
        """Until nothing is done aside any more."""
        while self._running:
            await self._woken(None)

    def close(self) -> None:
        """Wait for nothing any more."""
        for fd in tuple(self._masks):
            self.drop(fd)
