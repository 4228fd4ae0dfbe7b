"""A container's networks, from before its start to after its end.

    take      addresses, names and ports are claimed, and written down (network.json): before anything is made
    connect   bridges, links and rules: while its first process waits, so that nothing of it runs unguarded
    release   rules, claims and the record go; the links have gone with the last process

Each step may be the last one of who is killed: what is written down is what `release` takes back, and it takes back
what is not there as well. So whoever cleans up after somebody calls it and need not know how far that had come.
"""

from __future__ import annotations

from contextlib import closing
from time import sleep

from lamina.engine.network_record import RECORD, Ledger, everything, own_addresses, with_own_ports
from lamina.engine.networks import table_of
from lamina.engine.options import by_others
from lamina.engine.taken_bridges import as_it_is, network_for
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.network import claims, firewall, forwarding, leases, links, names, rules
from lamina.network.model import Attachment, mac_of
from lamina.network.subnet import packed, text_of
from lamina.store import networks
from lamina.store.lock import LOCK_EX, free_turn, turn
from lamina.store.networks import DEFAULT
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.networking import Joined
    from lamina.engine.options import Options
    from lamina.engine.translate import ImageConfig
    from lamina.linux.fd import Fd
    from lamina.linux.rtnetlink import Link
    from lamina.network.model import Allowed, Network
    from lamina.network.subnet import Subnet
    from lamina.runtime.bundle import Bundle
    from lamina.store.containers import Home
    from lamina.store.root import Store


_LOOKS, _BETWEEN = 10, 0.1  # seconds: a link usually goes within one
_TRIES = 10  # to be in the default network while others remove it


def take(
    home: Home, title: str, options: Options, exposed: tuple[str, ...] = (), *, insists: bool = True
) -> list[Attachment]:
    """Claim what the container at *home*, which is held, needs for its next start; what it had is given back.

    *title* is its name, *exposed* are ports of its image (`-P`); who *insists* is refused where none of its networks
    can publish them. Raises NotFound, Conflict, InvalidInput, Unsupported.
    """
    from lamina.engine.networking import NOTHING, joined_by

    wanted = options.networking or NOTHING
    release(home)
    ledger = Ledger(home, wanted.dns)
    try:
        with turn(home.path, LOCK_EX):  # somebody may rename it
            if by_others(options.network):
                from lamina.engine.foreign_networks import take as take_elsewhere

                take_elsewhere(ledger, title, options)
            else:
                for number, joined in enumerate(joined_by(options)):
                    _join(ledger, title, joined, number, wanted.egress)
            if wanted.published or wanted.publish_all:
                from lamina.engine.port_claims import publish

                publish(ledger, wanted, exposed, insists=insists)
    except BaseException as failure:
        try:
            release(home)
        except (OSError, LaminaError) as second:
            failure.add_note(f"while giving addresses and ports back: {second}")
        raise
    return ledger.attachments


def _join(
    ledger: Ledger, title: str, joined: Joined, number: int, egress: tuple[Allowed, ...] | None
) -> None:
    for left in range(_TRIES, -1, -1):
        attachment = place_in(ledger.home, title, joined, number, egress)
        try:
            settle(ledger, attachment, joined.addresses)
            return
        except NotFound:  # somebody has just pruned it; the default one comes again
            if joined.network != DEFAULT or not left:
                raise


def place_in(
    home: Home, title: str, joined: Joined, number: int, egress: tuple[Allowed, ...] | None = None
) -> Attachment:
    """The container's place in a network, as it is to be: without addresses so far. Raises NotFound, InvalidInput."""
    network = network_for(home.store, joined.network)
    if egress is not None and network.parent:
        raise InvalidInput(
            f"egress: network {network.name} is macvlan, and what is on its wire passes no rule of this host",
            remedy="take a network of the driver bridge",
        )
    if joined.aliases and not network.names:
        raise InvalidInput(
            f"network alias {joined.aliases[0]}: containers of network {network.name} have no names",
            remedy="take a network that 'lamina network create' made",
        )
    if not network.names and any(one.name for one in egress or ()):
        raise InvalidInput(
            f"egress: containers of network {network.name} have nobody who answers for names",
            remedy="take a network that 'lamina network create' made, or allow addresses",
        )
    device = f"eth{number}"
    return Attachment(
        home.id, title, network, number, (), joined.mac, device, aliases=joined.aliases, egress=egress
    )


