"""What a thread does of `Network`: made by scripts/mirror from engine/network.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
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
        """The name of its device; "" of macvlan."""
        return self._sync.bridge

    @property
    def driver(self) -> Awaitable[str]:
        """ "bridge" or "macvlan"."""
        return in_thread(self._do(lambda: self._sync.driver))

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

    async def connect(
        self,
        container: str,
        *,
        ip: str | None = None,
        ip6: str | None = None,
        mac_address: str | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        """Let the container of that name or id be in this network as well: at once if it runs, and whenever it is
        started. *aliases* are names that it has there besides its own.

        Raises Conflict (it is in it already; its network is not its own), NotFound, InvalidInput, Unsupported,
        KernelError.
        """
        await in_thread(
            self._do(
                lambda: self._sync.connect(
                    container, ip=ip, ip6=ip6, mac_address=mac_address, aliases=aliases
                )
            )
        )

    async def disconnect(self, container: str, *, force: bool = False) -> None:
        """Take the container of that name or id out of this network, as `connect` puts it in; its connections end.

        With *force* also where its ports are published there while it runs: another of its networks publishes them
        then, or the next one that it is connected to. Raises Conflict (it is not in it; its ports are published there,
        without *force*, or are taken elsewhere), NotFound, KernelError.
        """
        await in_thread(self._do(lambda: self._sync.disconnect(container, force=force)))

    async def reload(self) -> None:
        """Look again. Raises NotFound, Corrupt."""
        await in_thread(self._do(lambda: self._sync.reload()))

    async def remove(self) -> None:
        """Remove it, with its bridge and its rules. Raises NotFound, Conflict while a container is in it."""
        await in_thread(self._do(lambda: self._sync.remove()))
