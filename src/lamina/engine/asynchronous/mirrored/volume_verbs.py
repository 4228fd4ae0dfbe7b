"""What a thread does of `VolumeVerbs`: made by scripts/mirror from engine/volume_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread
from lamina.engine.asynchronous.volume import AsyncVolume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.engine.volume_verbs import VolumeVerbs


class MirroredVolumeVerbs(Mirrored):
    """The verbs of `VolumeVerbs` that a thread does."""

    if TYPE_CHECKING:
        _sync: VolumeVerbs

    async def volumes(self) -> list[AsyncVolume]:
        """All volumes, by name. Raises Corrupt."""
        return [AsyncVolume(one) for one in await in_thread(self._do(lambda: self._sync.volumes()))]

    async def volume(self, name: str) -> AsyncVolume:
        """The volume of that name. Raises NotFound, InvalidInput, Corrupt."""
        return AsyncVolume(await in_thread(self._do(lambda: self._sync.volume(name))))

    async def create_volume(
        self, name: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> AsyncVolume:
        """The volume *name* (None: a random one), made if it is not there; one that is there stays as it is, its labels
        too, as in docker. Raises InvalidInput, Corrupt, KernelError.
        """
        return AsyncVolume(await in_thread(self._do(lambda: self._sync.create_volume(name, labels=labels))))