def settle(ledger: Ledger, attachment: Attachment, wanted: tuple[bytes, ...]) -> Attachment:
    """Take addresses, the *wanted* ones where there are any, and names. Raises Conflict, InvalidInput, NotFound.

    Written down before each claim is made: who is killed in between leaves a record with too much, never too little.
    """
    from lamina.values import replace

    asked = {len(address): address for address in wanted}
    for left in range(_TRIES, -1, -1):
        found = _addressed(ledger, attachment, asked)
        now = as_it_is(ledger.home.store, found.network)
        if now == found.network:
            break
        for address in found.addresses:  # somebody has moved it since it was read
            _give_back(found, address)
        if not left:
            raise Conflict(f"connect to network {now.name}: it moves all the time", remedy="try again")
        attachment = replace(attachment, network=now)
    take_names(found)
    return found


def take_names(attachment: Attachment) -> None:
    """Have others of the network find it by its names. Raises NotFound where the network has just been removed."""
    network = attachment.network
    point("network: take names")
    try:
        for name in attachment.names:
            names.take(network.names, name, attachment.owner, attachment.addresses)
    except FileNotFoundError:
        raise networks.no_such(network.name) from None


def _addressed(ledger: Ledger, attachment: Attachment, asked: dict[int, bytes]) -> Attachment:
    """With addresses, where those who are to have them are written down. Raises Conflict, InvalidInput, NotFound."""
    from lamina.values import replace

    network = attachment.network
    if unfit := asked.keys() - {len(subnet.base) for subnet in network.subnets}:
        text = text_of(asked[min(unfit)])
        raise InvalidInput(
            f"address {text}: network {network.name} has no subnet of its family",
            remedy=f"one of {' or '.join(map(str, network.subnets))}, or none for the next that is free",
        )
    ledger.note(attachment)
    point("network: take addresses")
    own: list[bytes] = []
    for subnet, part in zip(network.subnets, network.ranges, strict=True):
        try:
            own.append(_take(ledger.home, network, subnet, part, asked.get(len(subnet.base))))
        except FileNotFoundError:
            if not networks.wait_for_change(ledger.home.store, network.name):
                raise networks.no_such(network.name) from None  # it has just been removed
            own.append(_take(ledger.home, network, subnet, part, asked.get(len(subnet.base))))
    found: Attachment = replace(attachment, addresses=tuple(own), mac=attachment.mac or mac_of(own[0]))
    ledger.note(found)
    return found


def _take(home: Home, network: Network, subnet: Subnet, part: Subnet, this: bytes | None) -> bytes:
    """An address of *part*, or *this* one. Raises Conflict, InvalidInput."""

    def take() -> bytes:
        if this is None:
            return leases.take(network.leases, subnet, part, network.gateways, home.id)
        leases.take_this(network.leases, subnet, this, network.gateways, home.id)
        return this

    found: bytes = or_of_the_dead(home, network.leases, leases.leased, leases.drop_stale, take)
    return found


def or_of_the_dead(
    home: Home,
    directory: bytes,
    taken: Callable[[bytes], dict[str, str]],
    drop_stale: Callable[[bytes, Callable[[str], bool]], list[str]],
    take: Callable[[], Any],
) -> Any:
    """What *take* takes in the *directory*; what somebody has who is gone, or has ended, is given back for that."""
    try:
        return take()
    except Conflict:
        from lamina.engine.unreleased import give_back_each

        given = give_back_each(home.store, taken(directory).values())
        if not drop_stale(directory, lambda owner: is_alive(home, owner)) and not given:
            raise
        return take()


