"""The networks of an engine, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.network_verbs import MirroredNetworks

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.network_verbs import Networks


class AsyncNetworks(MirroredNetworks):
    """The networks of one engine, as `AsyncEngine.networks` gives them: `Engine.networks`, to be awaited."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __repr__(self) -> str:
        return f"<AsyncNetworks of {self._engine!r}>"

    @property
    def _sync(self) -> Networks:  # type: ignore[override]  # asked for in a thread: it may have to make the store
        return self._engine.networks


__all__ = ["AsyncNetworks"]
