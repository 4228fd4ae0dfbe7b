"""Networks that containers can be in: made, listed, removed; and what is noted of one as lamina.network wants it.

The default network, `bridge`, is made when it is first used, with a subnet that nothing on this machine uses.
"""

from __future__ import annotations

import os
from _socket import if_nametoindex
from hashlib import sha256

from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.network import firewall, links, rules
from lamina.network.leases import leased
from lamina.network.model import DEFAULT_BRIDGE, Network, bridge_of
from lamina.network.subnet import packed, read_subnet
from lamina.store import containers, networks
from lamina.store.networks import DEFAULT, NetworkRecord
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lamina.store.root import Store

SYSTEM = b"/var/lib/lamina"
BRIDGE, MACVLAN = DRIVERS = ("bridge", "macvlan")


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
    from lamina.engine.network_drawing import Wish, drawn
    from lamina.engine.orphaned_bridges import sweep

    _check_root(DEFAULT)

    def draw(known: list[NetworkRecord], identity: str) -> NetworkRecord:
        sweep()  # their subnets are free
        _clear(store, known)
        found = drawn(known, DEFAULT, identity, Wish(), lambda: _bridge_for(store, known, DEFAULT, identity))
        return replace(found, by_itself=True)

    return networks.create(store, DEFAULT, draw, exist_ok=True)


def create(
    store: Store,
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
    driver: str = BRIDGE,
) -> NetworkRecord:
    """Make a network; its bridge comes with its first container. Raises Conflict (the name is taken, a subnet
    overlaps), InvalidInput, Unsupported (this user could not use it), KernelError.
    """
    from lamina.engine.network_drawing import Wish, drawn, on_wire

    _check_root(name)
    if driver not in DRIVERS:
        raise InvalidInput(f"make network {name}: driver {driver}: there is none", remedy=", ".join(DRIVERS))
    wish = Wish(
        tuple(subnets), tuple(gateways), tuple(ranges), ipv4, ipv6, internal,
        tuple((labels or {}).items()), tuple((options or {}).items()),
    )  # fmt: skip

    def draw(known: list[NetworkRecord], identity: str) -> NetworkRecord:
        _clear(store, known)
        if driver == MACVLAN:
            return on_wire(known, name, identity, wish)
        return drawn(known, name, identity, wish, lambda: _bridge_for(store, known, name, identity))

    return networks.create(store, networks.check_name(name), draw)


def _check_root(name: str) -> None:
    """A network in which nobody could ever be is not made: links and rules of this host take root."""
    if os.geteuid():
        raise Unsupported(
            f"make network {name}: its links and rules take root",
            remedy="run it as root; without root each container has a network of its own (--network pasta, -p), and "
            "--network container:NAME is that of another one",
        )


def _bridge_for(store: Store, known: Iterable[NetworkRecord], name: str, identity: str) -> str:
    """A name for the bridge of a new network."""
    bridge = default_bridge(store) if name == DEFAULT else bridge_of(name, identity)
    if any(one.bridge == bridge for one in known) or (name != DEFAULT and is_there(bridge)):
        return bridge_of(name, identity, apart=True)
    return bridge


def _clear(store: Store, known: list[NetworkRecord]) -> None:
    """Remove bridges and rules of networks that are gone, whose removal was cut short: such a bridge would be taken for
    that of a new network of its name, with addresses that are not, or be in the way of one with its subnet. For who has
    the turn of those who make networks.
    """
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
