"""A network whose bridge has not been made so far, and whose name for it, or whose subnet, is somebody else's by now:
another store's, say, which has a network of that name too.

The bridge comes with the network's first container, so nobody has its name and its subnet before. As long as nobody is
in the network it gets others, unless somebody has asked for these.
"""

from __future__ import annotations

from lamina.engine.networks import find, is_there, network_of, users
from lamina.errors import Conflict, Unsupported
from lamina.linux.rtnetlink import addresses
from lamina.network import firewall, links, rules
from lamina.network.model import SYSTEM_TABLE, bridge_of
from lamina.network.subnet import subnet_of
from lamina.store import networks
from lamina.store.lock import LOCK_EX, turn
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.network.model import Network
    from lamina.store.networks import NetworkRecord
    from lamina.store.root import Store

_ASKED = ("bridge", "com.docker.network.bridge.name")


def network_for(store: Store, name: str) -> Network:
    """The network *name* for who is to be in it. Raises as `networks.find`; Conflict where it cannot be here."""
    record = find(store, name)
    if record.bridge and not _stands(store, record):
        record = _moved(store, record)
    return network_of(store, record)


def as_it_is(store: Store, network: Network) -> Network:
    """The network, which somebody has read and has taken an address of, as it is now: it may have moved, or been made
    anew, in between. Raises NotFound; Conflict where it is something else now.
    """
    record = networks.find(store, network.name)
    if record is None:
        raise networks.no_such(network.name)
    now = network_of(store, record)
    if bool(now.names) != bool(network.names) or now.parent != network.parent:
        raise Conflict(f"connect to network {now.name}: somebody makes it anew", remedy="try again")
    return now


def _stands(store: Store, record: NetworkRecord) -> bool:
    if not is_there(record.bridge):
        return False
    if record.by_itself:  # its bridge is called after the store
        return True
    with links.opened() as channel:
        found = links.find(channel, record.bridge)
    return found is not None and links.is_of(found, network_of(store, record))


def _moved(store: Store, record: NetworkRecord) -> NetworkRecord:
    """With another bridge, and another subnet, where that must be and can be. A bridge that stays as it is although its
    name is taken is an error of who makes it.
    """
    name = record.name
    with turn(store.networks, LOCK_EX):
        now = networks.find(store, name)
        if now is None:
            raise networks.no_such(name)
        if _stands(store, now) or users(store, networks.addresses_of(store, name)):
            return now
        moved = _elsewhere(store, now)
        if moved == now:
            return now

        def leave() -> None:
            _forget_rules(network_of(store, now))

        is_moved = networks.change(store, moved, lambda place: users(store, place), leave)
        return moved if is_moved else now


def _elsewhere(store: Store, now: NetworkRecord) -> NetworkRecord:
    """Where it is to be: as it is, if nobody is in its way. Raises Conflict."""
    from lamina.engine.network_drawing import another_subnet, in_use_by

    if now.by_itself:  # nobody has asked for it, so it gives way to whatever is there
        return another_subnet(store, now) if in_use_by(store, now) else now
    moved = now
    other = bridge_of(now.name, now.id, apart=True)
    if is_there(now.bridge) and not any(key in _ASKED for key, _ in now.options) and not is_there(other):
        moved = replace(moved, bridge=other)
    if neighbour := _neighbour(network_of(store, now)):
        if not now.drawn:
            raise Conflict(
                f"connect to network {now.name}: its subnet is that of {neighbour} by now",
                remedy=f"'lamina network rm {now.name}', and make it anew with another --subnet",
            )
        moved = another_subnet(store, moved)
    return moved


def _neighbour(network: Network) -> str:
    """What is written to a bridge of Lamina's, of another network, that has addresses of this one's; "" for none."""
    with links.opened() as channel:
        noted = links.noted(channel, SYSTEM_TABLE)
        others = {
            one.index: one.alias for one in noted if one.kind == "bridge" and not links.is_of(one, network)
        }
        for one in addresses(channel):
            if one.index in others:
                subnet = subnet_of(one.packed, one.prefix)
                if any(own.overlaps(subnet) for own in network.subnets):
                    return others[one.index]
    return ""


def _forget_rules(network: Network) -> None:
    try:
        firewall.remove(network.table, rules.of_network(network))
    except Unsupported:  # then there are none
        pass
