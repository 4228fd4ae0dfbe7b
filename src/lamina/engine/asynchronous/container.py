"""A container that exists, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous import attending
from lamina.engine.asynchronous.begun import Begun
from lamina.engine.asynchronous.following import following
from lamina.engine.asynchronous.mirrored.container import MirroredContainer
from lamina.engine.asynchronous.path import AsyncContainerPath
from lamina.engine.asynchronous.process import AsyncProcess, popen
from lamina.engine.asynchronous.readiness import follow
from lamina.engine.asynchronous.snapshot import AsyncAttempt
from lamina.engine.asynchronous.threads import in_thread, to_its_end, told_by_loop
from lamina.engine.exec_process import check as checked
from lamina.engine.life import awaiting, killing, restarting, stopping
from lamina.engine.logging import log_of
from lamina.engine.parameters import streams_of, text_of, words_of
from lamina.errors import LaminaError, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Literal, Self, TypeVar, Unpack, overload

    from lamina.engine import keywords
    from lamina.engine.asynchronous.process import BytesProcess, TextProcess
    from lamina.engine.completed import Completed
    from lamina.engine.container import Container
    from lamina.engine.executing import ExecOptions
    from lamina.engine.forked_options import ForkOptions
    from lamina.engine.parameters import Command, Stream
    from lamina.supervisor.logs import LogEntry

    T = TypeVar("T")


class AsyncContainer(MirroredContainer):
    """One container: `lamina.Container`, whose verbs are to be awaited.

    What can change and is a property there is one here, to be awaited too: `await box.status`. At the end of an `async
    with` one that came from `AsyncEngine.create` or `AsyncEngine.start` is killed and removed, whatever happened in the
    block; one that was looked up stays as it is.
    """

    def __init__(self, container: Container) -> None:
        """*container* is one whose record has been read: see `known`."""
        self._sync = container

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncContainer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)

    def _do(self, work: Callable[[], T]) -> Callable[[], T]:
        """What it is called and was made from is always known: what makes that old is done with a new look."""
        container = self._sync

        def do() -> T:
            before = container._asked
            try:
                return work()
            finally:
                if container._asked is None:
                    try:
                        known(container)
                    except LaminaError:
                        container._asked = before  # it is gone

        return do

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await to_its_end(in_thread(lambda: self._sync.__exit__(kind, error, trace)))

    @property
    def files(self) -> AsyncContainerPath:
        """Its root directory: `await (box.files / "etc/motd").read_text()`."""
        return AsyncContainerPath(self)

    # -- further processes

    if TYPE_CHECKING:

        @overload
        async def exec(self, command: Command, *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncExec]) -> Completed[str]: ...  # fmt: skip
        @overload
        async def exec(self, command: Command, *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncExec]) -> Completed[str]: ...  # fmt: skip
        @overload
        async def exec(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.AsyncExec]) -> Completed[str]: ...  # fmt: skip
        @overload
        async def exec(self, command: Command, *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.AsyncExec]) -> Completed[bytes]: ...  # fmt: skip
        @overload
        async def exec(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncExec]) -> Completed[Any]: ...  # fmt: skip

    async def exec(
        self,
        command: Command,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        input: bytes | str | None = None,
        capture_output: bool = False,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        check: bool = False,
        timeout: float | None = None,
        **options: Unpack[ExecOptions],
    ) -> Completed[Any]:
        """Run *command* beside what runs in it, and wait for its end: `Container.exec`. Cancelled, it is killed."""
        encoded = text_of(text, encoding, errors)
        words = words_of(command, "exec")
        asked = await in_thread(lambda: checked(options))
        io = streams_of(
            stdin, stdout, stderr, input, capture_output, encoded, timeout, False, asked.interactive, "exec"
        )
        return await attending.completed(
            attending.execute(self._sync._home, words, asked, io), encoded, check=check
        )

    if TYPE_CHECKING:

        @overload
        def popen(self, command: Command, *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncExecPopen]) -> Begun[TextProcess]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncExecPopen]) -> Begun[TextProcess]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.AsyncExecPopen]) -> Begun[TextProcess]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.AsyncExecPopen]) -> Begun[BytesProcess]: ...  # fmt: skip
        @overload
        def popen(self, command: Command, *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncExecPopen]) -> Begun[AsyncProcess[Any, Any]]: ...  # fmt: skip

    def popen(
        self,
        command: Command,
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        **options: Unpack[ExecOptions],
    ) -> Begun[AsyncProcess[Any, Any]]:
        """Begin *command* beside what runs in it, as a process with asyncio's streams: `Container.popen`.

        `await` it, or use it in an `async with`. The process lives on when the loop ends, and ends with the container.
        """

        async def begin() -> AsyncProcess[Any, Any]:
            words = words_of(command, "popen")
            asked = await in_thread(lambda: checked(options))
            io = streams_of(stdin, stdout, stderr, None, False, None, None, False, asked.interactive, "popen")
            return await popen(self._sync._home, words, asked, io, text_of(text, encoding, errors))

        return Begun(begin())

    # -- its states

    def attempt(self, name: str | None = None, *, consistency: str = "auto") -> AsyncAttempt:
        """Something that may fail, as a block: `Container.attempt`. One that is cancelled has failed.

        async with box.attempt():
            await box.exec(["make", "install"], check=True)
        """
        return AsyncAttempt(self._sync.attempt(name, consistency=consistency))

    async def forked_from(self) -> AsyncContainer:
        """The container that it was forked from: `Container.forked_from`."""
        return AsyncContainer(await in_thread(lambda: known(self._sync.forked_from())))

    async def fork(
        self,
        n: int = 1,
        *,
        name: str | None = None,
        names: Sequence[str] = (),
        start: bool = False,
        command: Command | None = None,
        consistency: str = "auto",
        owner: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        **options: Unpack[ForkOptions],
    ) -> list[AsyncContainer]:
        """Make *n* containers that begin with its files as they are now: `Container.fork`. Cancelled, none is left."""
        tell = told_by_loop(on_warning)

        def fork() -> list[Container]:
            made = self._sync.fork(
                n,
                name=name,
                names=names,
                start=start,
                command=command,
                consistency=consistency,
                owner=owner,
                on_warning=tell,
                **options,
            )
            return [known(one) for one in made]

        return [AsyncContainer(one) for one in await in_thread(fork, undo=remove_each)]

    # -- what it wrote

    def logs(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> AsyncIterator[LogEntry]:
        """What it wrote, oldest first: `Container.logs`. What there is to raise, the first step raises."""
        home, container = self._sync._home, self._sync

        def goes_on() -> bool:
            try:
                return container.is_alive
            except NotFound:  # it has ended, and with that it was removed
                return False

        def looks() -> Iterator[LogEntry | None]:
            log = log_of(home, home.asked())
            return log.looks(goes_on if follow else None, since=since, until=until, tail=tail)

        return following(looks, lambda: home.path, until)

    # -- its life

    async def stop(self, timeout: float | None = None, signal: str | int | None = None) -> None:
        """Ask its command to end, and kill it after a while: `Container.stop`."""
        await follow(stopping(self._sync._home, timeout, signal))

    async def kill(self, signal: str | int = "KILL") -> None:
        """Send *signal* to its first process: `Container.kill`."""
        await follow(killing(self._sync._home, signal))

    async def restart(self, timeout: float | None = None, signal: str | int | None = None) -> list[str]:
        """Stop it, if it runs, and start it: `Container.restart`."""
        return await follow(restarting(self._sync._home, timeout, signal))

    async def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; its exit status: `Container.wait`. It goes on where who waits is cancelled."""
        return await follow(awaiting(self._sync._home, timeout))


def remove_each(made: list[Container]) -> None:
    """Nobody has a name for them; in a thread."""
    for one in made:
        one.__exit__(None, None, None)


def known(container: Container) -> Container:
    """*container*, once its record has been read; in a thread."""
    container._record  # noqa: B018
    return container


__all__ = ["AsyncContainer", "known", "remove_each"]
