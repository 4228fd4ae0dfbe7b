"""What a thread does of `Network`: made by scripts/mirror from engine/network.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from lamina.engine.network import Network


class MirroredNetwork(Mirrored):
    """The verbs of `Network` that a thread does."""

    if TYPE_CHECKING:
        _sync: Network

    @property
    def name(self) -> str:
        """What it is called."""
        return self._sync.name

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._sync.id

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._sync.created

    @property
    def labels(self) -> dict[str, str]:
        """What was noted when it was made."""
        return self._sync.labels

    @property
    def subnets(self) -> list[str]:
        """Its subnets, IPv4 first: `10.87.0.0/16`."""
        return self._sync.subnets

    @property
    def gateways(self) -> list[str]:
        """This host's addresses in them."""
        return self._sync.gateways

    @property
    def bridge(self) -> str:
        """The name of its device."""
        return self._sync.bridge

    @property
    def is_internal(self) -> bool:
        """Whether it leads nowhere else."""
        return self._sync.is_internal

    @property
    def containers(self) -> Awaitable[dict[str, list[str]]]:
        """The addresses of the containers that are in it now, by their names."""
        return in_thread(self._do(lambda: self._sync.containers))

    @property
    def attrs(self) -> Awaitable[dict[str, Any]]:
        """Everything known of it, in the words of `docker network inspect`."""
        return in_thread(self._do(lambda: self._sync.attrs))

    async def reload(self) -> None:
        """Look again. Raises NotFound, Corrupt."""
        await in_thread(self._do(lambda: self._sync.reload()))

    async def remove(self) -> None:
        """Remove it, with its bridge and its rules. Raises NotFound, Conflict while a container is in it."""
        await in_thread(self._do(lambda: self._sync.remove()))
