"""The verbs of an engine for volumes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from lamina.engine.volumes import Volume
    from lamina.store.root import Store


class VolumeVerbs:
    """What `Engine` does with volumes."""

    if TYPE_CHECKING:

        @property
        def store(self) -> Store: ...

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


__all__ = ["VolumeVerbs"]
