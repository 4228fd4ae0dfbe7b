"""A process in a container, in the words of asyncio.subprocess.Process and of lamina.Process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Generic, TypeVar

from lamina.engine import executing
from lamina.engine.asynchronous.attending import (
    LoopAttendance,
    attendance_of,
    attended,
    ended_by_us,
    killed,
    started,
)
from lamina.engine.asynchronous.talking import CHUNK, TextReader, TextWriter, reader_of, writer_of
from lamina.engine.asynchronous.threads import ending, in_thread, to_its_end
from lamina.engine.popen import Pipes
from lamina.errors import KernelError, TimeoutExpired
from lamina.linux.fd import Fd
from lamina.linux.signals import signal_number
from lamina.supervisor.stdio import Stdio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Self

    from lamina.engine.exec_process import Asked
    from lamina.engine.options import Io, Options
    from lamina.engine.run import Hooks
    from lamina.store.containers import Home
    from lamina.store.root import Store
    from lamina.supervisor.foreground import Ended

SIGTERM, SIGKILL = 15, 9

# what its streams are
W = TypeVar("W", asyncio.StreamWriter, TextWriter)
R = TypeVar("R", asyncio.StreamReader, TextReader)

# who stays with a process does so although its AsyncProcess is forgotten
_staying: set[asyncio.Task[int]] = set()


class AsyncProcess(Generic[W, R]):
    """A process in a container, begun by `AsyncContainer.popen` or `AsyncEngine.popen`; of the loop that began it.

    With `stdin`, `stdout`, `stderr` given as PIPE these are asyncio's StreamWriter and StreamReaders, None otherwise;
    of text, where that was asked for, with the same words. `returncode` is its exit status, 128 + n after signal n, and
    None until it is known. `args` is the command.

    At the end of an `async with` its pipes are closed and it is waited for; where something is raised in the block,
    cancellation among it, it is killed first.
    """

    def __init__(
        self,
        args: list[str],
        container: str,
        attendance: LoopAttendance,
        staying: Coroutine[Any, Any, int],
        send: Callable[[int], None],
    ) -> None:
        self.args: list[str] = args
        self._container = container
        self.stdin: W | Any = None  # or None, as typeshed has it where everybody knows
        self.stdout: R | Any = None
        self.stderr: R | Any = None
        self.returncode: int | None = None
        self._send, self._attendance = send, attendance
        self._encoding: tuple[str, str] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._talk: asyncio.Future[Any] | None = None
        self._out: list[Any] = []
        self._err: list[Any] = []
        self._ends: Fd | None = None
        self._staying = asyncio.ensure_future(staying)
        _staying.add(self._staying)
        self._staying.add_done_callback(self._ended)

    def __repr__(self) -> str:
        return f"<AsyncProcess {self.pid} returncode: {self.returncode} args: {self.args!r}>"

    @property
    def pid(self) -> int:
        """Its number on this machine; not the one that it has in its container."""
        return self._attendance.process.pid

    @property
    def container(self) -> str:
        """The id of its container."""
        return self._container

    async def _begin(self, pipes: Pipes, encoding: tuple[str, str] | None) -> None:
        """Make streams of our ends of *pipes*; where that fails, or is cancelled, it is killed, and has ended then."""
        self._encoding = encoding
        try:
            await asyncio.sleep(0)  # whoever stays with it has begun
            await self._connect(pipes, encoding)
        except BaseException:
            self.kill()
            pipes.close()
            for transport in self._transports:
                transport.close()
            await to_its_end(asyncio.wait((self._staying,)))
            raise

    async def _connect(self, pipes: Pipes, encoding: tuple[str, str] | None) -> None:
        for name in ("stdin", "stdout", "stderr"):
            if name not in pipes.ours:
                continue
            if name == "stdin":
                writer = await writer_of(pipes.ours[name])
                self._transports.append(writer.transport)
                setattr(self, name, writer if encoding is None else TextWriter(writer, *encoding))
            else:
                reader, transport = await reader_of(pipes.ours[name])
                self._transports.append(transport)
                setattr(self, name, reader if encoding is None else TextReader(reader, *encoding))

    def _ended(self, staying: asyncio.Task[int]) -> None:
        _staying.discard(staying)
        if not staying.cancelled() and staying.exception() is None:
            self.returncode = staying.result()
        if self._ends is not None:
            os.eventfd_write(self._ends, 1)

    def fileno(self) -> int:
        """A descriptor that can be read from once it has ended. It stays this object's: copy it to keep it."""
        if self._ends is None:  # few ask for one
            self._ends = Fd(os.eventfd(self._staying.done(), os.EFD_CLOEXEC))
        return int(self._ends)

    # -- its end

    def poll(self) -> int | None:
        """Its exit status, None while it is not known."""
        return self.returncode

    async def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, for up to *timeout* seconds; its exit status. Raises TimeoutExpired; it goes on then, as it
        does when who waits is cancelled.
        """
        done, _ = await asyncio.wait((self._staying,), timeout=timeout)
        if not done:
            raise self._late(timeout)
        return self._staying.result()

    def _late(self, seconds: float | None, out: Any = None, err: Any = None) -> TimeoutExpired:
        said = f"wait for {' '.join(self.args)}: not ended within {seconds:g} s"
        return TimeoutExpired(said, cmd=self.args, timeout=seconds, stdout=out, stderr=err)

    async def communicate(
        self, input: bytes | str | None = None, timeout: float | None = None
    ) -> tuple[Any, Any]:
        """Hand *input* to it, read what it writes until it closes its output, wait for its end: (stdout, stderr), each
        None unless it is a pipe.

        Raises TimeoutExpired with what came so far; it goes on, and `communicate` may be called again, nothing is lost.
        Raises ValueError for input where there was some before, or where its standard input is no pipe.
        """
        if input and (self.stdin is None or self._talk is not None):
            raise ValueError("communicate: its standard input is no pipe, or is being written to already")
        if self._talk is None:
            self._talk = asyncio.gather(
                self._hand_over(input), _all_of(self.stdout, self._out), _all_of(self.stderr, self._err)
            )
        both: tuple[asyncio.Future[Any], ...] = (self._talk, self._staying)
        _, late = await asyncio.wait(both, timeout=timeout)
        if late:
            raise self._late(timeout, self._come(self.stdout, self._out), self._come(self.stderr, self._err))
        self._talk.result()
        self._staying.result()
        return self._come(self.stdout, self._out), self._come(self.stderr, self._err)

    def _come(self, reader: Any, parts: list[Any]) -> Any:
        """What was read so far."""
        if reader is None:
            return None
        return (b"" if self._encoding is None else "").join(parts)

    async def _hand_over(self, input: bytes | str | None) -> None:
        stdin: Any = self.stdin
        if stdin is None:
            return
        if input and isinstance(input, str) and self._encoding is None:
            raise TypeError("communicate: input is text, and its pipes are of bytes")
        try:
            if input:
                stdin.write(input)
                await stdin.drain()
            stdin.close()
            await stdin.wait_closed()
        except ConnectionError:
            pass  # it reads no more: what it does about that is its own business

    # -- signals

    def send_signal(self, signal: int | str) -> None:
        """Send it *signal*, by number or name; nothing happens when it has ended. Raises InvalidInput."""
        number = signal_number(str(int(signal) if isinstance(signal, int) else signal), "send signal")
        if not self._attendance.ended:
            self._send(number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(SIGKILL)

    # -- async with

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._transports:
            transport.close()
        if kind is not None:
            self.kill()
        try:
            await self.wait()
        except asyncio.CancelledError:
            self.kill()
            await to_its_end(self.wait())
            raise


BytesProcess = AsyncProcess[asyncio.StreamWriter, asyncio.StreamReader]
TextProcess = AsyncProcess[TextWriter, TextReader]


async def _all_of(reader: Any, parts: list[Any]) -> None:
    while reader is not None and (part := await reader.read(CHUNK)):
        parts.append(part)


async def popen(
    home: Home, words: tuple[str, ...], asked: Asked, io: Io, encoding: tuple[str, str] | None
) -> AsyncProcess[Any, Any]:
    """Begin *words* in the container; raises as `executing.execute`."""
    pipes = await in_thread(lambda: Pipes(io, -1), undo=lambda made: made.close())
    try:
        stdio, execution, tell = await in_thread(lambda: _begin(home, words, asked, pipes), undo=_undo)
    except BaseException:
        pipes.close()
        raise
    pipes.handed_over()
    execution.handed_over()
    attendance = LoopAttendance(execution, stdio, None, init=True)

    async def stay() -> int:
        ended: Ended | None = None
        try:
            ended = how = await attendance.stay()
            await ending(lambda: executing.conclude(execution, how, tell))
        except asyncio.CancelledError:
            if ended is None:
                await ending(lambda: executing.leave(execution))  # it lives on when who began it ends
            raise
        except BaseException:
            if ended is None:
                await to_its_end(killed(execution))
                await ending(lambda: ended_by_us(execution))
            raise
        finally:
            await ending(stdio.close)
        if ended.errors:
            raise KernelError("write the output of the command", ended.errors[0].errno or 5)
        return ended.status

    process: AsyncProcess[Any, Any] = AsyncProcess(list(words), home.id, attendance, stay(), execution.kill)
    await process._begin(pipes, encoding)
    return process


def _begin(
    home: Home, words: tuple[str, ...], asked: Asked, pipes: Pipes
) -> tuple[Any, executing.Execution, Callable[..., str]]:
    io = pipes.io
    stdio = Stdio(io.stdin, io.stdout, io.stderr, tty=asked.tty)
    try:
        return stdio, *executing.begin(home, words, asked, stdio, io.stdin)
    except BaseException:
        stdio.close()
        raise


def _undo(begun: tuple[Any, executing.Execution, Callable[..., str]]) -> None:
    stdio, execution, _ = begun
    ended_by_us(execution)
    stdio.close()


async def popen_container(
    store: Store,
    image: str,
    words: tuple[str, ...],
    options: Options,
    io: Io,
    hooks: Hooks,
    encoding: tuple[str, str] | None,
) -> AsyncProcess[Any, Any]:
    """Begin *words* in a new container; raises as `run.run`."""
    pipes = await in_thread(lambda: Pipes(io, -1), undo=lambda made: made.close())
    try:
        session = await started(store, image, words, options, pipes.io, hooks)
    except BaseException:
        pipes.close()
        raise
    pipes.handed_over()
    attendance = attendance_of(session)

    async def stay() -> int:
        return (await attended(session, attendance)).returncode

    def send(signal: int) -> None:
        # the kernel spares the first process of a container what would end any other
        attendance.deliver(signal)

    assert session.record is not None
    process: AsyncProcess[Any, Any] = AsyncProcess(
        session.record["command"], session.home.id, attendance, stay(), send
    )
    await process._begin(pipes, encoding)
    return process


__all__ = ["AsyncProcess", "popen", "popen_container"]
