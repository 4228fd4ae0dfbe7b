"""Staying with a container until it ends: its streams are pumped, signals forwarded, the terminal kept in shape."""

from __future__ import annotations

from time import monotonic

from lamina.linux.descriptors import POLLIN
from lamina.supervisor.pump import Watch
from lamina.supervisor.signals import Deliverer, PipeSignalBlocked
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGWINCH
    from typing import Protocol

    from lamina.supervisor.signals import Catcher
    from lamina.supervisor.stdio import Stdio
    from lamina.supervisor.terminal import RawTerminal

    class Process(Protocol):
        """A started container: `lamina.runtime.launch.Running`, or a test's double."""

        pid: int

        @property
        def pidfd(self) -> int: ...
        @property
        def pty(self) -> int | None: ...
        def kill(self, signal: int) -> None: ...
        def end(self) -> None: ...
        def wait(self) -> int: ...

    class Companion(Protocol):
        """Somebody else who has to do with the process while it lives: who looks whether it is well."""

        @property
        def left(self) -> float | None: ...
        def arm(self, watch: Watch) -> None: ...
        def look(self) -> None: ...
        def stop(self) -> None: ...

else:
    from _signal import SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGWINCH

# what is in a terminal's buffer arrives through a kernel worker: wait for it, but not for ever
PATIENCE_WITH_TERMINAL = 2.0
# seconds until we see what became of a signal that was blocked
LOOK_AGAIN = 0.02
_GIVE_UP = (SIGHUP, SIGINT, SIGQUIT, SIGTERM)


@value
class Ended:
    """How it ended: `status` is the exit status, 128 + n after signal n; `errors` met while writing its output.
    `detached`: it has not ended at all, the keys for that were typed.
    """

    status: int
    timed_out: bool = False
    errors: tuple[OSError, ...] = ()
    detached: bool = False


def attend(
    process: Process,
    stdio: Stdio,
    *,
    timeout: float | None = None,
    catcher: Catcher | None = None,
    init: bool = False,
    companion: Callable[[Attendance], Companion] | None = None,
) -> Ended:
    """Pump and forward until *process* has ended and its output was handed on; then reap it.

    After *timeout* seconds it is killed. With *init* it hands signals on to the command itself. Whatever is raised
    meanwhile (KeyboardInterrupt, say), the terminal is as it was; the process may still run then. *companion* makes
    somebody else who is to be there meanwhile.
    """
    return _Waiting(process, stdio, timeout, catcher, init, companion).run()


