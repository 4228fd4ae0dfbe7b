"""An image, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.images import MirroredImage
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from lamina.engine.images import Image


class AsyncImage(MirroredImage):
    """An image of the store: `lamina.Image`, whose verbs are to be awaited."""

    def __init__(self, image: Image) -> None:
        self._sync = image

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncImage) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)

    async def squash(self, name: str | None = None, *, since: str | None = None) -> AsyncImage:
        """An image with the same files in fewer layers: `Image.squash`."""
        return AsyncImage(await in_thread(lambda: self._sync.squash(name, since=since)))


__all__ = ["AsyncImage"]
