"""The engine for event loops: `lamina.AsyncEngine`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.engine.asynchronous import attending
from lamina.engine.asynchronous.begun import Begun
from lamina.engine.asynchronous.container import AsyncContainer, known
from lamina.engine.asynchronous.following import following
from lamina.engine.asynchronous.mirrored.engine import MirroredEngine
from lamina.engine.asynchronous.process import AsyncProcess, popen_container
from lamina.engine.asynchronous.threads import in_thread, to_its_end, told_by_loop
from lamina.engine.container import Container
from lamina.engine.creating import create
from lamina.engine.engine import Engine
from lamina.engine.parameters import streams_of, text_of, words_of
from lamina.engine.run import Hooks
from lamina.engine.watching import looks
from lamina.store.root import make_directory
from lamina.values import replace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import Any, Literal, Unpack, overload

    from lamina.engine import keywords
    from lamina.engine.asynchronous.process import BytesProcess, TextProcess
    from lamina.engine.completed import Completed
    from lamina.engine.options import Io, LifeOptions, Options, RunOptions
    from lamina.engine.parameters import Command, Stream
    from lamina.store.events import Event
    from lamina.store.root import Store


class AsyncEngine(MirroredEngine):
    """`lamina.Engine` for event loops, name by name: what waits there is to be awaited here, and the loop never waits.

    There is nothing to close. It can be used by several loops and threads at once; it sets no signal handlers and no
    child watchers. Callbacks are called by the loop. Who is cancelled leaves nothing behind that he has no name for: a
    command that is run is killed, and a container that was being made is removed. Signals are the program's own, so
    there is no `forward_signals`, and nothing to be attached to a terminal with.
    """

    def __init__(
        self,
        root: str | bytes | PathLike[str] | PathLike[bytes] | None = None,
        *,
        store_limit: str | int | None = None,
        network: str | None = None,
    ) -> None:
        """As of `Engine`."""
        self._sync = Engine(root, store_limit=store_limit, network=network)

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    if TYPE_CHECKING:

        @overload
        async def run(self, image: str, command: Command = (), *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncRun]) -> Completed[str]: ...  # fmt: skip
        @overload
        async def run(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncRun]) -> Completed[str]: ...  # fmt: skip
        @overload
        async def run(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.AsyncRun]) -> Completed[str]: ...  # fmt: skip
        @overload
        async def run(self, image: str, command: Command = (), *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.AsyncRun]) -> Completed[bytes]: ...  # fmt: skip
        @overload
        async def run(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncRun]) -> Completed[Any]: ...  # fmt: skip

    async def run(
        self,
        image: str,
        command: Command = (),
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
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Completed[Any]:
        """Run *command* in a new container over *image* and wait for its end: `Engine.run`.

        Cancelled, the command is killed; of a container with `rm` nothing is left, another one has ended.
        """
        words, encoded = words_of(command), text_of(text, encoding, errors)

        def asked(interactive: bool) -> Io:
            return streams_of(
                stdin, stdout, stderr, input, capture_output, encoded, timeout, False, interactive
            )

        store, checked, io = await in_thread(lambda: self._prepared(image, options, asked))
        hooks = _by_loop(Hooks(warn=on_warning, created=on_created, events=on_event))
        work = attending.run(store, image, words, checked, io, hooks)
        return await attending.completed(work, encoded, check=check)

    if TYPE_CHECKING:

        @overload
        def popen(self, image: str, command: Command = (), *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncRunPopen]) -> Begun[TextProcess]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncRunPopen]) -> Begun[TextProcess]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.AsyncRunPopen]) -> Begun[TextProcess]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.AsyncRunPopen]) -> Begun[BytesProcess]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.AsyncRunPopen]) -> Begun[AsyncProcess[Any, Any]]: ...  # fmt: skip

    def popen(
        self,
        image: str,
        command: Command = (),
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Begun[AsyncProcess[Any, Any]]:
        """Begin *command* in a new container over *image*, as a process with asyncio's streams: `Engine.popen`.

        `await` it, or use it in an `async with`. The container ends when the loop that began it does, at the latest.
        """

        async def begin() -> AsyncProcess[Any, Any]:
            words = words_of(command, "popen")

            def asked(interactive: bool) -> Io:
                return streams_of(stdin, stdout, stderr, None, False, None, None, False, interactive, "popen")

            store, checked, io = await in_thread(lambda: self._prepared(image, options, asked))
            hooks = _by_loop(Hooks(warn=on_warning, created=on_created, events=on_event))
            return await popen_container(
                store, image, words, checked, io, hooks, text_of(text, encoding, errors)
            )

        return Begun(begin())

    def create(
        self,
        image: str,
        command: Command = (),
        *,
        owner: int | None = None,
        stdin_once: bool = False,
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[LifeOptions],
    ) -> Begun[AsyncContainer]:
        """Make a container over *image* that executes *command* once it is started: `Engine.create`.

        `await` it, or use it in an `async with`, which removes it at its end.
        """
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)
        return Begun(self._create(image, command, hooks, options, owner=owner, stdin_once=stdin_once))

    async def _create(
        self,
        image: str,
        command: Command,
        hooks: Hooks,
        options: LifeOptions,
        *,
        owner: int | None,
        stdin_once: bool,
    ) -> AsyncContainer:
        hooks, words = _by_loop(hooks), words_of(command)
        store, checked, _ = await in_thread(lambda: self._prepared(image, options, None))
        held = await attending.obtained(store, image, checked, hooks)

        def make() -> Container:
            owned_by = os.getpid() if owner is None else owner
            home = create(
                store, image, words, checked, hooks, owner=owned_by, stdin_once=stdin_once, held=held
            )
            return known(Container(home, made=True))

        try:
            made = await in_thread(make, undo=lambda made: made.__exit__(None, None, None))
        except BaseException:
            if held is not None:
                held.release()  # no thread may have begun
            raise
        return AsyncContainer(made)

    def start(
        self,
        image: str,
        command: Command = (),
        *,
        owner: int | None = None,
        stdin_once: bool = False,
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[LifeOptions],
    ) -> Begun[AsyncContainer]:
        """Make a container and start it: `Engine.start`.

        `await` it, or use it in an `async with`, which removes it at its end, whatever happens. Where the start fails
        or is cancelled, nothing is left.
        """
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)

        async def begin() -> AsyncContainer:
            container = await self._create(image, command, hooks, options, owner=owner, stdin_once=stdin_once)
            try:
                for warning in await container.start():
                    if on_warning is not None:
                        on_warning(warning)
            except BaseException as failure:
                await to_its_end(container.__aexit__(type(failure), failure, failure.__traceback__))
                raise
            return container

        return Begun(begin())

    async def container(self, reference: str) -> AsyncContainer:
        """The container with that name, id, or unique beginning of an id: `Engine.container`."""
        return AsyncContainer(await in_thread(lambda: known(self._sync.container(reference))))

    async def containers(self, all: bool = False) -> list[AsyncContainer]:
        """The running containers, or all of them, the oldest first: `Engine.containers`."""
        found = await in_thread(lambda: [known(one) for one in self._sync.containers(all)])
        return [AsyncContainer(one) for one in found]

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> AsyncIterator[Event]:
        """What happens to containers, images, volumes and networks, as it happens: `Engine.events`, for `async for`.

        Without *since* it begins when the first one is asked for; what is raised is raised then.
        """

        def begin() -> Iterator[Event | None]:
            return looks(self._sync.store, since, until, filters)

        return following(begin, self._events_directory, until)

    def _events_directory(self) -> bytes:
        place = self._sync.store.events
        make_directory(place, 0o700, exist_ok=True)
        return place

    def _prepared(
        self, image: str, options: Any, io: Callable[[bool], Io] | None
    ) -> tuple[Store, Options, Any]:
        """What every container begins with; in a thread, for options may name files."""
        checked = self._sync._checked(image, options)
        streams = None if io is None else io(checked.interactive)
        self._sync._sweep()
        return self._sync.store, checked, streams


def _by_loop(hooks: Hooks) -> Hooks:
    """The callbacks, for threads; those of a pull become so where there is one."""
    return replace(hooks, warn=told_by_loop(hooks.warn), created=told_by_loop(hooks.created))


__all__ = ["AsyncEngine"]
