"""A snapshot as an object: a state of a container that it can be put back into, and what becomes of that."""

from __future__ import annotations

from lamina.engine.view_verbs import ViewVerbs
from lamina.store.snapshots import SnapshotRecord, get, no_such

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Unpack

    from lamina.engine.apply.values import Applied, Clash, HostChange
    from lamina.engine.container import Container
    from lamina.engine.forked_options import ForkOptions
    from lamina.engine.images import Image
    from lamina.engine.parameters import Command
    from lamina.engine.progress import Tell
    from lamina.engine.squashing import Squash
    from lamina.engine.state_review import StateReview
    from lamina.engine.viewing import View
    from lamina.store.containers import Home
    from lamina.store.root import Store


class Snapshot(ViewVerbs):
    """A state of a container: its files, as layers that never change. It belongs to the container and goes with it.

        before = box.snapshot("before")
        box.exec(["make", "install"])
        box.rewind(before)

    What it is was read once; only whether it is still there is found out by what is done with it.
    """

    def __init__(self, home: Home, kept: SnapshotRecord) -> None:
        self._home, self._kept = home, kept

    def __repr__(self) -> str:
        return f"<Snapshot {self._kept.shown} of {self._home.short_id}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return (self.id, self._home.path) == (other.id, other._home.path)

    def __hash__(self) -> int:
        return hash((self.id, self._home.path))

    def __reduce__(self) -> tuple[object, ...]:
        """To another process goes which one it is."""
        return _looked_up, (self._home.store.path, self._home.id, self.id)

    # -- what it is

    @property
    def record(self) -> SnapshotRecord:
        """What is written down of it."""
        return self._kept

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._kept.id

    @property
    def short_id(self) -> str:
        """The first 12 of them, as people read it."""
        return self._kept.id[:12]

    @property
    def name(self) -> str:
        """Its name, unique among those of its container; "" without one."""
        return self._kept.name

    @property
    def container(self) -> str:
        """The id of its container."""
        return self._kept.container

    @property
    def parent(self) -> str | None:
        """The id of the snapshot that it came from, None of the first."""
        return self._kept.parent

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._kept.created / 1e9

    @property
    def message(self) -> str:
        """What whoever made it said of it."""
        return self._kept.message

    @property
    def command(self) -> list[str]:
        """What was executed since its parent, as far as that is known."""
        return list(self._kept.command)

    @property
    def layers(self) -> list[str]:
        """The ids of everything that it consists of, the layers of the image first."""
        return list(self._kept.layers)

    @property
    def is_volatile(self) -> bool:
        """Whether a crash of the machine may lose it, as the container's own files (`--durability none`)."""
        return self._kept.volatile

    @property
    def size(self) -> int:
        """The bytes of what it froze, beyond its parent: counted once, when somebody wants to know."""
        return self._counted()[0]

    @property
    def inodes(self) -> int:
        """The number of files of what it froze."""
        return self._counted()[1]

    def _counted(self) -> tuple[int, int]:
        from lamina.engine.layer_sizes import count

        found = [count(self._home, layer) for layer in self._kept.new]
        return sum(size for size, _ in found), sum(inodes for _, inodes in found)

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._home.store

    def inspect(self) -> dict[str, Any]:
        """Everything known of it. Raises NotFound when it was removed."""
        from lamina.engine.inspect import timestamp

        kept = get(self._home, self.id)
        if kept is None:
            raise no_such(self._home, self.short_id)
        size, inodes = self._counted()
        return {
            "Id": kept.id,
            "Name": kept.name,
            "Container": kept.container,
            "Parent": kept.parent,
            "Created": timestamp(kept.created),
            "Message": kept.message,
            "Command": list(kept.command),
            "Image": kept.image,
            "ImageId": kept.image_id,
            "Places": [
                {"At": place.at, "Layers": list(place.layers), "New": place.new} for place in kept.places
            ],
            "Layers": list(kept.layers),
            "Size": size,
            "Inodes": inodes,
            "Volatile": kept.volatile,
            "Volumes": [{"Name": one.name, "Target": one.target, "Layer": one.layer} for one in kept.volumes],
        }

    # -- what becomes of it

    def to_image(
        self,
        name: str | None = None,
        *,
        author: str = "",
        changes: Sequence[str] = (),
        message: str = "",
        now: bool = False,
    ) -> Image:
        """Make an image of it and of what its container was asked to be; under *name*, if there is one. No file is
        copied, see `Container.commit`, and for what *changes* and *now* mean. Without *message* the history says that
        of the snapshot.

        Raises Unsupported (over the host, or files with ids of the container's own), InvalidInput, NotFound,
        KernelError.
        """
        from lamina.engine.committed_image import Wish
        from lamina.engine.committing import to_image

        return to_image(self._home, self._kept, name, Wish(None, author, message, tuple(changes), now))

    # -- what was done until then

    def changes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[HostChange]:
        """What its container had done to the files that it ran over: as `Container.changes`."""
        return self._review().changes(paths, exclude)

    def clashes(self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()) -> list[Clash]:
        """Of these changes, those on which the host itself has worked since the container started."""
        return self._review().clashes(paths, exclude)

    def apply(
        self,
        paths: Iterable[str | bytes] = (),
        exclude: Iterable[str | bytes] = (),
        force: bool = False,
        *,
        progress: Tell | None = None,
    ) -> Applied:
        """Do to the host what its container had done until then: as `Container.apply`, and `Container.undo` takes it
        back. Raises NotFound when it was removed, and as that does.
        """
        if get(self._home, self.id) is None:
            raise no_such(self._home, self.short_id)
        return self._review().apply(paths, exclude, force, progress=progress)

    def _view(self) -> View:
        from lamina.engine.viewing import view_snapshot

        kept = get(self._home, self.id)
        if kept is None:
            raise no_such(self._home, self.short_id)
        return view_snapshot(self._home, kept)

    def _review(self) -> StateReview:
        from lamina.engine.state_review import StateReview

        # its layers may have been squashed since; one that is gone says so where its files are looked for
        return StateReview(self._home, get(self._home, self.id) or self._kept)

    # -- what begins with it

    def fork(
        self,
        n: int = 1,
        *,
        name: str | None = None,
        names: Sequence[str] = (),
        start: bool = False,
        command: Command | None = None,
        owner: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        **options: Unpack[ForkOptions],
    ) -> list[Container]:
        """Make *n* containers that begin with it: as `Container.fork`. Volumes that are part of it are new for each,
        which begin with what was in them then. Raises NotFound when it was removed.
        """
        from lamina.engine.container import Container
        from lamina.engine.forking import Wanted, fork, names_of
        from lamina.engine.parameters import words_of

        words = None if command is None else words_of(command, "fork")
        wanted = Wanted(n, names_of(name, names, n), start, words, options, owner, volumes=True)
        return [Container(home, made=True) for home in fork(self._home, self._kept, wanted, on_warning)]

    def start(
        self,
        command: Command | None = None,
        *,
        name: str | None = None,
        owner: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        **options: Unpack[ForkOptions],
    ) -> Container:
        """A container that begins with it, and runs *command* (default: what its container runs): as `fork`.

        `with snapshot.start() as box:` removes it at the end of the block, whatever happens there.
        """
        [container] = self.fork(
            name=name, start=True, command=command, owner=owner, on_warning=on_warning, **options
        )
        return container

    # -- its layers

    def squash(self) -> list[Squash]:
        """Make one layer, at each place, of those that it consists of above the image; it refers to that alone then,
        and reads the same. Raises NotFound when it was removed, KernelError.
        """
        from lamina.engine.squashing import squash_snapshot

        return squash_snapshot(self._home, self.id)

    # -- its end

    def remove(self) -> None:
        """Remove it. What came from it stays, and then comes from its parent; the container stays as it is.

        Raises NotFound when it is gone already, Conflict, KernelError.
        """
        from lamina.engine.snapshotting import remove

        remove(self._home, self.id)


def _looked_up(root: bytes, container: str, identity: str) -> Snapshot:
    from lamina.store.containers import Home
    from lamina.store.root import Store

    home = Home(Store(root), container)
    kept = get(home, identity)
    if kept is None:
        raise no_such(home, identity)
    return Snapshot(home, kept)
