"""Ending at once, and cleanly, when a signal says so: for verbs that have something half-made in the store.

SIGINT, SIGTERM and SIGHUP (but not one that is ignored: nohup) are raised in the main thread, so that every `with` on
the way out lets go of what it has. A thread watches: where that takes long (a name that is looked up, a peer that does
not answer, threads that wait for one) it removes the rest itself and ends the process. Either way nothing is left but
what the next attempt can use: layers that are whole, and downloads that can be resumed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING

from lamina.cli.report import say
from lamina.cli.stopped import Stopped

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

    from lamina.engine import Engine

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 1.0  # seconds for the way out


class CleanEnd:
    """Use as a context, in the main thread, around what the verb does with *engine*'s store. Raises Stopped."""

    def __init__(self, verb: str, engine: Engine) -> None:
        self.verb, self.engine = verb, engine
        self.signal = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> CleanEnd:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._over, self._last = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="lamina-signals", daemon=True)
        self._thread.start()
        # the interpreter's own handler writes there, whatever the main thread is in
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before not in (signal.SIG_IGN, None):
                self._before[number] = before
                signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.signal:
            # further ones find a handler that does nothing, until the process has ended
            abandon(self.engine)
            self._last.acquire()  # one of us says the word: the thread, and nothing comes after that, or the caller
            self._over.set()
            if not isinstance(error, Stopped):
                raise Stopped(self.verb, self.signal) from error
            return
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup)
        self._over.set()
        os.close(self._write)
        self._thread.join()

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal = number
            # objects of libraries that are caught half made (http.client's answers) complain when they go
            sys.unraisablehook = _unheard
            raise Stopped(self.verb, number)

    def _watch(self) -> None:
        """The thread: end the process, if nobody else does."""
        wanted = {int(number) for number in SIGNALS}
        while True:
            select.select([self._read], [], [])
            numbers = os.read(self._read, 64)
            if not numbers:
                os.close(self._read)
                return
            # one that was ignored when we came is not among them: no handler, no byte
            if found := wanted.intersection(numbers):
                break
        if not self._over.wait(GRACE) and self._last.acquire(blocking=False):
            number = self.signal or min(found)
            abandon(self.engine)
            show_cursor()
            say(str(Stopped(self.verb, number)))
            os._exit(128 + number)


def _unheard(_what: object) -> None:
    """Instead of an "Exception ignored in", below which the last word of the command would not be found."""


def abandon(engine: Engine) -> None:
    """Remove what this process has half-made; whatever goes wrong with that is for the next command."""
    try:
        engine.abandon()
    except Exception:
        pass


def show_cursor() -> None:
    """Bars hide it, and whoever draws them may not come to the end."""
    for stream in (1, 2):
        if os.isatty(stream):
            os.write(stream, b"\033[?25h")
