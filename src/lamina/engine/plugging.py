"""A container's networks, from before its start to after its end.

    take      addresses and ports are claimed, and written down (network.json): before anything is made
    connect   bridges, links and rules: while its first process waits, so that nothing of it runs unguarded
    release   rules, claims and the record go; the links have gone with the last process

Each step may be the last one of who is killed: what is written down is what `release` takes back, and it takes back
what is not there as well. So whoever cleans up after somebody calls it and need not know how far that had come.
"""

from __future__ import annotations

from contextlib import closing

from lamina.engine.networks import everything, find, network_of, table_of
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, Unsupported
from lamina.network import claims, firewall, forwarding, leases, links, rules
from lamina.network.model import Attachment, Published, mac_of
from lamina.network.subnet import packed, text_of
from lamina.store import networks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.engine.networking import Networking
    from lamina.engine.options import Options
    from lamina.engine.translate import ImageConfig
    from lamina.linux.fd import Fd
    from lamina.network.model import Network
    from lamina.runtime.bundle import Bundle
    from lamina.store.containers import Home
    from lamina.store.root import Store

RECORD = "network"


def take(home: Home, title: str, options: Options, exposed: tuple[str, ...] = ()) -> list[Attachment]:
    """Claim what the container at *home*, which is held, needs for its next start; what it had is given back.

    *title* is its name, *exposed* are ports of its image (`-P`). Raises NotFound, Conflict, InvalidInput, Unsupported.
    """
    from lamina.engine.networking import NOTHING

    wanted = options.networking or NOTHING
    release(home)
    store = home.store
    record = find(store, options.network)
    network = network_of(store, record)
    if network.internal and (wanted.published or wanted.publish_all):
        raise InvalidInput(
            f"publish a port: network {network.name} is internal", remedy="take another network, or no -p"
        )
    attachment = Attachment(home.id, title, network, 0, (), wanted.mac, "eth0")
    # written down before each claim is made: who is killed in between leaves a record with too much, never too little
    try:
        attachment = _addressed(home, attachment, wanted)
        attachment = _published(home, attachment, wanted, exposed)
    except BaseException as failure:
        try:
            release(home)
        except (OSError, LaminaError) as second:
            failure.add_note(f"while giving addresses and ports back: {second}")
        raise
    return [attachment]


def _addressed(home: Home, attachment: Attachment, wanted: Networking) -> Attachment:
    from lamina.values import replace

    network, owner = attachment.network, attachment.owner
    asked = {len(address): address for address in wanted.addresses}
    if unfit := asked.keys() - {len(subnet.base) for subnet in network.subnets}:
        text = text_of(asked[min(unfit)])
        raise InvalidInput(f"address {text}: network {network.name} has no subnet of its family")
    _write(home, attachment)
    own: list[bytes] = []
    try:
        for subnet, part in zip(network.subnets, network.ranges, strict=True):
            if (this := asked.get(len(subnet.base))) is not None:
                leases.take_this(network.leases, subnet, this, network.gateways, owner)
                own.append(this)
            else:
                own.append(_take(home, network, subnet, part))
    except FileNotFoundError:
        raise networks.no_such(network.name) from None  # it has just been removed
    found = replace(attachment, addresses=tuple(own), mac=attachment.mac or mac_of(own[0]))
    _write(home, found)
    return found


def _take(home: Home, network: Network, subnet: Any, part: Any) -> bytes:
    try:
        return leases.take(network.leases, subnet, part, network.gateways, home.id)
    except Conflict:
        if not leases.drop_stale(network.leases, lambda owner: is_alive(home, owner)):
            raise
        return leases.take(network.leases, subnet, part, network.gateways, home.id)


def _published(
    home: Home, attachment: Attachment, wanted: Networking, exposed: tuple[str, ...]
) -> Attachment:
    from lamina.engine.networking import of_image
    from lamina.values import replace

    asked = [*wanted.published, *(of_image(exposed, wanted.published) if wanted.publish_all else ())]
    if not asked:
        return attachment
    families = {len(address) for address in attachment.addresses}
    ports = home.store.networks + networks.PORTS
    found: list[Published] = []
    for one in asked:
        if one.host and len(one.host) not in families:
            raise InvalidInput(
                f"publish {one}: network {attachment.network.name} has no addresses of that family",
                remedy="make one with --ipv6, or name an address of the other family",
            )
        if one.host_port:
            _write(home, replace(attachment, published=(*found, one)))
        taken = _claim(home, ports, one, families)
        found.append(taken)
        _write(home, replace(attachment, published=tuple(found)))
    return replace(attachment, published=tuple(found))


