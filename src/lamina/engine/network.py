"""A network as Python programs see it."""

from __future__ import annotations

from lamina.engine import networks as known
from lamina.engine.network_record import attachments_in
from lamina.errors import NotFound
from lamina.network.leases import leased
from lamina.store import containers, networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from lamina.store.containers import Home
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
        """The name of its device; "" of macvlan."""
        return self._record.bridge

    @property
    def driver(self) -> str:
        """ "bridge" or "macvlan"."""
        return self._record.driver

    @property
    def is_internal(self) -> bool:
        """Whether it leads nowhere else."""
        return self._record.internal

    @property
    def containers(self) -> dict[str, list[str]]:
        """The addresses of the containers that are in it now, by their names."""
        found: dict[str, list[str]] = {}
        for _, name, address in self._leased():
            found.setdefault(name, []).append(address)
        return found

    def _leased(self) -> Iterator[tuple[Home, str, str]]:
        """Whoever has an address in it, with their names, and the address."""
        for address, owner in sorted(leased(networks.addresses_of(self._store, self.name)).items()):
            try:
                home = containers.find(self._store, owner)
                asked = home.read("container") or {}
            except NotFound:
                continue
            yield home, str(asked.get("name") or owner[:12]), address

    def _members(self) -> dict[str, dict[str, str]]:
        """Whoever is in it now, by their ids, in docker's words."""
        prefixes = {":" in subnet: subnet.rpartition("/")[2] for subnet in self.subnets}
        found: dict[str, dict[str, str]] = {}
        for home, name, address in self._leased():
            macs = (one.mac.hex(":") for one in attachments_in(home) if one.network.name == self.name)
            usual = {"Name": name, "MacAddress": next(macs, ""), "IPv4Address": "", "IPv6Address": ""}
            family = "IPv6Address" if ":" in address else "IPv4Address"
            found.setdefault(home.id, usual)[family] = f"{address}/{prefixes.get(':' in address, '')}"
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
            "Driver": record.driver,
            "EnableIPv4": any(":" not in subnet for subnet in self.subnets),
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
            "Containers": self._members(),
            "Options": dict(record.options),
            "Labels": self.labels,
        }

    def connect(
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
        from lamina.engine.connecting import connect
        from lamina.engine.networking import read_joined

        asked = {"ip": ip, "ip6": ip6, "mac_address": mac_address, "aliases": aliases}
        connect(containers.find(self._store, container), read_joined(self.name, asked))

    def disconnect(self, container: str, *, force: bool = False) -> None:
        """Take the container of that name or id out of this network, as `connect` puts it in; its connections end.

        With *force* also where its ports are published there while it runs: another of its networks publishes them
        then, or the next one that it is connected to. Raises Conflict (it is not in it; its ports are published there,
        without *force*, or are taken elsewhere), NotFound, KernelError.
        """
        from lamina.engine.connecting import disconnect

        disconnect(containers.find(self._store, container), self.name, force=force)

    def reload(self) -> None:
        """Look again. Raises NotFound, Corrupt."""
        self._record = known.find(self._store, self.name)

    def remove(self) -> None:
        """Remove it, with its bridge and its rules. Raises NotFound, Conflict while a container is in it."""
        known.remove(self._store, self.name)
