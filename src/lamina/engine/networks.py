"""Networks that containers can be in: made, listed, removed; and what is noted of one as lamina.network wants it.

The default network, `bridge`, is made when it is first used, with a subnet that nothing on this machine uses.
"""

from __future__ import annotations

import os
from _socket import if_nametoindex
from hashlib import sha256

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound, Unsupported
from lamina.network import firewall, links, rules
from lamina.network.leases import leased
from lamina.network.model import DEFAULT_BRIDGE, PORTS_OF_OTHERS, PORTS_OF_SYSTEM, Network, bridge_of
from lamina.network.subnet import Subnet, packed, read_subnet, text_of
from lamina.store import containers, networks
from lamina.store.networks import NetworkRecord
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lamina.network.model import Attachment
    from lamina.store.root import Store

DEFAULT = "bridge"
SYSTEM = b"/var/lib/lamina"
# private addresses (RFC 1918) from which subnets are taken that nobody named; neither docker's (172.16/12) nor podman's
# (10.88/16, 10.89/16)
_OF_DEFAULT = tuple(f"10.{number}.0.0/16" for number in range(87, 79, -1))
_OF_OTHERS = tuple(f"10.{second}.{third}.0/24" for second in range(79, 63, -1) for third in range(256))
OPTIONS = ("mtu", "bridge", "masquerade", "dns", "parent")
BRIDGE, MACVLAN = DRIVERS = ("bridge", "macvlan")
BOOLEANS = ("masquerade", "dns")
_DOCKERS = {
    "com.docker.network.driver.mtu": "mtu",
    "com.docker.network.bridge.name": "bridge",
    "com.docker.network.bridge.enable_ip_masquerade": "masquerade",
}
_NEAR = (b"\x7f", b"\xfe")  # how addresses begin that mean this host, and this link
_SMALLEST_MTU, _SMALLEST_MTU_IPV6, _LARGEST_MTU = 68, 1280, 65535


def place_of(store: Store) -> str:
    """The directory of a store that may go, "" for the system's: `Network.store`."""
    return "" if store.path == SYSTEM else os.fsdecode(store.path)


def default_bridge(store: Store) -> str:
    """The name of the bridge of this store's default network: of the system's `lamina0`, else that of its tables."""
    return DEFAULT_BRIDGE if store.path == SYSTEM else table_of(store)


def is_there(link: str) -> bool:
    """Whether there is a link of that name here."""
    try:
        return bool(if_nametoindex(link))
    except OSError:
        return False


def table_of(store: Store) -> str:
    """The name of the tables with this store's rules: `lamina` for the system's, else one of its own."""
    return "lamina" if store.path == SYSTEM else f"lamina-{sha256(store.path).hexdigest()[:8]}"


def network_of(store: Store, record: NetworkRecord) -> Network:
    """As lamina.network wants it."""
    subnets = tuple(read_subnet(subnet) for subnet, _, _ in record.subnets)
    return Network(
        name=record.name,
        bridge=record.bridge,
        subnets=subnets,
        gateways=tuple(packed(gateway) for _, gateway, _ in record.subnets),
        ranges=tuple(read_subnet(part) for _, _, part in record.subnets),
        leases=networks.addresses_of(store, record.name),
        internal=record.internal,
        mtu=record.mtu,
        hidden=record.hidden,
        table=table_of(store),
        names=b"" if record.parent else names_in(store, record.name, dict(record.options)),
        parent=record.parent,
        store=place_of(store),
    )


def names_in(store: Store, name: str, options: Mapping[str, str]) -> bytes:
    """The directory of names of the network, b"" where its containers have none: in the default one, as in docker, and
    where somebody said so when it was made.
    """
    if name == DEFAULT or options.get("dns", "").lower() == "false":
        return b""
    return networks.names_of(store, name)


def find(store: Store, name: str) -> NetworkRecord:
    """The network of that name, or of which the id begins so; the default one is made. Raises NotFound, InvalidInput,
    Corrupt, KernelError.
    """
    if name == DEFAULT:
        return networks.find(store, name) or _default(store)
    try:
        found = networks.find(store, name)
    except InvalidInput:
        raise networks.no_such(name) from None
    if found is None and len(name) >= 4:
        matches = [one for one in networks.every(store) if one.id.startswith(name)]
        found = matches[0] if len(matches) == 1 else None
    if found is None:
        raise networks.no_such(name)
    return found


def _default(store: Store) -> NetworkRecord:
    from lamina.engine.orphaned_bridges import sweep

    def draw(known: list[NetworkRecord], identity: str) -> NetworkRecord:
        if os.geteuid() == 0:
            sweep()  # their subnets are free
        _clear(store, known)
        return replace(_drawn(store, known, DEFAULT, identity), by_itself=True)

    return networks.create(store, DEFAULT, draw, exist_ok=True)