def _claim(home: Home, ports: bytes, one: Published, families: set[int]) -> Published:
    try:
        return claims.take(ports, one, home.id, families)
    except Conflict:
        if not claims.drop_stale(ports, lambda owner: is_alive(home, owner)):
            raise
        return claims.take(ports, one, home.id, families)


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


def connected(bundle: Bundle, home: Home, attachments: list[Attachment]) -> Bundle:
    """*bundle* with what makes its links when it is started. Raises as `connection`."""
    from lamina.values import replace

    return replace(bundle, connect=connection(home, attachments))


def connection(home: Home, attachments: list[Attachment]) -> Callable[[int, Fd], None]:
    """What makes the links of a process that waits for it (`Bundle.connect`); before that, now, all that can be made
    without one is made. Raises KernelError, Conflict, Unsupported.
    """
    store = home.store
    with _explained(), links.opened() as channel:
        masters = [_bridge(store, channel, one.network, [one]) for one in attachments]

    def connect(pid: int, inside: Fd) -> None:
        wanted = [element for one in attachments for element in rules.of_attachment(one)]
        with _explained():
            firewall.add(table_of(store), wanted, lambda: everything(store))
            with links.opened() as outside, closing(links.around(inside)) as within:
                links.plug(outside, within, pid, attachments, masters)

    return connect


def _bridge(store: Store, channel: Any, network: Network, attachments: list[Attachment]) -> int:
    def settled() -> None:
        firewall.add(network.table, rules.of_network(network), lambda: everything(store))

    if not network.internal:
        forwarding.forward({len(gateway) for gateway in network.gateways})
    index = links.ensure_bridge(channel, network, settled)
    if any(_is_local(published.host) for one in attachments for published in one.published):
        forwarding.route_loopback(network)
    return index


def mend(store: Store) -> None:
    """Make the rules anew, and the bridges of the networks in which containers are; their links are put back to them.

    Raises Unsupported, KernelError, Conflict.
    """
    with _explained():
        firewall.make(table_of(store), lambda: everything(store), anew=True)
        known, attachments = everything(store)
        with links.opened() as channel:
            for network in known:
                within = [one for one in attachments if one.network.name == network.name]
                if within:
                    links.put_back(channel, within, _bridge(store, channel, network, within))


def _is_local(host: bytes) -> bool:
    """Whether a port published there is to be reached by 127.0.0.0/8."""
    return not host or host[:1] == b"\x7f"


