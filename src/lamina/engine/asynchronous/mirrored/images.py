"""What a thread does of `Image`: made by scripts/mirror from engine/images.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.view_verbs import MirroredViewVerbs
from lamina.engine.asynchronous.threads import in_thread, transfer

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from lamina.engine.images import Image, Step
    from lamina.engine.parameters import Source
    from lamina.store.root import Store


class MirroredImage(MirroredViewVerbs):
    """The verbs of `Image` that a thread does."""

    if TYPE_CHECKING:
        _sync: Image

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._sync.store

    @property
    def id(self) -> str:
        """64 hexadecimal digits: those of the sha256 of its config. While its layers have no digests, which `commit`
        does not make, the config is one of this store alone; when they are made, for a push or an archive, the image
        gets another id (`reload`), and is found by this one as well.
        """
        return self._sync.id

    @property
    def short_id(self) -> str:
        """The first 12 of them, as people read it."""
        return self._sync.short_id

    @property
    def tags(self) -> list[str]:
        """Its names, as people write them: "debian:12"."""
        return self._sync.tags

    @property
    def digests(self) -> list[str]:
        """Its names by digest: "debian@sha256:...", of where it was pulled from or pushed to."""
        return self._sync.digests

    @property
    def labels(self) -> dict[str, str]:
        """Those of its config."""
        return self._sync.labels

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._sync.created

    @property
    def last_used(self) -> Awaitable[float]:
        """When a container of it was last started, seconds since 1970; looked at when it is asked for."""
        return in_thread(self._do(lambda: self._sync.last_used))

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return self._sync.size

    @property
    def is_pending(self) -> Awaitable[bool]:
        """Whether layers of it have no digests yet: `save` and `push` make them."""
        return in_thread(self._do(lambda: self._sync.is_pending))

    @property
    def platform(self) -> str:
        """What it is for: "linux/arm64/v8"."""
        return self._sync.platform

    @property
    def is_pinned(self) -> bool:
        """Whether it is never evicted or pruned; see `Storage.pin`."""
        return self._sync.is_pinned

    @property
    def attrs(self) -> Awaitable[dict[str, Any]]:
        """Everything known of it, in the words of `docker image inspect`. Raises NotFound, Corrupt."""
        return in_thread(self._do(lambda: self._sync.attrs))

    async def history(self) -> list[Step]:
        """How it came about, the youngest step first. Raises NotFound, Corrupt."""
        return await in_thread(self._do(lambda: self._sync.history()))

    async def reload(self) -> None:
        """Look again, at its names above all, and at the id that it has now. Raises NotFound."""
        await in_thread(self._do(lambda: self._sync.reload()))

    async def tag(self, name: str) -> None:
        """Let *name* stand for it as well. Raises NotFound, InvalidReference, Conflict."""
        await in_thread(self._do(lambda: self._sync.tag(name)))

    async def remove(self, *, force: bool = False, prune: bool = True) -> list[tuple[str, str]]:
        """Remove it and all its names, and (*prune*) the layers that nothing else needs; with *force* also where it has
        names in several repositories, or containers that do not run are over it.

        What was done: pairs of "Untagged" or "Deleted", and what. Raises NotFound, Conflict.
        """
        return await in_thread(self._do(lambda: self._sync.remove(force=force, prune=prune)))

    async def save(self, target: Source, *, form: str = "docker-archive") -> None:
        """Write it with its names to an archive; as `Engine.save`. Raises NotFound, Corrupt, KernelError."""
        await transfer(self._do(lambda: self._sync.save(target, form=form)))
