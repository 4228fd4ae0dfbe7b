"""Pauses before another attempt: how long they are, and who hears of them.

    with waits.telling(listener):            # this thread's requests tell it
        waits.wait(5.0, attempt=2, reason="the registry fails with status 503")

A listener is called when a pause begins and once a second until it ends. It may raise: then nothing is tried again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lamina.values import value

__all__ = ["Listener", "Wait", "Waits"]

TOLD_EVERY = 1.0  # seconds


@value
class Wait:
    """A pause of `seconds` before the `attempt`th attempt (the first is 1), `left` of them still to come; and why."""

    seconds: int
    left: int
    attempt: int
    reason: str


Listener = Callable[[Wait], object]


class Waits:
    """The pauses of one transport. Each thread has a listener of its own, or none."""

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self._sleep = sleep
        self._here = threading.local()

    @contextmanager
    def telling(self, listener: Listener | None) -> Iterator[None]:
        """Let *listener* hear of the pauses of this thread; None leaves whoever hears of them already."""
        before: Listener | None = getattr(self._here, "listener", None)
        self._here.listener = listener or before
        try:
            yield
        finally:
            self._here.listener = before

    def wait(self, seconds: float, attempt: int, reason: str) -> None:
        """Wait before the *attempt*th attempt. Raises what the listener raises."""
        listener: Listener | None = getattr(self._here, "listener", None)
        if listener is None:
            self._sleep(seconds)
            return
        left = seconds
        while left > 0:
            listener(Wait(math.ceil(seconds), math.ceil(left), attempt, reason))
            self._sleep(min(left, TOLD_EVERY))
            left -= TOLD_EVERY
