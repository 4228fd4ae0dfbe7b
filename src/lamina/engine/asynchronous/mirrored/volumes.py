"""What a thread does of `Volume`: made by scripts/mirror from engine/volumes.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from lamina.engine.volumes import Volume


class MirroredVolume(Mirrored):
    """The verbs of `Volume` that a thread does."""

    if TYPE_CHECKING:
        _sync: Volume

    @property
    def name(self) -> str:
        """Its name; for one that was made without, 64 hexadecimal digits."""
        return self._sync.name

    @property
    def path(self) -> Path:
        """The directory on this machine with what is in it. Containers write there: do not follow its links."""
        return self._sync.path

    @property
    def labels(self) -> dict[str, str]:
        """What was noted when it was made."""
        return self._sync.labels

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._sync.created

    @property
    def is_anonymous(self) -> bool:
        """Whether it was made for one container, and nobody gave it a name."""
        return self._sync.is_anonymous

    @property
    def users(self) -> list[str]:
        """The names of the containers that mount it, whether they run or not."""
        return self._sync.users

    @property
    def attrs(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker volume inspect`."""
        return self._sync.attrs

    async def reload(self) -> None:
        """Look again. Raises NotFound, Corrupt."""
        await in_thread(self._do(lambda: self._sync.reload()))

    async def remove(self) -> None:
        """Remove it, with what is in it. Raises NotFound, Conflict while a container mounts it."""
        await in_thread(self._do(lambda: self._sync.remove()))
