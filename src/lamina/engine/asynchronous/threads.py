"""The threads that do what may have to wait for a disk, a lock or another machine, so that no event loop has to.

They are the process's, whichever loops there are, and few. A thread cannot be interrupted. So who is cancelled while
one works for him waits until it is done, and what it made is unmade: no work goes on behind a caller's back.

The kernel ends a container in the foreground with the *thread* that started it (PR_SET_PDEATHSIG): these threads live
as long as the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from lamina.engine.reaping import no_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    T = TypeVar("T")

# starts gain nothing from more than two, and a loop is late where many want the interpreter (decision 0044)
VERBS = 4
# what waits for other machines, or reads and writes gigabytes, must not keep verbs waiting
TRANSFERS = 4
# what ends something holds a lock that verbs may be waiting for: it must never wait behind them
ENDINGS = 2

_SIZES = {"verbs": VERBS, "transfers": TRANSFERS, "endings": ENDINGS}
_pools: dict[str, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def pool(name: str) -> ThreadPoolExecutor:
    """The threads of that name. Raises KernelError and Unsupported where there can be none."""
    if (found := _pools.get(name)) is not None:
        return found
    with _lock:  # once in a process: for a moment, if two loops come at the same time
        if name not in _pools:
            _pools[name] = _begun(name)
        return _pools[name]


def _begun(name: str) -> ThreadPoolExecutor:
    """All of them are begun at once: a pool that could not begin one later would keep the work and raise an error."""
    made = ThreadPoolExecutor(_SIZES[name], thread_name_prefix=f"lamina-{name}")
    all_there = threading.Event()
    try:
        for _ in range(_SIZES[name]):
            made.submit(all_there.wait)
    except RuntimeError as error:
        made.shutdown(wait=False, cancel_futures=True)
        raise no_thread(error) from error
    finally:
        all_there.set()
    return made


def _begin_anew() -> None:
    """In a fork: there are no threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_begin_anew)


async def in_thread(work: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """What *work* gives, done by a thread.

    Whoever is cancelled meanwhile waits for it, has *undo* do something about what it gave, and is cancelled then;
    unless no thread has begun with it.
    """
    return await _done("verbs", work, undo, None)


async def transfer(
    work: Callable[[], T],
    *,
    undo: Callable[[T], object] | None = None,
    stop: Callable[[], object] | None = None,
) -> T:
    """The same for what may take minutes; *stop* may make it end soon."""
    return await _done("transfers", work, undo, stop)


async def ending(work: Callable[[], T]) -> T:
    """The same for what brings something to its end, and waits for nobody."""
    return await _done("endings", work, None, None)


async def alone(work: Callable[[], T], *, stop: Callable[[], object]) -> T:
    """The same for what lasts as long as a container, and cannot be left to a loop: it gets a thread of its own."""
    return await _done("", work, None, stop)


async def _done(
    name: str, work: Callable[[], T], undo: Callable[[T], object] | None, stop: Callable[[], object] | None
) -> T:
    begun = pool(name).submit(contextvars.copy_context().run, work) if name else _in_its_own(work)
    done = asyncio.wrap_future(begun)
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError as error:
            if begun.cancel():
                raise
            cancelled = error
            if stop is not None:
                stop()
    if cancelled is None:
        return done.result()
    failure = done.exception()
    if failure is None and undo is not None:
        await to_its_end(_done("endings", lambda: undo(done.result()), None, None))
    raise cancelled from failure


def _in_its_own(work: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as failure:
            future.set_exception(failure)

    try:
        threading.Thread(target=do, name="lamina-alone", daemon=True).start()
    except RuntimeError as error:
        raise no_thread(error) from error
    return future


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What *work* gives, however often who waits for it is cancelled; that goes on then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from task.exception()
    return task.result()


def told_by_loop(hook: Callable[..., object] | None) -> Callable[..., None] | None:
    """A callback that threads may call: *hook* is called by the running loop, in the order of the calls."""
    if hook is None:
        return None
    loop = asyncio.get_running_loop()

    def tell(*args: object, **facts: object) -> None:
        loop.call_soon_threadsafe(lambda: hook(*args, **facts))

    return tell


class Stoppable:
    """The events of a transfer, told to *hook* by the loop, and the way to end it."""

    def __init__(self, hook: Callable[..., None] | None) -> None:
        self._tell = told_by_loop(hook)
        self._lock, self._stopped = threading.Lock(), False
        self._ways: list[Callable[[], object]] = []

    def __call__(self, kind: str, /, **facts: object) -> None:
        if self._tell is not None:
            self._tell(kind, **facts)

    def stopped_by(self, way: Callable[[], object]) -> None:
        """A transfer that has begun says how it is ended (image.transfer.events)."""
        with self._lock:
            self._ways.append(way)
            stopped = self._stopped
        if stopped:
            way()

    def stop(self) -> None:
        """Let it end soon."""
        with self._lock:
            self._stopped, ways = True, tuple(self._ways)
        for way in ways:
            way()


__all__ = ["Stoppable", "alone", "ending", "in_thread", "pool", "to_its_end", "told_by_loop", "transfer"]
