"""A process in a container, in the words of subprocess.Popen: what `Container.popen` and `Engine.popen` give."""

from __future__ import annotations

import os
from threading import Lock
from time import monotonic

from lamina.errors import Conflict, LaminaError, TimeoutExpired
from lamina.linux.fd import INFINITE
from lamina.linux.signals import signal_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import IO, Any, Generic, NoReturn, Protocol, Self, TypeVar

    from lamina.engine.talking import Talk

    T = TypeVar("T", str, bytes)  # what its pipes are of

    class Body(Protocol):
        """What is behind a Process. `descriptor` is a pidfd of its own; `end` reaps, and may be asked from several
        threads: the exit status, None where it has not ended within so many seconds (None: however long it takes).
        """

        @property
        def pid(self) -> int: ...
        @property
        def descriptor(self) -> int: ...
        @property
        def container(self) -> str: ...
        def send(self, signal: int) -> None: ...
        def end(self, seconds: float | None) -> int | None: ...

else:
    from lamina.values import Generic

    T = None


SIGTERM, SIGKILL = 15, 9


class Process(Generic[T]):
    """A process in a container, which the caller started and waits for; to be used from several threads.

    What subprocess.Popen has is here and means the same: with `stdin`, `stdout` and `stderr` given as PIPE these are
    file objects of real pipes, None otherwise; at the end of a `with` they are closed and the process is waited for.
    Two things differ. `returncode` is 128 + n after signal n, as in a shell and in docker, never negative. And where
    something is raised in a `with`, the process is killed first: no Ctrl-C of the caller's terminal reaches it.

    `args` is the command, `pid` its number on this machine, `container` the id of the container that it is in.
    """

    def __init__(
        self,
        body: Body,
        args: list[str],
        stdin: IO[T] | None,
        stdout: IO[T] | None,
        stderr: IO[T] | None,
        encoding: tuple[str, str] | None,
    ) -> None:
        """*encoding* is that of text and how errors are treated, None for bytes."""
        self._body, self._encoding = body, encoding
        self._lock, self._maker = Lock(), os.getpid()
        self._talk: Talk | None = None
        self.args: list[str] = args
        self.stdin: IO[T] | None = stdin
        self.stdout: IO[T] | None = stdout
        self.stderr: IO[T] | None = stderr
        self.returncode: int | None = None

    def __repr__(self) -> str:
        return f"<Process {self.pid} returncode: {self.returncode} args: {self.args!r}>"

    def __reduce__(self) -> NoReturn:
        """To another process goes none: it is a child of this one."""
        raise TypeError(
            "cannot pickle a Process: it is waited for where it was started (its container can be)"
        )

    @property
    def pid(self) -> int:
        """Its number on this machine; not the one that it has in its container."""
        return self._body.pid

    @property
    def container(self) -> str:
        """The id of its container."""
        return self._body.container

    def fileno(self) -> int:
        """A descriptor that can be read from, for poll(2) and event loops, once it has ended; -1 when that is known.

        It stays this object's: copy it to keep it.
        """
        return self._body.descriptor

    # -- its end

    def poll(self) -> int | None:
        """Its exit status, None while it has not ended."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, for up to *timeout* seconds; its exit status. Raises TimeoutExpired; it goes on then."""
        status = self._ended(timeout)
        if status is None:
            raise self._late(timeout)
        return status

    def _ended(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            if os.getpid() != self._maker:
                raise Conflict(
                    f"wait for {' '.join(self.args)}: another process started it, of which this one was forked",
                    remedy="wait for it there",
                )
            status = self._body.end(seconds)
            if status is not None:
                self.returncode = status
        return self.returncode

    def _late(self, seconds: float | None, out: Any = None, err: Any = None) -> TimeoutExpired:
        said = f"wait for {' '.join(self.args)}: not ended within {seconds:g} s"
        return TimeoutExpired(said, cmd=self.args, timeout=seconds, stdout=out, stderr=err)

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Hand *input* to it, read what it writes until it closes its output, wait for its end: (stdout, stderr), each
        None unless it is a pipe.

        Raises TimeoutExpired with what came so far; it goes on, and `communicate` may be called again, nothing is lost.
        Raises ValueError for other input than at first.
        """
        from lamina.engine.talking import Talk

        deadline = None if timeout is None or timeout == INFINITE else monotonic() + timeout
        with self._lock:
            if self._talk is None:
                self._talk = Talk(self.stdin, self.stdout, self.stderr, input, self._encoding)
            elif input:
                raise ValueError("communicate: input was given before, and is still being handed over")
            talk = self._talk
            over = talk.go_on(deadline)
        left = None if deadline is None else max(0.0, deadline - monotonic())
        if not over or self._ended(left) is None:
            raise self._late(timeout, *talk.so_far())
        return talk.result()

    # -- signals

    def send_signal(self, signal: int | str) -> None:
        """Send it *signal*, by number or name; nothing happens when it has ended. Raises InvalidInput."""
        number = signal_number(str(int(signal) if isinstance(signal, int) else signal), "send signal")
        if self.poll() is None:
            self._body.send(number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(SIGKILL)

    # -- with

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        try:
            for file in (self.stdout, self.stderr, self.stdin):
                if file is not None:
                    file.close()
        except BrokenPipeError:
            pass  # what was still buffered for its input; it has ended, and that is what counts
        finally:
            self.wait()

    def __del__(self) -> None:
        try:
            lives = self.returncode is None and self.poll() is None
        except (AttributeError, LaminaError, OSError):  # never begun, or the interpreter is leaving
            return
        if lives:
            import warnings

            warnings.warn(f"process {self.pid} still runs", ResourceWarning, source=self, stacklevel=2)


__all__ = ["Process"]
