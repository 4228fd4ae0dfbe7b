"""The engine: what people call from Python. One object for each store; safe to use from several threads."""

from __future__ import annotations

import os

from lamina.engine.image_verbs import ImageVerbs
from lamina.engine.parameters import completed, streams_of, text_of, words_of
from lamina.store.root import Store
from lamina.supervisor.stdio import DEVNULL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import Any, Literal, Unpack, overload

    from lamina.engine import keywords
    from lamina.engine.completed import Completed
    from lamina.engine.container import Container
    from lamina.engine.network_verbs import Networks
    from lamina.engine.options import LifeOptions, Options, RunOptions
    from lamina.engine.parameters import Command, Stream
    from lamina.engine.process import Process
    from lamina.engine.storage import Storage
    from lamina.engine.volumes import Volume
    from lamina.errors import LaminaError
    from lamina.runtime.plan import Plan
    from lamina.store.events import Event

# every so many runs an engine that does nothing else looks after what killed engines left
RUNS_BETWEEN_SWEEPS = 64


class Engine(ImageVerbs):
    """Containers in the store at *root* (default: $LAMINA_ROOT, /var/lib/lamina, or $XDG_DATA_HOME/lamina).

    There is nothing to close. It can be used from several threads at once, and goes on working in a child after fork.
    """

    def __init__(
        self,
        root: str | bytes | PathLike[str] | PathLike[bytes] | None = None,
        *,
        store_limit: str | int | None = None,
        network: str | None = None,
    ) -> None:
        """With *store_limit* (bytes, or "200g"; default: $LAMINA_STORE_LIMIT) images that were not used for the longest
        time go when others come; see `Storage.keep_below`. *network* is that of containers of images for which none is
        named (default: $LAMINA_NETWORK, and without that "bridge" for root, "pasta" or "slirp4netns" for others); "" is
        what is usual, whatever the variable says.
        """
        self._root = root
        self._limit = os.environ.get("LAMINA_STORE_LIMIT") if store_limit is None else store_limit
        self._network = network
        self._store: Store | None = None
        self._runs = 0

    def __repr__(self) -> str:
        root = self._root if self._store is None else self._store.path
        return "<Engine>" if root is None else f"<Engine {os.fsdecode(root)}>"

    def __reduce__(self) -> tuple[object, ...]:
        """To another process goes where the store is."""
        root = self._root if self._store is None else self._store.path
        return _opened, (root, self._limit, self._network)

    @property
    def store(self) -> Store:
        """The store, opened (and made, if need be) when it is first used."""
        if self._store is None:
            self._store = Store(self._root)
            if self._limit:
                from lamina.engine.storage import read_limit

                self._store.limit = read_limit(str(self._limit))
        return self._store

    @property
    def storage(self) -> Storage:
        """What the store keeps, and what can be done about it: usage, garbage, checks, pins, limits, volumes."""
        from lamina.engine.storage import Storage

        return Storage(self.store)

    if TYPE_CHECKING:

        @overload
        def run(self, image: str, command: Command = (), *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.Run]) -> Completed[str]: ...  # fmt: skip
        @overload
        def run(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.Run]) -> Completed[str]: ...  # fmt: skip
        @overload
        def run(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.Run]) -> Completed[str]: ...  # fmt: skip
        @overload
        def run(self, image: str, command: Command = (), *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.Run]) -> Completed[bytes]: ...  # fmt: skip
        @overload
        def run(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.Run]) -> Completed[Any]: ...  # fmt: skip

    def run(
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
        forward_signals: bool = False,
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Completed[Any]:
        """Run *command* in a new container over *image* and wait for its end.

        The streams, `input`, `capture_output`, `text`, `encoding` (UTF-8 unless given), `errors`, `check` and `timeout`
        (seconds) are those of subprocess.run, with one difference: standard input is empty unless `input` or `stdin` is
        given, or `interactive` asks for the caller's. `**options` are those of `docker run`; see RunOptions. With
        `forward_signals` (main thread only) signals for this process go to the command instead. An image that is not
        here is pulled; `on_event` is told how that goes (see `pull`).

        Raises CommandNotFound, CommandNotExecutable, TimeoutExpired, ContainerFailed (`check`), InvalidInput,
        Unsupported, KernelError and others below LaminaError.
        """
        from lamina.engine.run import Hooks, run

        checked = self._checked(image, options)
        words, encoded = words_of(command), text_of(text, encoding, errors)
        io = streams_of(
            stdin, stdout, stderr, input, capture_output, encoded, timeout, forward_signals, checked.interactive
        )  # fmt: skip
        self._sweep()
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)
        return completed(lambda: run(self.store, image, words, checked, io, hooks), encoded, check=check)

    if TYPE_CHECKING:

        @overload
        def popen(self, image: str, command: Command = (), *,
            text: Literal[True], encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.RunPopen]) -> Process[str]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str, errors: str | None = None,
            **keywords: Unpack[keywords.RunPopen]) -> Process[str]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str,
            **keywords: Unpack[keywords.RunPopen]) -> Process[str]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: Literal[False] = False, encoding: None = None, errors: None = None,
            **keywords: Unpack[keywords.RunPopen]) -> Process[bytes]: ...  # fmt: skip
        @overload
        def popen(self, image: str, command: Command = (), *,
            text: bool = False, encoding: str | None = None, errors: str | None = None,
            **keywords: Unpack[keywords.RunPopen]) -> Process[Any]: ...  # fmt: skip

    def popen(
        self,
        image: str,
        command: Command = (),
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        bufsize: int = -1,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Process[Any]:
        """Begin *command* in a new container over *image*, and give it as a Process: subprocess.Popen, in a container.

        The streams, `bufsize`, `text`, `encoding` and `errors` are those of Popen; the rest, what is raised, and that
        standard input is empty unless it is given, are as of `run`. The container is this program's: it ends when the
        program does, at the latest. A thread of ours stays with it and calls `on_warning` and the others.
        """
        from lamina.engine.popen import popen_container
        from lamina.engine.run import Hooks

        checked = self._checked(image, options)
        io = streams_of(stdin, stdout, stderr, None, False, None, None, False, checked.interactive, "popen")
        self._sweep()
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)
        return popen_container(
            self.store, image, words_of(command), checked, io, hooks, bufsize, text_of(text, encoding, errors)
        )

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
    ) -> Container:
        """Make a container over *image* that executes *command* once it is started (`Container.start`).

        `**options` are those of `docker create`; see LifeOptions. With the `lifetime` "owner" it ends, and is removed,
        when the process *owner* ends (default: this one). With *stdin_once*, and `interactive`, the end of input of who
        attaches is its own; else that never ends. Raises as `run` does.

        `with engine.create(...) as box:` removes it at the end of the block, whatever happens there.
        """
        from lamina.engine.container import Container
        from lamina.engine.creating import create
        from lamina.engine.run import Hooks

        checked = self._checked(image, options)
        self._sweep()
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)
        owner = os.getpid() if owner is None else owner
        return Container(
            create(self.store, image, words_of(command), checked, hooks, owner=owner, stdin_once=stdin_once),
            made=True,
        )

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
    ) -> Container:
        """Make a container and start it: `docker run -d`. Arguments, and what is raised, as of `create`.

        `with engine.start(...) as box:` removes it at the end of the block, whatever happens there. Where the start
        fails, nothing is left: there would be nobody to remove it.
        """
        container = self.create(
            image,
            command,
            owner=owner,
            stdin_once=stdin_once,
            on_warning=on_warning,
            on_created=on_created,
            on_event=on_event,
            **options,
        )
        try:
            for warning in container.start():
                if on_warning is not None:
                    on_warning(warning)
        except BaseException as failure:
            container.__exit__(type(failure), failure, failure.__traceback__)
            raise
        return container

    def plan(self, image: str, command: Command = (), **options: Unpack[RunOptions]) -> Plan:
        """What `run` would do, as the list of system calls of its start; nothing is made, pulled or started."""
        from lamina.engine.design import HOST, design, to_come
        from lamina.runtime.launch import plan

        checked = self._checked(image, options, trying=False)
        further = checked.further
        if further is not None and (further.userns or further.uidmap or further.gidmap):
            from lamina.errors import Unsupported

            raise Unsupported(
                "plan: ids of its own: such a container's layers are mounted beforehand, which no plan shows",
                remedy="leave --userns, --uidmap and --gidmap out",
            )
        record = None
        if image != HOST:
            from lamina.engine.obtain import find

            record = find(self.store, image)
        identity = "0" * 64
        home = self.store.containers + b"/" + identity.encode()
        drawn = design(self.store, identity, home, record, words_of(command), checked, DEVNULL)
        return plan(drawn.bundle, seccomp=drawn.seccomp(self.store), to_come=to_come(drawn))

    def container(self, reference: str) -> Container:
        """The container with that name, id, or unique beginning of an id. Raises NotFound, InvalidInput."""
        from lamina.engine.container import Container
        from lamina.engine.recover import recover
        from lamina.store.containers import find

        recover(self.store)
        return Container(find(self.store, reference))

    def containers(self, all: bool = False) -> list[Container]:
        """The running containers, or all of them, the oldest first."""
        from lamina.engine.container import Container
        from lamina.engine.listing import seen
        from lamina.store.containers import Home

        return [Container(Home(self.store, one.id)) for one in seen(self.store, all=all)]

    # -- volumes

    def volumes(self) -> list[Volume]:
        """All volumes, by name. Raises Corrupt."""
        from lamina.engine.volumes import every

        return every(self.store)

    def volume(self, name: str) -> Volume:
        """The volume of that name. Raises NotFound, InvalidInput, Corrupt."""
        from lamina.engine.volumes import find

        return find(self.store, name)

    def create_volume(self, name: str | None = None, *, labels: Mapping[str, str] | None = None) -> Volume:
        """The volume *name* (None: a random one), made if it is not there; one that is there stays as it is, its labels
        too, as in docker. Raises InvalidInput, Corrupt, KernelError.
        """
        from lamina.engine.volumes import create

        return create(self.store, name, dict(labels or {}))

    # -- networks

    @property
    def networks(self) -> Networks:
        """The networks that containers can be in: listed, made, looked up."""
        from lamina.engine.network_verbs import Networks

        return Networks(self.store)

    # -- what happens, and what is left

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Event]:
        """What happens to containers, images, volumes and networks, also by other programs, as it happens.

        *since* and *until* are in seconds since 1970: without *since* only what comes from now on, without *until* for
        ever. *filters* by "type", "event", "container", "image", "volume", "network", "label". Raises
        InvalidInput.
        """
        from lamina.engine.watching import events

        return events(self.store, since, until, filters)

    def prune_containers(
        self, *, before: float | None = None, labels: Sequence[str] = (), without: Sequence[str] = ()
    ) -> tuple[list[str], int]:
        """Remove the containers that do not run: those made *before* that time (seconds since 1970), which have all of
        *labels* (KEY or KEY=VALUE) and none of those *without*. Their ids, and how many bytes became free.
        """
        from lamina.engine.pruning import Chosen, prune_containers

        return prune_containers(self.containers(all=True), Chosen(before, labels, without))

    def start_restartable(self) -> list[tuple[str, LaminaError | None]]:
        """Start the containers that are started with the machine, as their restart policies say: the name of each, and
        why it could not be started, or None.
        """
        from lamina.engine.restartable import start_restartable

        return start_restartable(self.store)

    def stop_restartable(self) -> list[tuple[str, LaminaError | None]]:
        """Stop the containers that have a restart policy because the machine ends: `start_restartable` starts them
        again. As that.
        """
        from lamina.engine.restartable import stop_restartable

        return stop_restartable(self.store)

    def abandon(self) -> None:
        """Remove what this process has begun and not finished, of any thread. For a process that is about to end."""
        from lamina.engine.recover import abandon

        abandon(self.store)

    def _checked(self, image: str, options: RunOptions | LifeOptions, *, trying: bool = True) -> Options:
        """The *options* of a container over *image*, checked, with its network where none is named."""
        from lamina.engine.checking import with_default

        return with_default(lambda: self.store, image, options, self._network, trying=trying)

    def _sweep(self) -> None:
        """Clean up after killed engines, now and then: a program that does nothing but run should leave nothing."""
        count, self._runs = self._runs, self._runs + 1
        if count % RUNS_BETWEEN_SWEEPS == 0 and (
            os.listdir(self.store.running) or os.listdir(self.store.tmp)
        ):
            from lamina.engine.recover import recover

            recover(self.store)


