"""What a thread does of `Networks`: made by scripts/mirror from engine/network_verbs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.mirror import Mirrored
from lamina.engine.asynchronous.network import AsyncNetwork
from lamina.engine.asynchronous.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lamina.engine.network_verbs import Networks


class MirroredNetworks(Mirrored):
    """The verbs of `Networks` that a thread does."""

    if TYPE_CHECKING:
        _sync: Networks

    async def list(self) -> list[AsyncNetwork]:
        """All of them, by name. `bridge` is among them once it was used."""
        return [AsyncNetwork(one) for one in await in_thread(self._do(lambda: self._sync.list()))]

    async def get(self, name: str) -> AsyncNetwork:
        """The one of that name or id; `bridge` is made if it is not there. Raises NotFound, Corrupt, KernelError."""
        return AsyncNetwork(await in_thread(self._do(lambda: self._sync.get(name))))

    async def create(
        self,
        name: str,
        *,
        subnets: Sequence[str] = (),
        gateways: Sequence[str] = (),
        ranges: Sequence[str] = (),
        ipv4: bool = True,
        ipv6: bool = False,
        internal: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        driver: str = "bridge",
    ) -> AsyncNetwork:
        """Make one. *subnets* (at most one of a family) that are not named are chosen so that nothing on this machine
        uses them; with *ipv6* there is one of that as well, without *ipv4* of that alone. *gateways* are this host's
        addresses in them, *ranges* the parts from which containers get addresses. *options* are "mtu", "bridge" (the
        name of its device) and "masquerade" ("false": its containers are seen outside under their own addresses), "dns"
        ("false": they have no names). The *driver* "macvlan" puts containers onto the wire of the link "parent" of
        *options*, with addresses of the *subnets* there, which are named.

        Raises Conflict (the name is taken, a subnet overlaps), InvalidInput, Unsupported, KernelError.
        """
        return AsyncNetwork(
            await in_thread(
                self._do(
                    lambda: self._sync.create(
                        name,
                        subnets=subnets,
                        gateways=gateways,
                        ranges=ranges,
                        ipv4=ipv4,
                        ipv6=ipv6,
                        internal=internal,
                        labels=labels,
                        options=options,
                        driver=driver,
                    )
                )
            )
        )

    async def prune(
        self, *, until: float | None = None, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> Sequence[str]:
        """Remove those that no container is in; their names. Only those made before *until* (seconds since 1970), with
        all of *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*. Of `bridge`, which is not among these, what
        it has made on this host goes, and comes again with its next container. Raises KernelError.
        """
        return await in_thread(
            self._do(lambda: self._sync.prune(until=until, labels=labels, without_labels=without_labels))
        )

    async def reload(self) -> None:
        """Make all rules anew, and what is missing of bridges, after somebody else has removed or changed them (`nft
        flush ruleset`). Connections that are there live on. Raises Unsupported, KernelError.
        """
        await in_thread(self._do(lambda: self._sync.reload()))
