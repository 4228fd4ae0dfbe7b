"""What a store keeps, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.storage import MirroredStorage

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.storage import Storage


class AsyncStorage(MirroredStorage):
    """The store of one engine, as `AsyncEngine.storage` gives it: `Engine.storage`, whose verbs are to be awaited."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __repr__(self) -> str:
        return f"<AsyncStorage of {self._engine!r}>"

    @property
    def _sync(self) -> Storage:  # type: ignore[override]  # asked for in a thread: it may have to make the store
        return self._engine.storage


__all__ = ["AsyncStorage"]