class _explained:
    """Says what to do when this user may not make networks."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> None:
        if isinstance(error, KernelError) and error.errno == 1:
            raise Unsupported(
                "make the links of a container: only root of this network namespace may",
                remedy="take --network none or --network host",
            ) from error


# -- release, and the record


def release(home: Home) -> None:
    """Give back what the container at *home*, which is held and does not run, has of networks. Nothing happens if that
    is nothing. Raises KernelError, OSError; then the record stays, for the next time.
    """
    if (kept := home.read(RECORD)) is None:
        return
    published: list[Published] = []
    for one in kept["attachments"]:
        attachment = _of(home, one)
        # before its claims are given back: what others add for a port that is theirs then must stay
        if attachment.addresses:
            try:
                firewall.remove(str(kept["table"]), rules.of_attachment(attachment))
            except Unsupported:  # then there are no rules
                pass
        published += attachment.published
        for address in attachment.addresses or _claimed(attachment):
            _give_back(attachment, address)
    for one in published:
        claims.give_back(home.store.networks + networks.PORTS, one, home.id)
    home.drop_record(RECORD)


def _claimed(attachment: Attachment) -> list[bytes]:
    """The addresses that somebody claimed who was killed before he could write them down."""
    every = leases.leased(attachment.network.leases)
    return [packed(address) for address, owner in every.items() if owner == attachment.owner]


def _give_back(attachment: Attachment, address: bytes) -> None:
    try:
        leases.give_back(attachment.network.leases, address, attachment.owner)
    except FileNotFoundError:  # with its network
        pass


def attachments_in(home: Home) -> list[Attachment]:
    """What the record of the container at *home* says; with addresses, or they are not there yet."""
    kept = home.read(RECORD)
    if kept is None:
        return []
    found = [_of(home, one) for one in kept["attachments"]]
    return [one for one in found if one.addresses]


def _write(home: Home, attachment: Attachment) -> None:
    network = attachment.network
    one = {
        "title": attachment.title,
        "network": network.name,
        "bridge": network.bridge,
        "number": attachment.number,
        "addresses": [text_of(address) for address in attachment.addresses],
        "prefixes": [subnet.prefix for subnet in network.subnets],
        "gateways": [text_of(gateway) for gateway in network.gateways],
        "mac": attachment.mac.hex(":"),
        "device": attachment.device,
        "published": [
            [port.protocol, text_of(port.host) if port.host else "", port.host_port, port.port]
            for port in attachment.published
        ],
    }
    home.write(RECORD, {"table": network.table, "attachments": [one]})


def _of(home: Home, one: dict[str, Any]) -> Attachment:
    from lamina.network.model import Network
    from lamina.network.subnet import subnet_of

    addresses = tuple(packed(text) for text in one["addresses"])
    gateways = tuple(packed(text) for text in one["gateways"])
    subnets = tuple(
        subnet_of(gateway, prefix) for gateway, prefix in zip(gateways, one["prefixes"], strict=True)
    )
    network = Network(
        name=one["network"],
        bridge=one["bridge"],
        subnets=subnets,
        gateways=gateways,
        ranges=subnets,
        leases=networks.addresses_of(home.store, one["network"]),
        table=table_of(home.store),
    )
    return Attachment(
        owner=home.id,
        title=one["title"],
        network=network,
        number=one["number"],
        addresses=addresses,
        mac=bytes.fromhex(one["mac"].replace(":", "")),
        device=one["device"],
        published=tuple(
            Published(protocol, packed(host) if host else b"", host_port, port)
            for protocol, host, host_port, port in one["published"]
        ),
    )


def ports_of(home: Home) -> dict[str, list[str]]:
    """Where its ports are published now: {"80/tcp": ["0.0.0.0:8080", "[::]:8080"]}."""
    found: dict[str, list[str]] = {}
    for one in attachments_in(home):
        for port in one.published:
            places = found.setdefault(f"{port.port}/{port.protocol}", [])
            places += [f"{host}:{port.host_port}" for host in _hosts(one, port)]
    return found


def _hosts(attachment: Attachment, port: Published) -> list[str]:
    if port.host:
        return [f"[{text_of(port.host)}]" if len(port.host) == 16 else text_of(port.host)]
    every = {4: "0.0.0.0", 16: "[::]"}
    return [every[len(address)] for address in attachment.addresses]


def settings_of(home: Home) -> dict[str, Any]:
    """What `inspect` says of its networks now, in docker's words."""
    found = attachments_in(home)
    first = found[0] if found else None
    return {
        "Ports": {
            inside: [
                {"HostIp": host.strip("[]"), "HostPort": port}
                for host, _, port in (place.rpartition(":") for place in places)
            ]
            for inside, places in ports_of(home).items()
        },
        "IPAddress": _first(first, 4),
        "GlobalIPv6Address": _first(first, 16),
        "MacAddress": "" if first is None else first.mac.hex(":"),
        "Networks": {one.network.name: _endpoint(one) for one in found},
    }


def _endpoint(one: Attachment) -> dict[str, Any]:
    gateways = {len(gateway): text_of(gateway) for gateway in one.network.gateways}
    prefixes = {len(subnet.base): subnet.prefix for subnet in one.network.subnets}
    return {
        "IPAddress": _first(one, 4),
        "IPPrefixLen": prefixes.get(4, 0),
        "Gateway": gateways.get(4, ""),
        "GlobalIPv6Address": _first(one, 16),
        "GlobalIPv6PrefixLen": prefixes.get(16, 0),
        "IPv6Gateway": gateways.get(16, ""),
        "MacAddress": one.mac.hex(":"),
        "InterfaceName": one.device,
        "HostInterfaceName": one.port,
    }


def _first(one: Attachment | None, length: int) -> str:
    if one is None:
        return ""
    return next((text_of(address) for address in one.addresses if len(address) == length), "")
