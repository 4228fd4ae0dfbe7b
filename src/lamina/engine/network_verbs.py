"""The verbs of an engine for networks: `Engine.networks`."""

from __future__ import annotations

import os

from lamina.engine import networks as known
from lamina.engine.network import Network
from lamina.errors import Conflict, NotFound, Unsupported
from lamina.store import networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lamina.store.root import Store


class Networks:
    """The networks of an engine: docker-py's `client.networks`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<Networks {os.fsdecode(self._store.path)}>"

    def list(self) -> list[Network]:
        """All of them, by name. `bridge` is among them once it was used."""
        return [Network(self._store, record) for record in networks.every(self._store)]

    def get(self, name: str) -> Network:
        """The one of that name or id; `bridge` is made if it is not there. Raises NotFound, Corrupt, KernelError."""
        return Network(self._store, known.find(self._store, name))

    def create(
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
    ) -> Network:
        """Make one. *subnets* (at most one of a family) that are not named are chosen so that nothing on this machine
        uses them; with *ipv6* there is one of that as well, without *ipv4* of that alone. *gateways* are this host's
        addresses in them, *ranges* the parts from which containers get addresses. *options* are "mtu", "bridge" (the
        name of its device) and "masquerade" ("false": its containers are seen outside under their own addresses), "dns"
        ("false": they have no names). The *driver* "macvlan" puts containers onto the wire of the link "parent" of
        *options*, with addresses of the *subnets* there, which are named.

        Raises Conflict (the name is taken, a subnet overlaps), InvalidInput, Unsupported, KernelError.
        """
        record = known.create(
            self._store, name, subnets=subnets, gateways=gateways, ranges=ranges, ipv4=ipv4, ipv6=ipv6,
            internal=internal, labels=labels, options=options, driver=driver,
        )  # fmt: skip
        return Network(self._store, record)

    def prune(
        self,
        *,
        until: float | None = None,
        labels: Sequence[str] = (),
        without_labels: Sequence[str] = (),
    ) -> Sequence[str]:
        """Remove those that no container is in; their names. Only those made before *until* (seconds since 1970), with
        all of *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*. Of `bridge`, which is not among these, what
        it has made on this host goes, and comes again with its next container. Raises KernelError.
        """
        from lamina.engine.pruning import Chosen

        gone, chosen = [], Chosen(until, labels, without_labels)
        known.let_default_go(self._store)
        for network in self.list():
            if network.name == networks.DEFAULT or not chosen.takes(network.created, network.labels):
                continue
            try:
                network.remove()
            except (Conflict, NotFound):
                continue
            gone.append(network.name)
        return gone

    def reload(self) -> None:
        """Make all rules anew, and what is missing of bridges, after somebody else has removed or changed them (`nft
        flush ruleset`). Connections that are there live on. Raises Unsupported, KernelError.
        """
        from lamina.engine.plugging import mend

        if os.geteuid():
            raise Unsupported(
                "reload networks: only root's have rules",
                remedy="run it as root; pasta and slirp4netns need none",
            )
        mend(self._store)