def is_alive(home: Home, owner: str) -> bool:
    """Whether the container *owner* is there, and somebody looks after it, or will in a moment."""
    from lamina.store.containers import Home as AnyHome

    if owner == home.id:
        return True
    other = AnyHome(home.store, owner)
    return other.exists() and (other.is_looked_after() or other.read(RECORD) is not None)


def exposed_by(config: ImageConfig) -> tuple[str, ...]:
    """The ports that the image says its command listens at: "80/tcp"."""
    return tuple(str(port) for port in dict(config.rest).get("exposed_ports") or ())


# -- connect


def connected(
    bundle: Bundle,
    home: Home,
    attachments: list[Attachment],
    options: Options,
    told: Callable[[list[Attachment]], None],
) -> Bundle:
    """*bundle* with what makes its links when it is started. Raises as `connection`.

    *told* is called, while the container waits, with its places as they have become where somebody else makes them.
    """
    from lamina.values import replace

    if attachments[0].network.maker:
        from lamina.engine.foreign_networks import connection as connection_elsewhere

        return replace(bundle, connect=connection_elsewhere(home, attachments, options, told))
    return replace(bundle, connect=connection(home, attachments))


def connection(home: Home, attachments: list[Attachment]) -> Callable[[int, Fd], None]:
    """What makes the links of a process that waits for it (`Bundle.connect`); before that, now, all that can be made
    without one is made. Raises KernelError, Conflict, Unsupported.
    """
    store = home.store
    with explained(), links.opened() as channel:
        masters = [bridge_for(store, channel, one.network, [one]) for one in attachments]

    def connect(pid: int, inside: Fd) -> None:
        with explained():
            point("network: guard")
            guard(store, attachments)
            point("network: link")
            with links.opened() as outside, closing(links.around(inside)) as within:
                links.plug(outside, within, pid, attachments, masters)
            point("network: linked")

    return connect


def guard(store: Store, attachments: list[Attachment]) -> None:
    """Have their rules stand, before they have links. Raises Unsupported, KernelError."""
    elements = [element for one in attachments for element in rules.of_attachment(one)]
    firewall.add(table_of(store), elements, lambda: everything(store))
    for own in [address for one in attachments if one.egress is not None for address in one.addresses]:
        from lamina.linux.conntrack import forget

        forget(own)  # what whoever had the address before began would pass as answers


def bridge_for(store: Store, channel: Any, network: Network, attachments: list[Attachment]) -> int:
    """The number of the network's bridge, with all that its containers need there: forwarding, and who answers for
    their names. Where it is made anew those who were at it are put back. Raises KernelError, Conflict, Unsupported.
    """
    made: list[bool] = []

    def settled() -> None:
        point("network: add its rules")
        firewall.add(network.table, rules.of_network(network), lambda: everything(store))
        made.append(True)

    if network.parent:
        return links.parent_of(channel, network)
    if not network.internal:
        forwarding.forward({len(gateway) for gateway in network.gateways})
    point("network: make bridge")
    index = links.ensure_bridge(channel, network, settled)
    if made:  # perhaps not for the first time: somebody else may have removed it
        attachments = [*attachments, *_put_back(store, channel, network, index)]
    point("network: see that names are answered")
    if 4 in network.families and any(_is_local(to.host) for one in attachments for to in one.published):
        forwarding.route_loopback(network)
    if network.names:
        from lamina.engine.responders import ensure

        ensure(store, network, index)
    return index


def mend(store: Store) -> None:
    """Make the rules anew, and the bridges of the networks in which containers are; their links are put back to them.

    Raises Unsupported, KernelError, Conflict.
    """
    with explained():
        firewall.make(table_of(store), lambda: everything(store), anew=True)
        known, attachments = everything(store)
        with links.opened() as channel:
            for network in known:
                of_bridge = network.name if not network.parent else ""
                within = [one for one in attachments if one.network.name == of_bridge]
                if within:
                    links.put_back(channel, within, bridge_for(store, channel, network, within))