class Attendance:
    """What staying with a process consists of, but for the waiting itself: that is `_Waiting`'s, which blocks, and that
    of an event loop (engine.asynchronous.attending).
    """

    def __init__(
        self,
        process: Process,
        stdio: Stdio,
        timeout: float | None,
        catcher: Catcher | None,
        init: bool,
        companion: Callable[[Attendance], Companion] | None = None,
    ) -> None:
        self.process, self.stdio, self.catcher, self.init = process, stdio, catcher, init
        self.deadline = None if timeout is None else monotonic() + timeout
        self.watch = Watch()
        self.raw: RawTerminal | None = None
        self.ended = self.timed_out = self.stopping = False
        self.deliverer = Deliverer(process)
        self.companion = None if companion is None else companion(self)

    @property
    def is_detached(self) -> bool:
        """Whether the keys for that were typed, and what was typed before has arrived."""
        keys, feed = self.stdio.keys, self.stdio.feed
        return keys is not None and keys.pressed and (feed is None or not feed.pending)

    def take_terminal(self) -> None:
        """The caller's terminal is the process's, if it has one, until it is given back."""
        terminal = self.stdio.terminal
        if terminal >= 0 and self.process.pty is not None:
            from lamina.supervisor.terminal import RawTerminal, copy_size

            copy_size(terminal, self.process.pty)
            self.raw = RawTerminal(terminal)

    def send(self, signal: int) -> None:
        """Hand a signal on, or do what it would have done."""
        if self.init:  # which does something about every signal, but waits for them where nobody sees that
            self.process.kill(signal)
        else:
            self.deliverer.send(signal)

    def end_within(self, signal: int, seconds: float) -> None:
        """Ask it to end, with *signal*, and kill it after so many seconds (negative: never)."""
        self.send(signal)
        if seconds >= 0:
            self.stopping = True
            end = monotonic() + seconds
            self.deadline = end if self.deadline is None else min(self.deadline, end)

    def give_terminal_back(self) -> None:
        """As it was."""
        if self.raw is not None:
            self.raw.restore()

    def begin(self) -> None:
        """Say what is waited for."""
        self.watch.set(self.process.pidfd, POLLIN, self._on_end)
        if self.catcher is not None:
            self.watch.set(self.catcher.fd, POLLIN, self._on_signal)
            if self.raw is not None:  # poll(2) may have seen what was typed, and not the signal before it
                self.watch.tell_first(self._on_signal)
        for drain in self.stdio.drains:
            drain.arm(self.watch)
        if self.stdio.feed is not None:
            self.stdio.feed.arm(self.watch)
            if self.process.pty is not None and not self.init:
                self.stdio.feed.write = self.deliverer.type
        if self.companion is not None:
            self.companion.arm(self.watch)

    @property
    def seconds_left(self) -> float | None:
        """Until when to wait before the next look, None for ever."""
        wanted = [] if self.deadline is None else [max(0.0, self.deadline - monotonic())]
        if self.deliverer.unsure:
            wanted.append(LOOK_AGAIN)
        if self.companion is not None and (left := self.companion.left) is not None:
            wanted.append(left)
        return min(wanted, default=None)

    def look(self) -> None:
        """What is to be done from time to time: kill it when its time is over, see what became of signals."""
        if self.deadline is not None and not self.ended and monotonic() >= self.deadline:
            self.timed_out, self.deadline = not self.stopping, None
            self.process.end()
        if self.companion is not None and not self.ended:
            self.companion.look()
        if self.deliverer.unsure and not self.ended:
            self.deliverer.look_again()

    def _on_end(self, _events: int) -> None:
        self.ended = True
        self.watch.drop(self.process.pidfd)
        if self.stdio.feed is not None:
            self.stdio.feed.finish()

    def _on_signal(self, _events: int) -> None:
        assert self.catcher is not None
        for signal in self.catcher.take():
            if signal in (SIGWINCH, SIGCONT) and self.raw is not None:
                self._resize(signal == SIGCONT)
            elif signal == SIGCONT:
                pass
            elif self.ended:
                self._give_up(signal)
            else:
                self.send(signal)

    def _resize(self, continued: bool) -> None:
        from lamina.supervisor.terminal import copy_size

        assert self.raw is not None and self.process.pty is not None
        if continued:  # a shell that stopped us may have changed the terminal
            self.raw.enter()
        copy_size(self.stdio.terminal, self.process.pty)

    def _give_up(self, signal: int) -> None:
        """The container is gone and somebody does not want to wait for a slow consumer."""
        if signal in _GIVE_UP:
            for drain in self.stdio.drains:
                drain.drop_consumer()

    def finish(self) -> None:
        """The process has ended, but what it wrote is still on its way. (Waiting for the end of the pipes instead could
        take for ever: others of the container may write on, and a child that this program forks has them open too.)
        """
        self.part()
        for drain in self.stdio.drains:
            drain.finish()

    def part(self) -> None:
        """Nobody else has to do with it any more. A second call does nothing."""
        if self.companion is not None:
            self.companion.stop()

    @property
    def is_drained(self) -> bool:
        """Whether everything that it wrote is where it was to be."""
        return not any(drain.pending or drain.source >= 0 for drain in self.stdio.drains)

    @property
    def patience(self) -> float | None:
        """How long to wait for more of what it wrote, None for ever: for consumers, not for who may never write."""
        if any(drain.pending for drain in self.stdio.drains):
            return None
        return PATIENCE_WITH_TERMINAL if self.process.pty is not None else 0.0

    def outcome(self) -> Ended:
        """Reap it: how it ended."""
        status = self.process.wait()
        if self.deliverer.carried_out is not None and status == 128 + SIGKILL:
            status = 128 + self.deliverer.carried_out
        errors = tuple(drain.error for drain in self.stdio.drains if drain.error is not None)
        return Ended(status, self.timed_out, errors)


class _Waiting(Attendance):
    def run(self) -> Ended:
        """Stay until it has ended."""
        blocked = PipeSignalBlocked()
        try:
            self.take_terminal()
            self.begin()
            while not self.ended:
                if self.is_detached:
                    return Ended(0, detached=True)
                self.watch.wait(self.seconds_left)
                self.look()
            self.finish()
            while not self.is_drained:
                if not self.watch.wait(self.patience) and self.patience is not None:
                    break
        finally:
            self.part()
            self.give_terminal_back()
            blocked.close()
        return self.outcome()


def terminal_size(stdin: int | None) -> tuple[int, int] | None:
    """(rows, columns) of the caller's terminal, for a container that is to get one of the same size."""
    from lamina.supervisor.terminal import size_of

    return size_of(0 if stdin is None else stdin) or size_of(1)
