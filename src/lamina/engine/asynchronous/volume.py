"""A volume, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.volumes import MirroredVolume

if TYPE_CHECKING:
    from lamina.engine.volumes import Volume


class AsyncVolume(MirroredVolume):
    """A volume of the store: `lamina.Volume`, whose verbs are to be awaited."""

    def __init__(self, volume: Volume) -> None:
        self._sync = volume

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncVolume) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)


__all__ = ["AsyncVolume"]
