"""The engine: what people call from Python. One object for each store; safe to use from several threads."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput
from lamina.store.root import Store
from lamina.supervisor.stdio import DEVNULL, PIPE, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import Any, Protocol, Unpack

    from lamina.engine.completed import Completed
    from lamina.engine.container import Container
    from lamina.engine.images import Image, Step
    from lamina.engine.options import Io, LifeOptions, RunOptions
    from lamina.engine.storage import Storage
    from lamina.image.registry.search import Repository
    from lamina.runtime.plan import Plan
    from lamina.store.events import Event

    class HasFileno(Protocol):
        """A file object."""

        def fileno(self) -> int: ...

    Stream = int | HasFileno | None
    LayerLimits = Mapping[str, int | str]  # {"size": "1t"}
    Source = str | PathLike[str] | int | HasFileno
    Command = str | PathLike[str] | Sequence[str | bytes | PathLike[str]]

# every so many runs an engine that does nothing else looks after what killed engines left
RUNS_BETWEEN_SWEEPS = 64


class Engine:
    """Containers in the store at *root* (default: $LAMINA_ROOT, /var/lib/lamina, or $XDG_DATA_HOME/lamina)."""

    def __init__(
        self,
        root: str | bytes | PathLike[str] | PathLike[bytes] | None = None,
        *,
        store_limit: str | int | None = None,
    ) -> None:
        """With *store_limit* (bytes, or "200g"; default: $LAMINA_STORE_LIMIT) images that were not used for the longest
        time go when others come; see `Storage.keep_below`.
        """
        self._root = root
        self._limit = os.environ.get("LAMINA_STORE_LIMIT") if store_limit is None else store_limit
        self._store: Store | None = None
        self._runs = 0

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
        check: bool = False,
        timeout: float | None = None,
        forward_signals: bool = False,
        on_warning: Callable[[str], None] | None = None,
        on_created: Callable[[str], None] | None = None,
        on_event: Callable[..., None] | None = None,
        **options: Unpack[RunOptions],
    ) -> Completed:
        """Run *command* in a new container over *image* and wait for its end.

        The streams, `input`, `capture_output`, `text`, `encoding`, `check` and `timeout` (seconds) are those of
        subprocess.run, with one difference: standard input is empty unless `input` or `stdin` is given, or
        `interactive` asks for the caller's. `**options` are those of `docker run`; see RunOptions. With
        `forward_signals` (main thread only) signals for this process go to the command instead. An image that is not
        here is pulled; `on_event` is told how that goes (see `pull`).

        Raises CommandNotFound, CommandNotExecutable, TimeoutExpired, ContainerFailed (`check`), InvalidInput,
        Unsupported, KernelError and others below LaminaError.
        """
        from lamina.engine.checking import check_options
        from lamina.engine.run import Hooks, run

        checked = check_options(options)
        words = words_of(command)
        io = streams_of(
            stdin,
            stdout,
            stderr,
            input,
            capture_output,
            encoding,
            timeout,
            forward_signals,
            checked.interactive,
        )
        self._sweep()
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)
        return completed(
            lambda: run(self.store, image, words, checked, io, hooks), text, encoding, check=check
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
        """
        from lamina.engine.checking import check_options
        from lamina.engine.container import Container
        from lamina.engine.creating import create
        from lamina.engine.run import Hooks

        checked = check_options(options)
        self._sweep()
        hooks = Hooks(warn=on_warning, created=on_created, events=on_event)
        owner = os.getpid() if owner is None else owner
        return Container(
            create(self.store, image, words_of(command), checked, hooks, owner=owner, stdin_once=stdin_once)
        )

    def start(
        self,
        image: str,
        command: Command = (),
        **options: Any,
    ) -> Container:
        """Make a container and start it: `docker run -d`. Arguments as of `create`.

        Where the start fails, a container that is not to be removed stays, "created". Raises as `run` does.
        """
        container = self.create(image, command, **options)
        container.start()
        return container

    def plan(self, image: str, command: Command = (), **options: Unpack[RunOptions]) -> Plan:
        """What `run` would do, as the list of system calls of its start; nothing is made, pulled or started."""
        from lamina.engine.checking import check_options
        from lamina.engine.design import HOST, design, to_come
        from lamina.runtime.launch import plan

        checked = check_options(options)
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
        from lamina.engine.recover import recover
        from lamina.errors import NotFound
        from lamina.store.containers import Home, identities

        recover(self.store, thorough=True)
        found = []
        for identity in identities(self.store):
            container = Container(Home(self.store, identity))
            try:
                if all or container.is_alive:
                    found.append((container.created, container))
            except NotFound:
                continue  # removed meanwhile, or not yet written down
        found.sort(key=lambda entry: entry[0])
        return [container for _, container in found]

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, Sequence[str]] | None = None,
    ) -> Iterator[Event]:
        """What happens to containers, images and volumes, also by other programs, as it happens.

        *since* and *until* are in seconds since 1970: without *since* only what comes from now on, without *until* for
        ever. *filters* by "type", "event", "container", "image", "volume", "label". Raises InvalidInput.
        """
        from lamina.engine.watching import events

        return events(self.store, since, until, filters)

    def prune_containers(
        self, *, before: float | None = None, labels: Sequence[str] = (), without: Sequence[str] = ()
    ) -> tuple[list[str], int]:
        """Remove the containers that do not run: those made *before* that time (seconds since 1970), which have all of
        *labels* (KEY or KEY=VALUE) and none of those *without*. Their ids, and how many bytes became free.
        """
        from lamina.engine.pruning import prune_containers

        return prune_containers(self.containers(all=True), before, labels, without)

    # -- images

    def pull(
        self,
        name: str,
        *,
        platform: str | None = None,
        keep_blobs: bool = False,
        tls_verify: bool = True,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> str:
        """Fetch the image *name* from its registry, unpack it and give it that name, whose full form is returned.

        *platform* is such as "linux/arm64"; this machine's unless given. *keep_blobs*: the compressed layers are kept
        as well. *tls_verify* False: whoever answers is believed. *limits* are of each layer, {"size": "1t"}: see
        docs/layers.md for their names. *on_event* is called with a word and facts by name,
        from several threads but one at a time: see `lamina.image.transfer.events`. Raises NotFound,
        InvalidReference, RegistryError.
        """
        from lamina.engine.pulling import pull

        return pull(
            self.store, name, platform, on_event, keep_blobs=keep_blobs, tls_verify=tls_verify, limits=limits
        )[1]

    def pull_all(
        self,
        name: str,
        *,
        platform: str | None = None,
        keep_blobs: bool = False,
        tls_verify: bool = True,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> list[str]:
        """Fetch every tag of the repository *name*, as `pull`; their full names."""
        from lamina.engine.pulling import pull_all

        return pull_all(
            self.store, name, platform, on_event, keep_blobs=keep_blobs, tls_verify=tls_verify, limits=limits
        )

    def push(self, name: str, *, tls_verify: bool = True, on_event: Callable[..., None] | None = None) -> str:
        """Send the image *name* to where the name says; its digest there. Events as of `pull`.

        Raises NotFound, InvalidReference, RegistryError.
        """
        from lamina.engine.pulling import push

        return push(self.store, name, on_event, tls_verify=tls_verify)

    def search(self, text: str, *, limit: int = 25, tls_verify: bool = True) -> list[Repository]:
        """At most *limit* repositories of a registry for "[REGISTRY/]TERM", the registry's best first.

        Raises InvalidInput, RegistryError, Unsupported for a registry that cannot be searched.
        """
        from lamina.engine.pulling import search

        return search(text, limit, tls_verify=tls_verify)

    def images(self) -> list[Image]:
        """All images, the youngest first."""
        from lamina.engine.images import list_images

        return list_images(self.store)

    def image(self, reference: str) -> Image:
        """The image with that name, id, or unique beginning of an id. Raises NotFound, InvalidInput."""
        from lamina.engine.images import image

        return image(self.store, reference)

    def tag(self, source: str, target: str) -> None:
        """Let the name *target* stand for the image *source* as well. Raises NotFound, InvalidReference."""
        from lamina.engine.images import tag

        tag(self.store, source, target)

    def remove_image(
        self, reference: str, *, force: bool = False, prune: bool = True
    ) -> list[tuple[str, str]]:
        """Take the name away, and with the last one remove the image and (*prune*) the layers that nothing else needs.

        What was done: pairs of "Untagged" or "Deleted", and what. Raises NotFound, Conflict.
        """
        from lamina.engine.images import remove

        return remove(self.store, reference, force=force, prune=prune)

    def prune_images(
        self,
        *,
        everything: bool = False,
        until: float | None = None,
        labels: Sequence[str] = (),
        without_labels: Sequence[str] = (),
    ) -> tuple[list[tuple[str, str]], int]:
        """Remove the images without a name, with *everything* all that no container uses; what was done, as of
        `remove_image`, and how many bytes became free. Only those made before *until* (seconds since 1970), that have
        all of *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*.
        """
        from lamina.engine.images import prune

        return prune(
            self.store, everything=everything, until=until, labels=labels, without_labels=without_labels
        )

    def history(self, reference: str) -> list[Step]:
        """How the image came about, the youngest step first. Raises NotFound, Corrupt."""
        from lamina.engine.images import history

        return history(self.store, reference)

    def inspect_image(self, reference: str) -> dict[str, Any]:
        """Everything known of the image, in the words of `docker image inspect`. Raises NotFound, Corrupt."""
        from lamina.engine.images import inspect

        return inspect(self.store, reference)

    def login(self, server: str | None, username: str, password: str, *, tls_verify: bool = True) -> None:
        """Try the password at the registry *server* (None: docker.io), and keep it. Raises RegistryError."""
        from lamina.engine.pulling import login

        login(server, username, password, tls_verify=tls_verify)

    def logout(self, server: str | None = None) -> str:
        """Forget the password of the registry; its name."""
        from lamina.engine.pulling import logout

        return logout(server)

    # -- archives

    def load(
        self,
        source: Source,
        *,
        platform: str | None = None,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> list[Image]:
        """Read every image of an archive, a file object or descriptor of one, or of an OCI layout directory.

        *limits*: see `pull`; they bound a compressed archive as well. Raises InvalidInput for what is none, Corrupt for
        what is damaged.
        """
        from lamina.engine.archives import load

        return load(self.store, source, platform, on_event, limits)

    def save(
        self,
        references: str | Sequence[str],
        target: Source,
        *,
        form: str = "docker-archive",
        on_event: Callable[..., None] | None = None,
    ) -> None:
        """Write images to an archive: "docker-archive" (an OCI layout as well), "oci-archive", or "oci-dir".

        A file of that path appears when it is whole. Raises NotFound, Corrupt, KernelError.
        """
        from lamina.engine.archives import save

        names = [references] if isinstance(references, str) else list(references)
        save(self.store, names, target, form, on_event)

    def import_(
        self,
        source: Source,
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        limits: LayerLimits | None = None,
        on_event: Callable[..., None] | None = None,
    ) -> Image:
        """Make an image of one layer from a tar archive of a root file system. *changes* as in a Dockerfile; *limits*:
        see `pull`.

        Raises InvalidInput, Corrupt.
        """
        from lamina.engine.archives import import_

        return import_(self.store, source, name, changes, message, platform, on_event, limits)

    def from_directory(
        self,
        directory: str | PathLike[str],
        name: str | None = None,
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str | None = None,
        limits: LayerLimits | None = None,
    ) -> Image:
        """Make an image of one layer from a directory with a root file system; *limits*: see `pull`.

        Raises InvalidInput, KernelError.
        """
        from lamina.engine.archives import from_directory

        return from_directory(self.store, directory, name, changes, message, platform, limits)

    def export(self, reference: str, target: Source) -> None:
        """Write the files of a container over an image as one flat tar archive, without its volumes.

        Raises NotFound, Unsupported (over the host), KernelError.
        """
        from lamina.engine.archives import export

        export(self.container(reference), target)

    def abandon(self) -> None:
        """Remove what this process has begun and not finished, of any thread. For a process that is about to end."""
        from lamina.engine.recover import abandon

        abandon(self.store)

    def _sweep(self) -> None:
        """Clean up after killed engines, now and then: a program that does nothing but run should leave nothing."""
        count, self._runs = self._runs, self._runs + 1
        if count % RUNS_BETWEEN_SWEEPS == 0 and (
            os.listdir(self.store.running) or os.listdir(self.store.tmp)
        ):
            from lamina.engine.recover import recover

            recover(self.store)


def run(image: str, command: Command = (), **keywords: Any) -> Completed:
    """`Engine().run(...)`: run *command* in a new container over *image*, in the default store."""
    return Engine().run(image, command, **keywords)


def words_of(command: Command, verb: str = "run") -> tuple[str, ...]:
    """A command as its words. Raises InvalidInput for what is none."""
    if isinstance(command, (str, bytes, os.PathLike)):
        command = (command,)
    try:
        return tuple(os.fsdecode(word) for word in command)
    except TypeError:
        raise InvalidInput(f"{verb} {command!r}: a command is a list of texts") from None


def streams_of(
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    input: bytes | str | None,
    capture_output: bool,
    encoding: str | None,
    timeout: float | None,
    forward_signals: bool,
    interactive: bool,
    verb: str = "run",
) -> Io:
    """The parameters of subprocess.run, checked. Raises InvalidInput."""
    from lamina.engine.options import Io

    if capture_output:
        if stdout is not None or stderr is not None:
            raise InvalidInput(f"{verb}: capture_output and stdout or stderr contradict each other")
        stdout = stderr = PIPE
    if input is not None and stdin is not None:
        raise InvalidInput(f"{verb}: input and stdin contradict each other")
    if stdin is None and not interactive:
        stdin = DEVNULL
    if timeout is not None and not timeout >= 0:
        raise InvalidInput(f"{verb}: timeout {timeout} is not a number of seconds")
    return Io(
        stdin=_descriptor(stdin, verb),
        stdout=_descriptor(stdout, verb),
        stderr=_descriptor(stderr, verb),
        data=_encoded(input, encoding),
        timeout=timeout,
        forward_signals=forward_signals,
    )


def completed(work: Callable[[], Completed], text: bool, encoding: str | None, *, check: bool) -> Completed:
    """What *work* gives, its output decoded if *text* or *encoding* are given; also that in an error. Raises
    ContainerFailed with *check* and an exit status that is not 0.
    """
    try:
        done = work()
    except Exception as error:
        if text or encoding:
            _decode_partial(error, encoding)
        raise
    if text or encoding:
        done = _decoded(done, encoding)
    if check:
        done.check_returncode()
    return done


def _descriptor(stream: Stream, verb: str) -> int | None:
    if stream is None or isinstance(stream, int):
        if stream is not None and stream < 0 and stream not in (PIPE, STDOUT, DEVNULL):
            raise InvalidInput(f"{verb}: {stream} is not a descriptor")
        return stream
    return stream.fileno()


def _encoded(data: bytes | str | None, encoding: str | None) -> bytes | None:
    return data.encode(encoding or "utf-8") if isinstance(data, str) else data


def _decoded(done: Completed, encoding: str | None) -> Completed:
    from lamina.values import replace

    return replace(done, stdout=_text(done.stdout, encoding), stderr=_text(done.stderr, encoding))


def _text(data: Any, encoding: str | None) -> Any:
    """As subprocess has it: decoded, with universal newlines."""
    if not isinstance(data, bytes):
        return data
    return data.decode(encoding or "utf-8").replace("\r\n", "\n").replace("\r", "\n")


def _decode_partial(error: Exception, encoding: str | None) -> None:
    for stream in ("stdout", "stderr"):
        data = getattr(error, stream, None)
        if isinstance(data, bytes):
            # what was cut off may end within a character
            setattr(
                error, stream, _text(data.decode(encoding or "utf-8", "replace").encode("utf-8"), "utf-8")
            )


__all__ = ["Engine", "run"]
