"""Networks as Python programs see them: `Engine.networks`."""

from __future__ import annotations

from lamina.engine import networks as known
from lamina.errors import Conflict, NotFound
from lamina.network.leases import leased
from lamina.store import containers, networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from lamina.store.networks import NetworkRecord
    from lamina.store.root import Store


class Network:
    """One network, as it was when it was looked up; `reload` looks again."""

    def __init__(self, store: Store, record: NetworkRecord) -> None:
        self._store, self._record = store, record

    def __repr__(self) -> str:
        return f"<Network {self.name}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        return (self.id, self._store.path) == (other.id, other._store.path)

    def __hash__(self) -> int:
        return hash((self.id, self._store.path))

    @property
    def name(self) -> str:
        """What it is called."""
        return self._record.name

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._record.id

    @property
    def created(self) -> float:
        """When it was made, seconds since 1970."""
        return self._record.created / 1e9

    @property
    def labels(self) -> dict[str, str]:
        """What was noted when it was made."""
        return dict(self._record.labels)

    @property
    def subnets(self) -> list[str]:
        """Its subnets, IPv4 first: `10.87.0.0/16`."""
        return [subnet for subnet, _, _ in self._record.subnets]

    @property
    def gateways(self) -> list[str]:
        """This host's addresses in them."""
        return [gateway for _, gateway, _ in self._record.subnets]

    @property
    def bridge(self) -> str:
        """The name of its device."""
        return self._record.bridge

    @property
    def is_internal(self) -> bool:
        """Whether it leads nowhere else."""
        return self._record.internal

    @property
    def containers(self) -> dict[str, list[str]]:
        """The addresses of the containers that are in it now, by their names."""
        found: dict[str, list[str]] = {}
        for address, owner in sorted(leased(networks.addresses_of(self._store, self.name)).items()):
            try:
                asked = containers.find(self._store, owner).read("container") or {}
            except NotFound:
                continue
            found.setdefault(str(asked.get("name") or owner[:12]), []).append(address)
        return found

    @property
    def attrs(self) -> dict[str, Any]:
        """Everything known of it, in the words of `docker network inspect`."""
        from lamina.engine.inspect import timestamp

        record = self._record
        return {
            "Name": record.name,
            "Id": record.id,
            "Created": timestamp(record.created),
            "Scope": "local",
            "Driver": "bridge",
            "EnableIPv6": any(":" in subnet for subnet in self.subnets),
            "IPAM": {
                "Driver": "default",
                "Config": [
                    {"Subnet": subnet, "Gateway": gateway, **({} if part == subnet else {"IPRange": part})}
                    for subnet, gateway, part in record.subnets
                ],
            },
            "Internal": record.internal,
            "Bridge": record.bridge,
            "Containers": {name: {"Addresses": found} for name, found in self.containers.items()},
            "Options": dict(record.options),
            "Labels": self.labels,
        }

    def reload(self) -> None:
        """Look again. Raises NotFound, Corrupt."""
        self._record = known.find(self._store, self.name)

    def remove(self) -> None:
        """Remove it, with its bridge and its rules. Raises NotFound, Conflict while a container is in it."""
        known.remove(self._store, self.name)


class Networks:
    """The networks of an engine: docker-py's `client.networks`."""

    def __init__(self, store: Store) -> None:
        self._store = store

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
        ipv6: bool = False,
        internal: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Network:
        """Make one. *subnets* (at most one of a family) that are not named are chosen so that nothing on this machine
        uses them; with *ipv6* there is one of that as well. *gateways* are this host's addresses in them, *ranges* the
        parts from which containers get addresses. *options* are "mtu", "bridge" (the name of its device) and
        "masquerade" ("false": its containers are seen outside under their own addresses).

        Raises Conflict (the name is taken, a subnet overlaps), InvalidInput, Unsupported, KernelError.
        """
        record = known.create(
            self._store, name, subnets=subnets, gateways=gateways, ranges=ranges, ipv6=ipv6, internal=internal,
            labels=labels, options=options,
        )  # fmt: skip
        return Network(self._store, record)

    def prune(self) -> Sequence[str]:
        """Remove those that no container is in, but for `bridge`; their names. Raises KernelError."""
        gone = []
        for network in self.list():
            if network.name == known.DEFAULT:
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

        mend(self._store)
