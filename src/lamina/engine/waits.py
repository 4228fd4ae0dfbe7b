"""Waiting as data.

A verb that waits for a process or for a while is written once, as a generator: it does what there is to do, yields
what it waits for, and hears whether that happened. Who drives it decides how one waits: `block` has the thread wait, an
event loop waits in its own way (`engine.asynchronous`).
"""

from __future__ import annotations

import time

from lamina.linux.fd import ready
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import TypeVar

    T = TypeVar("T")


@value
class Wait:
    """Until the descriptor `fd` can be read (-1: there is none), for `seconds` at most (None: for ever)."""

    fd: int = -1
    seconds: float | None = None


if TYPE_CHECKING:
    Waits = Generator[Wait, bool, T]


def block(steps: Waits[T]) -> T:
    """Go through *steps*, waiting in this thread; what they return."""
    try:
        wait = next(steps)
        while True:
            wait = steps.send(_happened(wait))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


def _happened(wait: Wait) -> bool:
    if wait.fd >= 0:
        return bool(ready(wait.seconds, wait.fd))
    time.sleep(wait.seconds or 0)
    return False
