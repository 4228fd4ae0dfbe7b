"""A network on paper: what is asked of a new one, checked, with addresses that nothing on this machine uses."""

from __future__ import annotations

from lamina.errors import Conflict, InvalidInput, Unsupported
from lamina.network.model import PORTS_OF_OTHERS, PORTS_OF_SYSTEM
from lamina.network.subnet import Subnet, packed, read_subnet, text_of
from lamina.store import networks
from lamina.store.names import new_id
from lamina.store.networks import DEFAULT, NetworkRecord
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lamina.store.root import Store

# private addresses (RFC 1918) from which subnets are taken that nobody named; neither docker's (172.16/12) nor podman's
# (10.88/16, 10.89/16)
_OF_DEFAULT = tuple(f"10.{number}.0.0/16" for number in range(87, 79, -1))
_OF_OTHERS = tuple(f"10.{second}.{third}.0/24" for second in range(79, 63, -1) for third in range(256))
OPTIONS = ("mtu", "bridge", "masquerade", "dns", "parent")
BOOLEANS = ("masquerade", "dns")
_DOCKERS = {
    "com.docker.network.driver.mtu": "mtu",
    "com.docker.network.bridge.name": "bridge",
    "com.docker.network.bridge.enable_ip_masquerade": "masquerade",
}
_NEAR = (b"\x7f", b"\xfe")  # how addresses begin that mean this host, and this link
_SMALLEST_MTU, _SMALLEST_MTU_IPV6, _LARGEST_MTU = 68, 1280, 65535
_NAMES = {32: "IPv4", 128: "IPv6"}
_OF_LINKS = "at most 15 letters, digits, '-', '_' and '.'"


@value
class Wish:
    """What is asked of a new network, as it was typed: at most one of `subnets`, `gateways` and `ranges` of a family.
    Without `ipv4` it has IPv6 alone.
    """

    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()


def drawn(
    known: list[NetworkRecord], name: str, identity: str, wish: Wish, bridge: Callable[[], str]
) -> NetworkRecord:
    """A new network besides those *known*; *bridge* gives a name for its bridge where none was asked for.

    Raises InvalidInput, Conflict, Unsupported.
    """
    chosen = _asked(name, wish)
    families = {one.bits for one in chosen}
    used = _used(known)
    for one in chosen:
        _check_free(name, one, used)
    if wish.ipv4 and 32 not in families:
        chosen.append(_free(name, _pool(name), [subnet for subnet, _ in used]))
    if wish.ipv6 and 128 not in families:
        chosen.append(_local_ipv6(identity))
    chosen.sort(key=lambda one: one.bits)
    if not chosen:
        raise InvalidInput(
            f"make network {name}: it has neither IPv4 nor IPv6",
            remedy="--ipv4=false takes --ipv6, or a --subnet of IPv6",
        )
    _check_ipv6(name, chosen)
    settings = _settings(name, wish.options, ipv6=any(one.bits == 128 for one in chosen))
    if "parent" in settings:
        raise InvalidInput(f"make network {name}: a bridge has no parent", remedy="-d macvlan has one")
    own = settings.get("bridge", "")
    if own and (others := [one.name for one in known if one.bridge == own]):
        raise Conflict(
            f"make network {name}: the bridge {own} is that of network {others[0]}", remedy="name another"
        )
    return _record(name, identity, wish, chosen, settings, bridge=own or bridge())


def on_wire(known: list[NetworkRecord], name: str, identity: str, wish: Wish) -> NetworkRecord:
    """A new one on the wire of a link of this host. Raises InvalidInput, Conflict, Unsupported."""
    chosen = sorted(_asked(name, wish), key=lambda one: one.bits)
    settings = _settings(name, wish.options, ipv6=any(one.bits == 128 for one in chosen))
    if wish.ipv6 or wish.internal or settings.keys() & {"bridge", "masquerade", "dns"}:
        raise InvalidInput(
            f"make network {name}: macvlan has no --ipv6, --internal, bridge, masquerade and dns",
            remedy="a --subnet of each family, and -o parent=LINK",
        )
    usual = ([32], [32, 128]) if wish.ipv4 else ([128],)
    if not settings.get("parent") or [one.bits for one in chosen] not in usual:
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
    return _record(name, identity, wish, chosen, settings)