def _put_back(store: Store, channel: Any, network: Network, index: int) -> list[Attachment]:
    there = [
        one for one in everything(store)[1] if one.network.name == network.name and not one.network.maker
    ]
    links.put_back(channel, there, index)
    return there


def _is_local(host: bytes) -> bool:
    """Whether a port published there is to be reached by 127.0.0.0/8."""
    return len(host) != 16 and (not any(host) or host[:1] == b"\x7f")


class explained:
    """Says what to do when this user may not make networks."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if isinstance(error, KernelError) and error.errno == 1:
            raise Unsupported(
                "make the links of a container: only root of this network namespace may",
                remedy="take --network none or --network host",
            ) from error


# -- release


def links_of(home: Home) -> list[Link]:
    """This host's ends of the links of a container that has just ended, for `see_go`. Raises KernelError."""
    with links.opened() as channel:
        found = [
            links.find(channel, one.port) for one in Ledger.of(home).attachments if not one.network.parent
        ]
    return [one for one in found if one is not None]


def see_go(ended: list[Link]) -> None:
    """Wait until these are gone, and remove those that stay: where a connection was open whose other end went first,
    the kernel says good-bye to that for two minutes, and keeps the namespace with the link. For who has nothing else to
    do.

    Raises KernelError.
    """
    with links.opened() as channel:
        for _ in range(_LOOKS):
            sleep(_BETWEEN)
            there = [
                one for one in ended if (now := links.find(channel, one.name)) and now.index == one.index
            ]
            if not there:
                return
        for one in there:
            links.remove(channel, one)


def release(home: Home, *, wait: bool = True) -> bool:
    """Give back what the container at *home*, which is held and does not run, has of networks. Nothing happens if that
    is nothing. False where somebody has its turn, and is not to be waited for (*wait*). Raises KernelError, OSError;
    then the record stays, for the next time.
    """
    if not home.has(RECORD):
        return True
    # somebody may connect it to another network
    if (held := turn(home.path, LOCK_EX) if wait else free_turn(home.path)) is None:
        return False
    with held:
        if (kept := home.read(RECORD)) is None:
            return True
        point("network: withdraw")
        attachments = Ledger.of(home).attachments
        for one in attachments:
            if one.network.maker:
                from lamina.engine.foreign_networks import withdraw as withdraw_elsewhere

                withdraw_elsewhere(home, one)
            else:
                withdraw(home.store, one, str(kept["table"]))
        point("network: give ports back")
        for port in [port for one in attachments for port in one.published]:
            claims.give_back(home.store.networks + networks.PORTS, port, home.id)
        home.drop_record(RECORD)
        return True


def withdraw(store: Store, attachment: Attachment, table: str) -> None:
    """Give back everything of one place in a network but for its ports. Raises KernelError, OSError."""
    owner, network = attachment.owner, attachment.network
    own = own_addresses(attachment)
    # before its claims are given back: what others add for a port that is theirs then must stay; and what they have
    # added for an address that whoever was killed had given back
    if own:
        from lamina.values import replace

        mine = replace(attachment, addresses=own)
        try:
            if attachment.egress is not None:
                from lamina.engine.egress_drops import conclude

                conclude(store, mine, table)
            firewall.remove(table, rules.of_attachment(with_own_ports(store, mine)))
        except Unsupported:  # then there are no rules
            pass
    point("network: give names back")
    for name in attachment.names:
        names.give_back(network.names, name, owner)
    point("network: give addresses back")
    for address in attachment.addresses or _claimed(attachment):
        _give_back(attachment, address)


def _claimed(attachment: Attachment) -> list[bytes]:
    """The addresses that somebody claimed who was killed before he could write them down."""
    every = leases.leased(attachment.network.leases)
    return [packed(address) for address, owner in every.items() if owner == attachment.owner]


def _give_back(attachment: Attachment, address: bytes) -> None:
    try:
        leases.give_back(attachment.network.leases, address, attachment.owner)
    except FileNotFoundError:  # with its network
        pass
