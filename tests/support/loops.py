"""Tests that are coroutines, and a watchman who says what a loop's thread does that could make it wait."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from support.sources import SRC

OURS = f"{SRC}/lamina/"
# of the C functions that Lamina's own code calls in the thread of a loop: those that wait neither for a descriptor nor
# for a disk. (What is read and written is not blocking: the loop, or poll(2), has said so, or O_NONBLOCK is set.)
NEVER_WAIT = {
    "inotify_init1(2)",
    "inotify_rm_watch(2)",
    "posix.read",
    "posix.write",
    "posix.close",
    "posix.getpid",
    "posix.set_blocking",
    "posix.get_blocking",
    "posix.fstat",
    "posix.eventfd",
    "posix.eventfd_write",
    "posix.register_at_fork",
    "_signal.getsignal",
    "_signal.pidfd_send_signal",
    "_io.IncrementalNewlineDecoder.decode",
    "fcntl.ioctl",  # FIONREAD
    "time.monotonic",
    "time.time",
    "_thread.allocate_lock",
    "lamina.linux._native.fcntl",  # F_DUPFD_CLOEXEC
}
PATIENT = (
    "posix",
    "_signal",
    "select",
    "fcntl",
    "time",
    "_socket",
    "_thread",
    "_posixsubprocess",
    "_io",
    "lamina",
)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, run by a loop of its own, which does not wait for ever."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(250):
                await test(*args, **fixtures)

        asyncio.run(bounded())

    return run


@contextmanager
def watched() -> Iterator[list[str]]:
    """Of this thread: every C function that Lamina's own code calls and that may wait, with where that was. What an
    earlier test has let go of is not collected, and so not ended, in the middle of that.
    """
    found: list[str] = []

    def look(frame: FrameType, event: str, called: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_find_and_load":  # an import, which reads files
            found.append(f"import {frame.f_locals.get('name')}")
        if event != "c_call" or not frame.f_code.co_filename.startswith(OURS):
            return
        if frame.f_code.co_name == "standing":  # which reads /proc: the kernel's memory
            return
        module = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
        name = f"{module}.{getattr(called, '__qualname__', called)}"
        if name.endswith(".syscall"):
            name = f"{frame.f_locals.get('name')}(2)"
        if (str(module).startswith(PATIENT) or name.endswith("(2)")) and name not in NEVER_WAIT:
            found.append(f"{name} in {frame.f_code.co_filename.removeprefix(OURS)}:{frame.f_lineno}")

    gc.collect()
    gc.disable()
    sys.setprofile(look)
    try:
        yield found
    finally:
        sys.setprofile(None)
        gc.enable()