def create(
    store: Store,
    name: str,
    *,
    subnets: Sequence[str] = (),
    gateways: Sequence[str] = (),
    ranges: Sequence[str] = (),
    ipv6: bool = False,
    internal: bool = False,
    labels: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    driver: str = BRIDGE,
) -> NetworkRecord:
    """Make a network; its bridge comes with its first container. Raises Conflict (the name is taken, a subnet
    overlaps), InvalidInput, KernelError.
    """
    asked = tuple((options or {}).items())
    if driver not in DRIVERS:
        raise InvalidInput(f"make network {name}: driver {driver}: there is none", remedy=", ".join(DRIVERS))

    def draw(known: list[NetworkRecord], identity: str) -> NetworkRecord:
        _clear(store, known)
        if driver == MACVLAN:
            return _on_wire(
                known,
                name,
                identity,
                subnets,
                gateways,
                ranges,
                ipv6 or internal,
                tuple((labels or {}).items()),
                asked,
            )
        return _drawn(
            store, known, name, identity, subnets, gateways, ranges, ipv6=ipv6, internal=internal,
            labels=tuple((labels or {}).items()), options=asked,
        )  # fmt: skip

    return networks.create(store, networks.check_name(name), draw)


def _clear(store: Store, known: list[NetworkRecord]) -> None:
    """Remove bridges and rules of networks that are gone, whose removal was cut short: such a bridge would be taken for
    that of a new network of its name, with addresses that are not, or be in the way of one with its subnet. For who has
    the turn of those who make networks.
    """
    if os.geteuid():
        return
    table = table_of(store)
    own = {one.bridge for one in known}
    with links.opened() as channel:
        gone = [one for one in links.noted(channel, f"{table} network ") if one.name not in own]
        for one in gone:
            links.remove(channel, one)
    if gone:
        try:
            firewall.left_by_networks(table, [network_of(store, one) for one in known], remove=True)
        except Unsupported:  # then there are none
            pass


def _drawn(
    store: Store,
    known: list[NetworkRecord],
    name: str,
    identity: str,
    subnets: Sequence[str] = (),
    gateways: Sequence[str] = (),
    ranges: Sequence[str] = (),
    *,
    ipv6: bool = False,
    internal: bool = False,
    labels: tuple[tuple[str, str], ...] = (),
    options: tuple[tuple[str, str], ...] = (),
) -> NetworkRecord:
    """A new network on paper. Raises InvalidInput, Conflict, Unsupported."""
    chosen = [read_subnet(text) for text in subnets]
    families = [one.bits for one in chosen]
    if len(set(families)) < len(families):
        raise InvalidInput(
            f"make network {name}: two subnets of one family", remedy="one of IPv4, one of IPv6"
        )
    used = _used(known)
    for one in chosen:
        _check_free(name, one, used)
    if 32 not in families:
        chosen.insert(0, _free(name, _pool(name), [subnet for subnet, _ in used]))
    if ipv6 and 128 not in families:
        chosen.append(_local_ipv6(identity))
    chosen.sort(key=lambda one: one.bits)
    _check_ipv6(name, chosen)
    settings = _settings(name, options, ipv6=any(one.bits == 128 for one in chosen))
    if "parent" in settings:
        raise InvalidInput(f"make network {name}: a bridge has no parent", remedy="-d macvlan has one")
    bridge = settings.get("bridge", "")
    if bridge and (others := [one.name for one in known if one.bridge == bridge]):
        raise Conflict(
            f"make network {name}: the bridge {bridge} is that of network {others[0]}", remedy="name another"
        )
    if not bridge:
        bridge = default_bridge(store) if name == DEFAULT else bridge_of(name, identity)
        if any(one.bridge == bridge for one in known) or (name != DEFAULT and is_there(bridge)):
            bridge = bridge_of(name, identity, apart=True)
    return NetworkRecord(
        name=name,
        id=identity,
        created=networks.now(),
        bridge=bridge,
        subnets=tuple(_parts(name, one, gateways, ranges) for one in chosen),
        internal=internal,
        mtu=int(settings.get("mtu", "0")),
        hidden=settings.get("masquerade", "true") == "true",
        labels=labels,
        options=options,
        drawn=not (subnets or gateways or ranges),
    )


