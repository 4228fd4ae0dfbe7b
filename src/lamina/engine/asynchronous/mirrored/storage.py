"""What a thread does of `Storage`: made by scripts/mirror from engine/storage.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lamina.engine.asynchronous.container import AsyncContainer
    from lamina.engine.storage import Pruned, Storage
    from lamina.store.check import Checked
    from lamina.store.garbage import Collected
    from lamina.store.prune import Evicted
    from lamina.store.usage import Usage


class MirroredStorage(Mirrored):
    """The verbs of `Storage` that a thread does."""

    if TYPE_CHECKING:
        _sync: Storage

    async def usage(self, *, walk: bool = True) -> Usage:
        """What images, layers, blobs, containers and volumes take, and what of it could go.

        Without *walk* containers and volumes are not measured: all of their directories would be read.
        """
        return await in_thread(self._do(lambda: self._sync.usage(walk=walk)))

    async def check(self, *, repair: bool = False, rehash: bool = False) -> Checked:
        """Look whether everything is whole; *repair* what is not, and with *rehash* read all content. KernelError."""
        return await in_thread(self._do(lambda: self._sync.check(repair=repair, rehash=rehash)))

    async def collect(self, *, explain: bool = False, dry: bool = False) -> Collected:
        """Remove layers and blobs that nothing refers to; *explain* why the rest stays; with *dry* only say so."""
        return await in_thread(self._do(lambda: self._sync.collect(explain=explain, dry=dry)))

    async def prune(
        self,
        containers: Iterable[AsyncContainer],
        *,
        everything: bool = False,
        with_volumes: bool = False,
        until: float | None = None,
        labels: Sequence[str] = (),
        without_labels: Sequence[str] = (),
    ) -> Pruned:
        """Remove those of *containers* that do not run, networks that no container is in, images without a name (with
        *everything* all that no container uses), volumes that were made for containers that are gone (*with_volumes*),
        and then the garbage; and what the default network has made, if no container is in it: the next one makes it
        again.

        Of containers, networks, images and volumes only those made before *until* (seconds since 1970), with all of
        *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*.
        """
        return await in_thread(
            self._do(
                lambda: self._sync.prune(
                    [one._sync for one in containers],
                    everything=everything,
                    with_volumes=with_volumes,
                    until=until,
                    labels=labels,
                    without_labels=without_labels,
                )
            )
        )

    async def pin(self, reference: str, pinned: bool = True) -> str:
        """Never evict or prune the image; its id. Raises NotFound, InvalidInput."""
        return await in_thread(self._do(lambda: self._sync.pin(reference, pinned)))

    async def keep_below(self, limit: int) -> Evicted:
        """Evict what was not used for the longest time until layers and blobs take at most *limit* bytes."""
        return await in_thread(self._do(lambda: self._sync.keep_below(limit)))

    async def prune_volumes(
        self, *, everything: bool = False, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> tuple[list[str], int]:
        """Remove those without a name that no container mounts, or all of these; their names, and the bytes freed. Only
        those with all of *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*.
        """
        return await in_thread(
            self._do(
                lambda: self._sync.prune_volumes(
                    everything=everything, labels=labels, without_labels=without_labels
                )
            )
        )
