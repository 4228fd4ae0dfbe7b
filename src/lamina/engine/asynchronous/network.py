"""Networks, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.network import MirroredNetwork
from lamina.engine.asynchronous.mirrored.network_verbs import MirroredNetworks

if TYPE_CHECKING:
    from lamina.engine.engine import Engine
    from lamina.engine.network import Network
    from lamina.engine.network_verbs import Networks


class AsyncNetwork(MirroredNetwork):
    """A network: `Network`, whose verbs are to be awaited."""

    def __init__(self, network: Network) -> None:
        self._sync = network

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncNetwork) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)


class AsyncNetworks(MirroredNetworks):
    """The networks of one engine, as `AsyncEngine.networks` gives them: `Engine.networks`, to be awaited."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def _sync(self) -> Networks:  # type: ignore[override]  # asked for in a thread: it may have to make the store
        return self._engine.networks


__all__ = ["AsyncNetwork", "AsyncNetworks"]