def _record(
    name: str,
    identity: str,
    wish: Wish,
    chosen: Sequence[Subnet],
    settings: dict[str, str],
    bridge: str = "",
) -> NetworkRecord:
    return NetworkRecord(
        name=name,
        id=identity,
        created=networks.now(),
        bridge=bridge,
        subnets=tuple(_parts(name, one, wish.gateways, wish.ranges) for one in chosen),
        internal=wish.internal,
        mtu=int(settings.get("mtu", "0")),
        hidden=bool(bridge) and settings.get("masquerade", "true") == "true",
        labels=wish.labels,
        options=wish.options,
        parent=settings.get("parent", ""),
        drawn=bool(bridge) and not (wish.subnets or wish.gateways or wish.ranges),
    )


def _asked(name: str, wish: Wish) -> list[Subnet]:
    """The subnets that were named. Raises InvalidInput where what was said of addresses cannot be had together."""
    chosen = [read_subnet(text) for text in wish.subnets]
    bits = {
        "subnet": [one.bits for one in chosen],
        "gateway": [len(packed(text, "gateway")) * 8 for text in wish.gateways],
        "range": [read_subnet(text, "range").bits for text in wish.ranges],
    }
    lacking = {32} if not wish.ipv4 else set()
    if not wish.ipv6 and 128 not in bits["subnet"]:
        lacking.add(128)
    for what, families in bits.items():
        if len(set(families)) < len(families):
            raise InvalidInput(
                f"make network {name}: two {what}s of one family", remedy="one of IPv4, one of IPv6"
            )
        if unfit := lacking & set(families):
            family = _NAMES[min(unfit)]
            raise InvalidInput(
                f"make network {name}: a {what} of {family}, which it does not have",
                remedy=f"leave --{family.lower()}=false out" if min(unfit) == 32 else "--ipv6 has it as well",
            )
    return chosen


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
    usual = subnet.packed(subnet.first + 1)
    every = (packed(text, "gateway") for text in gateways)
    own = [address for address in every if len(address) == len(subnet.base)]
    for address in own:
        if not subnet.has(address):
            raise InvalidInput(
                f"make network {name}: gateway {text_of(address)} is not in {subnet}",
                remedy=f"an address of that subnet, or none for {text_of(usual)}",
            )
    gateway = own[0] if own else usual
    if gateway in (subnet.base, subnet.packed(subnet.last)):
        raise InvalidInput(
            f"make network {name}: gateway {text_of(gateway)} means all of {subnet}",
            remedy=f"another address of that subnet, or none for {text_of(usual)}",
        )
    parts = [part for part in (read_subnet(text, "range") for text in ranges) if part.bits == subnet.bits]
    for part in parts:
        if not part.within(subnet):
            raise InvalidInput(
                f"make network {name}: range {part} is not in {subnet}",
                remedy="a part of that subnet, or no --ip-range for all of it",
            )
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
    if not (mtu.isascii() and mtu.isdigit() and len(mtu) < 10) or (
        mtu != "0" and not least <= int(mtu) <= _LARGEST_MTU
    ):
        raise InvalidInput(
            f"make network {name}: mtu {mtu[:100]}: not a number from {least} to {_LARGEST_MTU}",
            remedy="-o mtu=1500, say, or none for the kernel's own",
        )
    for key in BOOLEANS:
        if found.get(key, "true") not in ("true", "false"):
            raise InvalidInput(
                f"make network {name}: {key} {found[key]}: neither true nor false",
                remedy=f"-o {key}=true or -o {key}=false",
            )
    bridge = found.get("bridge", "x")
    if not 0 < len(bridge) < 16 or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in bridge):
        raise InvalidInput(
            f"make network {name}: bridge {bridge[:100]!r}: not a name for a link",
            remedy=f"{_OF_LINKS}; or none, and it is called after the network",
        )
    if not 0 < len(found.get("parent", "x")) < 16:
        raise InvalidInput(
            f"make network {name}: parent {found['parent'][:100]!r}: not a name for a link",
            remedy="the name of a link of this host, as 'ip link' lists it, such as -o parent=eth0",
        )
    if bridge in (".", "..") or bridge.startswith((PORTS_OF_SYSTEM, PORTS_OF_OTHERS)):
        raise InvalidInput(
            f"make network {name}: bridge {bridge!r}: it would be taken for something else",
            remedy=f"a name that does not begin with {PORTS_OF_SYSTEM} or {PORTS_OF_OTHERS}, such as br-{name[:12]}",
        )
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
    """*record* with a first one that is free. Raises Conflict where none is."""
    used = [subnet for subnet, _ in _used(one for one in networks.every(store) if one.name != record.name)]
    if read_subnet(record.subnets[0][0]).bits == 128:
        first = _local_ipv6(new_id())
    else:
        first = _free(record.name, _pool(record.name), used)
    return replace(record, subnets=(_parts(record.name, first, (), ()), *record.subnets[1:]))


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
