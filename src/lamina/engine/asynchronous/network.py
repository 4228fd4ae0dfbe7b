"""A network, for event loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirrored.network import MirroredNetwork

if TYPE_CHECKING:
    from lamina.engine.network import Network


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


__all__ = ["AsyncNetwork"]