def _on_wire(
    known: list[NetworkRecord],
    name: str,
    identity: str,
    subnets: Sequence[str],
    gateways: Sequence[str],
    ranges: Sequence[str],
    of_bridges: bool,
    labels: tuple[tuple[str, str], ...],
    options: tuple[tuple[str, str], ...],
) -> NetworkRecord:
    """A new one on the wire of a link of this host, on paper. Raises InvalidInput, Conflict, Unsupported."""
    chosen = sorted((read_subnet(text) for text in subnets), key=lambda one: one.bits)
    settings = _settings(name, options, ipv6=any(one.bits == 128 for one in chosen))
    parent = settings.get("parent", "")
    if of_bridges or settings.keys() & {"bridge", "masquerade", "dns"}:
        raise InvalidInput(
            f"make network {name}: macvlan has no --ipv6, --internal, bridge, masquerade and dns",
            remedy="a --subnet of each family, and -o parent=LINK",
        )
    if not parent or [one.bits for one in chosen] not in ([32], [32, 128]):
        raise InvalidInput(
            f"make network {name}: macvlan takes the link and the subnet of its wire",
            remedy="-o parent=eth0 --subnet 192.168.1.0/24 --gateway 192.168.1.1 --ip-range 192.168.1.192/27",
        )
    for one in chosen:  # that this host has a route there is how it should be
        _check_free(
            name,
            one,
            [(read_subnet(text), f"network {other.name}") for other in known for text, _, _ in other.subnets],
        )
    return NetworkRecord(
        name=name,
        id=identity,
        created=networks.now(),
        bridge="",
        subnets=tuple(_parts(name, one, gateways, ranges) for one in chosen),
        internal=False,
        mtu=int(settings.get("mtu", "0")),
        hidden=False,
        labels=labels,
        options=options,
        parent=parent,
    )


def _check_ipv6(name: str, chosen: Sequence[Subnet]) -> None:
    from lamina.network.forwarding import has_ipv6

    if any(one.bits == 128 for one in chosen) and not has_ipv6():
        raise Unsupported(
            f"make network {name}: this host has no IPv6", remedy="leave --ipv6 and its subnet out"
        )


def _parts(name: str, subnet: Subnet, gateways: Sequence[str], ranges: Sequence[str]) -> tuple[str, str, str]:
    """(subnet, gateway, range) as text."""
    if subnet.bits - subnet.prefix < 2:
        raise InvalidInput(
            f"make network {name}: {subnet} has no room for containers", remedy="such as a /29"
        )
    every = (packed(text, "gateway") for text in gateways)
    own = [address for address in every if len(address) == len(subnet.base)]
    for address in own:
        if not subnet.has(address):
            raise InvalidInput(f"make network {name}: gateway {text_of(address)} is not in {subnet}")
    gateway = own[0] if own else subnet.packed(subnet.first + 1)
    if gateway in (subnet.base, subnet.packed(subnet.last)):
        raise InvalidInput(f"make network {name}: gateway {text_of(gateway)} means all of {subnet}")
    parts = [part for part in (read_subnet(text, "range") for text in ranges) if part.bits == subnet.bits]
    for part in parts:
        if not part.within(subnet):
            raise InvalidInput(f"make network {name}: range {part} is not in {subnet}")
    return str(subnet), text_of(gateway), str(parts[0] if parts else subnet)


def _settings(name: str, options: Iterable[tuple[str, str]], *, ipv6: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for given, text in options:
        key = _DOCKERS.get(given, given)
        if key not in OPTIONS:
            raise InvalidInput(
                f"make network {name}: option {given}: there is none", remedy=", ".join(OPTIONS)
            )
        found[key] = text.lower() if key in BOOLEANS else text
    least = _SMALLEST_MTU_IPV6 if ipv6 else _SMALLEST_MTU
    mtu = found.get("mtu", "0")
    if not (mtu.isascii() and mtu.isdigit()) or (mtu != "0" and not least <= int(mtu) <= _LARGEST_MTU):
        raise InvalidInput(f"make network {name}: mtu {mtu}: not a number from {least} to {_LARGEST_MTU}")
    for key in BOOLEANS:
        if found.get(key, "true") not in ("true", "false"):
            raise InvalidInput(f"make network {name}: {key} {found[key]}: neither true nor false")
    bridge = found.get("bridge", "x")
    if not 0 < len(bridge) < 16 or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in bridge):
        raise InvalidInput(f"make network {name}: bridge {bridge!r}: not a name for a link")
    if not 0 < len(found.get("parent", "x")) < 16:
        raise InvalidInput(f"make network {name}: parent {found['parent'][:100]!r}: not a name for a link")
    if bridge in (".", "..") or bridge.startswith((PORTS_OF_SYSTEM, PORTS_OF_OTHERS)):
        raise InvalidInput(f"make network {name}: bridge {bridge!r}: it would be taken for something else")
    return found