def _opened(root: str | bytes | None, limit: str | int | None, network: str | None) -> Engine:
    return Engine(root, store_limit=limit, network=network)


if TYPE_CHECKING:

    @overload
    def run(image: str, command: Command = (), *,
        text: Literal[True], encoding: str | None = None, errors: str | None = None,
        **keywords: Unpack[keywords.Run]) -> Completed[str]: ...  # fmt: skip
    @overload
    def run(image: str, command: Command = (), *,
        text: bool = False, encoding: str, errors: str | None = None,
        **keywords: Unpack[keywords.Run]) -> Completed[str]: ...  # fmt: skip
    @overload
    def run(image: str, command: Command = (), *,
        text: bool = False, encoding: str | None = None, errors: str,
        **keywords: Unpack[keywords.Run]) -> Completed[str]: ...  # fmt: skip
    @overload
    def run(image: str, command: Command = (), *,
        text: Literal[False] = False, encoding: None = None, errors: None = None,
        **keywords: Unpack[keywords.Run]) -> Completed[bytes]: ...  # fmt: skip
    @overload
    def run(image: str, command: Command = (), *,
        text: bool = False, encoding: str | None = None, errors: str | None = None,
        **keywords: Unpack[keywords.Run]) -> Completed[Any]: ...  # fmt: skip


def run(
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
    forward_signals: bool = False,
    on_warning: Callable[[str], None] | None = None,
    on_created: Callable[[str], None] | None = None,
    on_event: Callable[..., None] | None = None,
    **options: Unpack[RunOptions],
) -> Completed[Any]:
    """`Engine().run(...)`: run *command* in a new container over *image*, in the default store, to its end."""
    return Engine().run(
        image,
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        input=input,
        capture_output=capture_output,
        text=text,
        encoding=encoding,
        errors=errors,
        check=check,
        timeout=timeout,
        forward_signals=forward_signals,
        on_warning=on_warning,
        on_created=on_created,
        on_event=on_event,
        **options,
    )


__all__ = ["Engine", "run"]
