"""What a container has of networks, as it is written down (network.json) before it is taken: whoever cleans up after
somebody gives back what is in it, and need not know how far that one had come.
"""

from __future__ import annotations

import os

from lamina.engine.networks import network_of, place_of, table_of
from lamina.errors import Corrupt
from lamina.network import claims
from lamina.network.leases import holder_of
from lamina.network.model import Attachment, Network, Published
from lamina.network.subnet import packed, read_subnet, subnet_of, text_of
from lamina.store import networks
from lamina.store.containers import Home
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.network.model import Allowed
    from lamina.store.root import Store

RECORD = "network"


class Ledger:
    """The record of one container, in hand of whoever changes it: who holds the container, or who has its turn
    (`store.lock.turn` of its directory) while it runs.
    """

    def __init__(self, home: Home, servers: tuple[bytes, ...] = ()) -> None:
        """An empty one; *servers* are asked by those who answer the container for names that are not the network's."""
        self.home, self.servers = home, servers
        self.attachments: list[Attachment] = []

    @classmethod
    def of(cls, home: Home) -> Ledger:
        """The one that is written down, with attachments that have no addresses yet as well. Raises Corrupt."""
        kept = home.read(RECORD) or {}
        try:
            found = cls(home, tuple(packed(text) for text in kept.get("servers", ())))
            found.attachments = [_of(home, one) for one in kept.get("attachments", ())]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(
                f"container {home.shown}: its {RECORD}.json is damaged: {error}",
                remedy="remove the container, and make it anew",
            ) from None
        return found

    def note(self, *attachments: Attachment) -> None:
        """Write these down, each in the place of the one with its number, at once. Raises KernelError."""
        numbers = {one.number for one in attachments}
        others = [one for one in self.attachments if one.number not in numbers]
        self.attachments = sorted([*others, *attachments], key=lambda one: one.number)
        self._write()

    def drop(self, attachment: Attachment) -> None:
        """Write down that it is gone. Raises KernelError."""
        self.attachments = [one for one in self.attachments if one.number != attachment.number]
        if self.attachments:
            self._write()
        else:
            self.home.drop_record(RECORD)

    def _write(self) -> None:
        record: dict[str, Any] = {
            "table": table_of(self.home.store),
            "attachments": [_written(one) for one in self.attachments],
        }
        if self.servers:
            record["servers"] = [text_of(server) for server in self.servers]
        self.home.write(RECORD, record)


def attachments_in(home: Home) -> list[Attachment]:
    """What the record of the container at *home* says; with addresses, or they are not there yet."""
    return [one for one in Ledger.of(home).attachments if one.addresses]


def attachments_of(store: Store) -> list[Attachment]:
    """Every container's that is in a network of ours now."""
    found: list[Attachment] = []
    for entry in os.listdir(store.running):
        try:
            every = attachments_in(Home(store, os.fsdecode(entry)))
        except Corrupt:  # which others find: nobody else's rules wait for it
            continue
        found += [one for one in every if not one.network.maker]
    return found


def everything(store: Store) -> tuple[list[Network], list[Attachment]]:
    """What the rules are made of: networks, and containers' places in them with the ports that are theirs. One that is
    written down before it is claimed may be another container's.
    """
    known = [network_of(store, one) for one in networks.every(store)]
    return known, [with_own_ports(store, one) for one in attachments_of(store)]


def with_own_ports(store: Store, attachment: Attachment) -> Attachment:
    """With the ports that it has: one that it was refused is somebody else's, who has the rule for it."""
    if not attachment.published:
        return attachment
    own = claims.owned(store.networks + networks.PORTS, attachment.published, attachment.owner)
    found: Attachment = replace(attachment, published=own)
    return found


def own_addresses(attachment: Attachment) -> tuple[bytes, ...]:
    """The addresses that are its own still: one that was given back may be somebody else's, with all rules for it."""
    leases = attachment.network.leases
    if not os.path.isdir(leases):  # gone with its network, and nobody else has them
        return attachment.addresses
    return tuple(one for one in attachment.addresses if holder_of(leases, one) == attachment.owner)


def _allowed(texts: list[str]) -> tuple[Allowed, ...]:
    from lamina.engine.egress import read_allowed

    return tuple(read_allowed(text) for text in texts)


def _written(attachment: Attachment) -> dict[str, Any]:
    network = attachment.network
    if attachment.egress is not None:
        from lamina.engine.egress import written
    return {
        "title": attachment.title,
        "network": network.name,
        "bridge": network.bridge,
        "internal": network.internal,
        **({"parent": network.parent} if network.parent else {}),
        **(_of_others(network) if network.maker else {}),
        "named": bool(network.names),
        "number": attachment.number,
        "addresses": [text_of(address) for address in attachment.addresses],
        "prefixes": [subnet.prefix for subnet in network.subnets],
        "gateways": [text_of(gateway) for gateway in network.gateways],
        "mac": attachment.mac.hex(":"),
        "device": attachment.device,
        "aliases": list(attachment.aliases),
        **({} if attachment.egress is None else {"egress": [written(one) for one in attachment.egress]}),
        "published": [
            [port.protocol, text_of(port.host) if port.host else "", port.host_port, port.port]
            for port in attachment.published
        ],
    }


def _of_others(network: Network) -> dict[str, Any]:
    """What is noted of one that somebody else makes."""
    return {
        "maker": network.maker,
        "words": list(network.words),
        "subnets": [str(subnet) for subnet in network.subnets],
        "host": [text_of(address) for address in network.host],
        "resolver": [list(words) for words in network.resolver],
    }


def _of(home: Home, one: dict[str, Any]) -> Attachment:
    gateways = tuple(packed(text) for text in one["gateways"])
    maker = one.get("maker", "")
    if maker:
        subnets = tuple(read_subnet(text) for text in one["subnets"])
    else:
        subnets = tuple(
            subnet_of(gateway, prefix) for gateway, prefix in zip(gateways, one["prefixes"], strict=True)
        )
    network = Network(
        name=one["network"],
        bridge=one["bridge"],
        subnets=subnets,
        gateways=gateways,
        ranges=subnets,
        leases=b"" if maker else networks.addresses_of(home.store, one["network"]),
        internal=bool(one.get("internal")),
        table=table_of(home.store),
        store=place_of(home.store),
        parent=one.get("parent", ""),
        names=networks.names_of(home.store, one["network"]) if one.get("named") else b"",
        maker=maker,
        words=tuple(one.get("words", ())),
        host=tuple(packed(text) for text in one.get("host", ())),
        resolver=tuple(tuple(words) for words in one.get("resolver", ())),
    )
    return Attachment(
        owner=home.id,
        title=one["title"],
        network=network,
        number=one["number"],
        addresses=tuple(packed(text) for text in one["addresses"]),
        mac=bytes.fromhex(one["mac"].replace(":", "")),
        device=one["device"],
        published=tuple(
            Published(protocol, packed(host) if host else b"", host_port, port)
            for protocol, host, host_port, port in one["published"]
        ),
        aliases=tuple(one.get("aliases", ())),
        egress=None if one.get("egress") is None else _allowed(one["egress"]),
    )
