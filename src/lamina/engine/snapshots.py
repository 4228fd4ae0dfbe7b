"""A snapshot as an object: a state of a container that it can be put back into, and what becomes of that."""

from __future__ import annotations

from lamina.store.snapshots import SnapshotRecord, get, no_such

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.engine.images import Image
    from lamina.store.containers import Home
    from lamina.store.root import Store


class Snapshot:
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
        kept = get(self._home, self.id)
        if kept is None:
            raise no_such(self._home, self.short_id)
        size, inodes = self._counted()
        return {
            "Id": kept.id,
            "Name": kept.name,
            "Container": kept.container,
            "Parent": kept.parent,
            "Created": kept.created,
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
        from lamina.engine.committing import Wish, to_image

        return to_image(self._home, self._kept, name, Wish(None, author, message, tuple(changes), now))

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
