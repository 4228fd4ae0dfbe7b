"""What a thread does of `Snapshot`: made by scripts/mirror from engine/snapshots.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.image import AsyncImage
from lamina.engine.asynchronous.mirrored.view_verbs import MirroredViewVerbs
from lamina.engine.asynchronous.threads import in_thread, told_by_loop, transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence
    from typing import Any

    from lamina.engine.apply.values import Applied, Clash, HostChange
    from lamina.engine.progress import Tell
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.squashing import Squash
    from lamina.store.root import Store
    from lamina.store.snapshots import SnapshotRecord


class MirroredSnapshot(MirroredViewVerbs):
    """The verbs of `Snapshot` that a thread does."""

    if TYPE_CHECKING:
        _sync: Snapshot

    @property
    def record(self) -> SnapshotRecord:
        """What is written down of it."""
        return self._sync.record

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._sync.id

    @property
    def short_id(self) -> str:
        """The first 12 of them, as people read it."""
        return self._sync.short_id

    @property
    def name(self) -> str:
        """Its name, unique among those of its container; "" without one."""
        return self._sync.name

    @property
    def container(self) -> str:
        """The id of its container."""
        return self._sync.container

    @property
    def parent(self) -> str | None:
        """The id of the snapshot that it came from, None of the first."""
        return self._sync.parent

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._sync.created

    @property
    def message(self) -> str:
        """What whoever made it said of it."""
        return self._sync.message

    @property
    def command(self) -> list[str]:
        """What was executed since its parent, as far as that is known."""
        return self._sync.command

    @property
    def layers(self) -> list[str]:
        """The ids of everything that it consists of, the layers of the image first."""
        return self._sync.layers

    @property
    def is_volatile(self) -> bool:
        """Whether a crash of the machine may lose it, as the container's own files (`--durability none`)."""
        return self._sync.is_volatile

    @property
    def size(self) -> Awaitable[int]:
        """The bytes of what it froze, beyond its parent: counted once, when somebody wants to know."""
        return in_thread(self._do(lambda: self._sync.size))

    @property
    def inodes(self) -> Awaitable[int]:
        """The number of files of what it froze."""
        return in_thread(self._do(lambda: self._sync.inodes))

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._sync.store

    async def inspect(self) -> dict[str, Any]:
        """Everything known of it. Raises NotFound when it was removed."""
        return await in_thread(self._do(lambda: self._sync.inspect()))

    async def to_image(
        self,
        name: str | None = None,
        *,
        author: str = "",
        changes: Sequence[str] = (),
        message: str = "",
        now: bool = False,
    ) -> AsyncImage:
        """Make an image of it and of what its container was asked to be; under *name*, if there is one. No file is
        copied, see `Container.commit`, and for what *changes* and *now* mean. Without *message* the history says that
        of the snapshot.

        Raises Unsupported (over the host, or files with ids of the container's own), InvalidInput, NotFound,
        KernelError.
        """
        return AsyncImage(
            await transfer(
                self._do(
                    lambda: self._sync.to_image(
                        name, author=author, changes=changes, message=message, now=now
                    )
                )
            )
        )

    async def changes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[HostChange]:
        """What its container had done to the files that it ran over: as `Container.changes`."""
        return await in_thread(self._do(lambda: self._sync.changes(paths, exclude)))

    async def clashes(
        self, paths: Iterable[str | bytes] = (), exclude: Iterable[str | bytes] = ()
    ) -> list[Clash]:
        """Of these changes, those on which the host itself has worked since the container started."""
        return await in_thread(self._do(lambda: self._sync.clashes(paths, exclude)))

    async def apply(
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
        tell_progress = told_by_loop(progress)
        return await in_thread(
            self._do(lambda: self._sync.apply(paths, exclude, force, progress=tell_progress))
        )

    async def squash(self) -> list[Squash]:
        """Make one layer, at each place, of those that it consists of above the image; it refers to that alone then,
        and reads the same. Raises NotFound when it was removed, KernelError.
        """
        return await in_thread(self._do(lambda: self._sync.squash()))

    async def remove(self) -> None:
        """Remove it. What came from it stays, and then comes from its parent; the container stays as it is.

        Raises NotFound when it is gone already, Conflict, KernelError.
        """
        await in_thread(self._do(lambda: self._sync.remove()))
