"""How a Process comes to be: pipes for it, the process itself, and who pumps what cannot be handed in as it is.

Pipes and sockets of the caller go into a container, and then nothing is between it and them. A file or a terminal never
does (supervisor/stdio.py); only for these there is a thread that pumps. A container of `Engine.popen` always has one:
somebody has to write down how it ended, whether the caller asks or not, and the kernel ends a container with the
*thread* that started it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import io
import os
import threading
from time import sleep

from lamina.engine.process import Process
from lamina.errors import InvalidInput, LaminaError
from lamina.linux.descriptors import F_DUPFD_CLOEXEC, fcntl
from lamina.linux.fd import Fd, owned, pipe, ready
from lamina.supervisor.signals import Undisturbed
from lamina.supervisor.stdio import PIPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

    from lamina.engine.exec_process import Asked
    from lamina.engine.executing import Execution
    from lamina.engine.options import Io, Options
    from lamina.engine.run import Hooks
    from lamina.engine.session import Session
    from lamina.runtime.launch import Running
    from lamina.store.containers import Home
    from lamina.store.root import Store
    from lamina.supervisor.foreground import Ended
    from lamina.supervisor.signals import Deliverer
    from lamina.supervisor.stdio import Stdio

    Told = Callable[..., str]

SIGKILL = 9


class Pipes:
    """The pipes that were asked for: `io` is what was asked, with their other ends in it, until `handed_over`."""

    def __init__(self, io: Io, bufsize: int) -> None:
        from lamina.values import replace

        if bufsize < -1:
            raise InvalidInput(
                f"popen: {bufsize} is no size of a buffer", remedy="-1 is the usual one, 0 none"
            )
        self._bufsize = bufsize
        self.ours: dict[str, Fd] = {}
        self._theirs: list[Fd] = []
        ends: dict[str, int] = {}
        try:
            for name in ("stdin", "stdout", "stderr"):
                if getattr(io, name) == PIPE:
                    reader, writer = pipe()
                    ours, theirs = (writer, reader) if name == "stdin" else (reader, writer)
                    self.ours[name], ends[name] = ours, int(theirs)
                    self._theirs.append(theirs)
        except BaseException:
            self.close()
            raise
        self.io: Io = replace(io, **ends)

    def handed_over(self) -> None:
        """The process has the other ends; ours of them are closed, so that the end of a pipe shows."""
        for fd in self._theirs:
            fd.close()

    def files(
        self, encoding: tuple[str, str] | None
    ) -> tuple[IO[Any] | None, IO[Any] | None, IO[Any] | None]:
        """Our ends as file objects, which own them."""

        def file(name: str, mode: str) -> IO[Any] | None:
            if name not in self.ours:
                return None
            # a buffer of one byte is a line's, and that is a matter of text
            size = -1 if self._bufsize == 1 else self._bufsize
            made: Any = open(self.ours[name].steal(), mode, size)  # noqa: SIM115  the process is to own it
            if encoding is None:
                return made  # type: ignore[no-any-return]
            codec, errors = encoding
            return io.TextIOWrapper(
                made, codec, errors, write_through=name == "stdin", line_buffering=self._bufsize == 1
            )

        return file("stdin", "wb"), file("stdout", "rb"), file("stderr", "rb")

    def close(self) -> None:
        """Close everything that nobody owns yet."""
        for fd in (*self._theirs, *self.ours.values()):
            fd.close()


def popen(
    home: Home,
    words: tuple[str, ...],
    asked: Asked,
    io: Io,
    bufsize: int,
    encoding: tuple[str, str] | None,
) -> Process[Any]:
    """Begin *words* in the container; raises as `executing.execute`."""
    from lamina.engine.executing import start, told
    from lamina.supervisor.stdio import Stdio

    pipes = Pipes(io, bufsize)
    stdio: Stdio | None = None
    body: Joined | Attended | None = None
    try:
        stdio = Stdio(pipes.io.stdin, pipes.io.stdout, pipes.io.stderr, tty=asked.tty)
        execution = start(home, words, asked, stdio, pipes.io.stdin)
        try:
            pipes.handed_over()
            tell = told(home, words)
            with Undisturbed():  # or a Ctrl-C in this moment would leave two who close the same descriptors
                body = _body(home, execution, stdio, tell)
            return Process(body, list(words), *pipes.files(encoding), encoding)
        except BaseException:
            if body is None:
                execution.abandon()
            else:
                body.send(SIGKILL)
                body.end(None)
            raise
    except BaseException:
        pipes.close()
        if stdio is not None and body is None:
            stdio.close()
        raise


def _body(home: Home, execution: Execution, stdio: Stdio, tell: Told) -> Joined | Attended:
    """Who sees its end: from now on the descriptors are theirs."""
    if not stdio.drains and stdio.feed is None:
        return Joined(execution, home.id, tell)
    body = Attended(home.id, execution.pid, execution.kill)
    in_thread(body, lambda: _attend(execution, stdio, tell, body))
    execution.handed_over()
    return body


def _attend(execution: Execution, stdio: Stdio, tell: Told, body: Attended) -> int:
    from lamina.supervisor.foreground import attend

    try:
        ended = attend(execution, stdio, init=True)
        tell("exec_die", exitCode=ended.status)
    finally:
        stdio.close()
        body.let_go(execution.close)
    _written(ended.errors)
    return ended.status


def _written(errors: tuple[OSError, ...]) -> None:
    if errors:
        from lamina.errors import KernelError

        raise KernelError("write the output of the command", errors[0].errno or 5)


class Joined:
    """A further process of a container, a child of ours, with nothing between it and its pipes. It is reaped as soon as
    it has ended, by whoever sees that first.
    """

    def __init__(self, execution: Execution, container: str, tell: Told) -> None:
        from lamina.engine.reaping import watch

        self._execution, self._tell = execution, tell
        self.pid, self.container = execution.pid, container
        self._lock = threading.Lock()
        self._shows: Fd | None = owned(fcntl, execution.pidfd, F_DUPFD_CLOEXEC, 3)
        self._status: int | None = None
        self._failure: Exception | None = None
        watch(execution.pidfd, self._reap)
        execution.handed_over()

    @property
    def descriptor(self) -> int:
        """What can be read from once it has ended, -1 when that is known already."""
        return -1 if self._shows is None else int(self._shows)

    def send(self, signal: int) -> None:
        """Send *signal*; nothing happens when it has ended."""
        with self._lock:
            if self._status is None and self._failure is None:
                self._execution.kill(signal)

    def end(self, seconds: float | None) -> int | None:
        """Its exit status, None if it has not ended within so many *seconds*."""
        with self._lock:
            # a copy: another thread may let go of it meanwhile
            waiting = None if self._shows is None else owned(fcntl, self._shows, F_DUPFD_CLOEXEC, 3)
        if waiting is not None:
            with waiting:
                if not ready(seconds, waiting):
                    return None
        self._reap()
        with self._lock:
            self._shows = None
        if self._failure is not None:
            raise self._failure
        return self._status

    def _reap(self) -> None:
        with self._lock:
            if self._status is not None or self._failure is not None:
                return
            try:
                self._status = self._execution.wait()
                self._tell("exec_die", exitCode=self._status)
            except (LaminaError, OSError) as failure:
                self._failure = failure
            self._execution.close()


class Attended:
    """A process with a thread of ours that stays with it, and whose work it is to say how it ended."""

    def __init__(self, container: str, pid: int = 0, kill: Callable[[int], None] | None = None) -> None:
        self.pid, self.container, self._kill = pid, container, kill
        self._lock = threading.Lock()  # nobody sends to a descriptor that was closed
        self._over = threading.Event()
        self._shows: Fd | None = Fd(os.eventfd(0, os.EFD_CLOEXEC))
        self._status: int | None = None
        self._failure: BaseException | None = None

    def finish(self, work: Callable[[], int]) -> None:
        """Do *work*, which returns the exit status, and say so; in the thread."""
        shows = self._shows
        assert shows is not None
        try:
            self._status = work()
        except BaseException as failure:
            self._failure = failure
        finally:
            self._over.set()
            os.eventfd_write(shows, 1)

    @property
    def descriptor(self) -> int:
        """What can be read from once it has ended, -1 when that is known already."""
        shows = self._shows
        return -1 if shows is None else int(shows)

    def send(self, signal: int) -> None:
        """Send *signal*; nothing happens when it has ended."""
        with self._lock:
            if self._kill is not None:
                self._kill(signal)

    def let_go(self, close: Callable[[], None]) -> None:
        """It has ended: *close* its descriptors; in the thread."""
        with self._lock:
            self._kill = None
            close()

    def end(self, seconds: float | None) -> int | None:
        """Its exit status, None if it has not ended within so many *seconds*."""
        if not self._over.wait(None if seconds is None else min(seconds, threading.TIMEOUT_MAX)):
            return None
        self._shows = None
        if self._failure is not None:
            raise self._failure
        return self._status


def in_thread(body: Attended, work: Callable[[], int]) -> None:
    """Begin a thread that does *work* for *body*. It gets no signal: one that arrived there would not interrupt what
    the main thread waits for. The program need not wait for it to end.
    """
    from lamina.engine.reaping import without_signals

    def begin() -> None:
        threading.Thread(target=body.finish, args=(work,), name="lamina", daemon=True).start()

    without_signals(begin)


# -- a container of its own


def popen_container(
    store: Store,
    image: str,
    words: tuple[str, ...],
    options: Options,
    io: Io,
    hooks: Hooks,
    bufsize: int,
    encoding: tuple[str, str] | None,
) -> Process[Any]:
    """Begin *words* in a new container; raises as `run.run`."""
    from lamina.engine.run import run

    pipes = Pipes(io, bufsize)
    body = Foreground()

    def work() -> int:
        return run(store, image, words, options, pipes.io, hooks, body.attend).returncode

    try:
        in_thread(body, work)
    except BaseException:
        pipes.close()
        raise
    try:
        body.await_start()
        pipes.handed_over()
        return Process(body, body.words, *pipes.files(encoding), encoding)
    except BaseException as failure:
        pipes.close()
        body.give_up()
        if isinstance(failure, Exception):
            body.end_for_good()
        raise


class Foreground(Attended):
    """The first process of a container that `run` stays with, in a thread."""

    def __init__(self) -> None:
        super().__init__("")
        self.words: list[str] = []
        self._begun = threading.Event()
        self._unwanted = self._looks = False
        self._running: Running | None = None
        self._deliverer: Deliverer | None = None

    def attend(self, session: Session) -> Ended:
        """Say that the command runs, stay with it, and have it end as a signal was meant to end it."""
        assert session.record is not None and session.running is not None
        self._starts(session.home.id, session.record["command"], session.running)
        return self._ended(session.attend())

    def _starts(self, container: str, words: list[str], running: Running) -> None:
        from lamina.supervisor.signals import Deliverer

        self.container, self.words, self.pid = container, words, running.pid
        self._deliverer = Deliverer(running)
        self._running = running
        if self._unwanted:
            running.kill(SIGKILL)
        self._begun.set()

    def _ended(self, ended: Ended) -> Ended:
        from lamina.values import replace

        with self._lock:
            self._running = None
        carried = None if self._deliverer is None else self._deliverer.carried_out
        if carried is not None and ended.status == 128 + SIGKILL:
            return replace(ended, status=128 + carried)
        return ended

    def finish(self, work: Callable[[], int]) -> None:
        """As above; it may have ended before it began."""
        super().finish(work)
        self._begun.set()

    def await_start(self) -> None:
        """Until the command runs. Raises what the start raised."""
        self._begun.wait()
        if self._failure is not None and not self.pid:
            raise self._failure

    def give_up(self) -> None:
        """Nobody wants it any more, whether it runs yet or not."""
        self._unwanted = True
        self.send(SIGKILL)

    def end_for_good(self) -> None:
        """Until there is nothing left of it."""
        self._over.wait()

    def send(self, signal: int) -> None:
        """Send *signal*; nothing happens when it has ended."""
        with self._lock:
            if self._running is None or self._deliverer is None:
                return
            if signal == SIGKILL:
                self._running.kill(signal)
            else:  # the kernel spares the first process of a container what would end any other
                self._deliverer.send(signal)
                if self._deliverer.unsure and not self._looks:
                    from lamina.engine.reaping import without_signals

                    looking = threading.Thread(target=self._look_again, name="lamina", daemon=True)
                    without_signals(looking.start)
                    self._looks = True

    def _look_again(self) -> None:
        """See what becomes of signals that were blocked; in a thread of its own, which is rare."""
        from lamina.supervisor.foreground import LOOK_AGAIN

        while True:
            sleep(LOOK_AGAIN)
            with self._lock:
                if self._running is None or self._deliverer is None or not self._deliverer.unsure:
                    self._looks = False
                    return
                self._deliverer.look_again()