def _used(known: Iterable[NetworkRecord]) -> list[tuple[Subnet, str]]:
    """What must not overlap, and what it is: other networks, and where this machine's routes lead."""
    from lamina.linux.netlink import open_channel
    from lamina.linux.rtnetlink import addresses, links, routes
    from lamina.network.subnet import subnet_of

    found = [(read_subnet(text), f"network {one.name}") for one in known for text, _, _ in one.subnets]
    own = {one.bridge for one in known}
    with open_channel() as channel:
        names = {link.index: link.name for link in links(channel)}
        for route in routes(channel):
            if route.packed and names.get(route.index) not in own:
                what = f"the route by {names.get(route.index, '?')}"
                found.append((subnet_of(route.packed, route.prefix), what))
        found += [
            (subnet_of(address.packed, address.prefix), names.get(address.index, "?"))
            for address in addresses(channel)
            if names.get(address.index) not in own and address.packed[:1] not in _NEAR
        ]
    return found


def in_use_by(store: Store, record: NetworkRecord) -> str:
    """What of this host, or which network, has addresses of its subnets; "" for nothing. Raises KernelError."""
    used = _used(one for one in networks.every(store) if one.name != record.name)
    own = [read_subnet(text) for text, _, _ in record.subnets]
    return next((what for other, what in used if any(subnet.overlaps(other) for subnet in own)), "")


def another_subnet(store: Store, record: NetworkRecord) -> NetworkRecord:
    """*record* with one of IPv4 that is free. Raises Conflict where none is."""
    used = [subnet for subnet, _ in _used(one for one in networks.every(store) if one.name != record.name)]
    first = _parts(record.name, _free(record.name, _pool(record.name), used), (), ())
    return replace(record, subnets=(first, *record.subnets[1:]))


def _pool(name: str) -> tuple[str, ...]:
    return (*_OF_DEFAULT, *_OF_OTHERS) if name == DEFAULT else _OF_OTHERS


def _check_free(name: str, subnet: Subnet, used: Iterable[tuple[Subnet, str]]) -> None:
    for other, what in used:
        if subnet.overlaps(other):
            raise Conflict(
                f"make network {name}: subnet {subnet} overlaps {other} of {what}",
                remedy="choose another --subnet, or none for any that is free",
            )


def _free(name: str, pool: Iterable[str], used: Sequence[Subnet]) -> Subnet:
    for text in pool:
        subnet = read_subnet(text)
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise Conflict(f"make network {name}: no subnet is free", remedy="name one with --subnet")


def _local_ipv6(identity: str) -> Subnet:
    """A unique local one, as random as the id (RFC 4193)."""
    return Subnet(bytes.fromhex("fd" + identity[:10]) + bytes(10), 64)


def remove(store: Store, name: str) -> str:
    """Remove a network that no container is in; its name. Raises NotFound, Conflict, KernelError."""
    record = find(store, name)

    def undo(gone: NetworkRecord) -> None:
        take_down(network_of(store, gone), last=not networks.every(store))

    networks.remove(store, record.name, lambda place: users(store, place), undo)
    return record.name


def take_down(network: Network, *, last: bool = False) -> None:
    """Its bridge and its rules, if they are there; with a store's *last* one its tables. Raises KernelError."""
    if network.parent or os.geteuid():
        return
    from lamina.linux.netlink import open_channel

    try:
        point("network: take its rules down")
        firewall.remove(network.table, rules.of_network(network))
        if last:
            firewall.delete_idle(network.table)
    except Unsupported:  # then there are no rules
        pass
    point("network: remove bridge")
    with open_channel() as channel:
        links.remove_bridge(channel, network)


def let_default_go(store: Store) -> bool:
    """Remove the default network, if it came by itself, nobody is in it, and it is there: it comes again with its next
    container. Whether that was so. Raises KernelError.
    """
    record = networks.find(store, DEFAULT)
    if record is None or not record.by_itself:
        return False
    try:
        remove(store, DEFAULT)
    except (Conflict, NotFound):
        return False
    return True


def users(store: Store, place: bytes) -> list[str]:
    """The names of the containers that have addresses in the directory *place*."""
    found = []
    for owner in sorted(set(leased(place).values())):
        try:
            home = containers.find(store, owner)
            found.append(str((home.read("container") or {}).get("name") or owner[:12]))
        except (NotFound, InvalidInput):
            continue
    return found


def attachments_of(store: Store) -> list[Attachment]:
    """Every container's that is in a network of ours now."""
    from lamina.engine.network_record import attachments_in

    found: list[Attachment] = []
    for entry in os.listdir(store.running):
        try:
            every = attachments_in(containers.Home(store, os.fsdecode(entry)))
        except Corrupt:  # which others find: nobody else's rules wait for it
            continue
        found += [one for one in every if not one.network.maker]
    return found


def everything(store: Store) -> tuple[list[Network], list[Attachment]]:
    """What the rules are made of."""
    return [network_of(store, one) for one in networks.every(store)], attachments_of(store)
