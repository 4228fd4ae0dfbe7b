"""The rules of our networks: two tables of nf_tables, in the words of nft(8).

`table inet NAME` lets containers out (masquerade), in by published ports (maps: an element a port) and nowhere else.
`table bridge NAME` lets a container speak only as itself: with its own MAC and its own addresses. What a network or a
container adds are elements of sets, so no rule is ever changed, and in which order they come and go is all the same.
What a container may reach, if not everything, is `egress`'s.

NAME is `lamina`, and of another store than this machine's another one. Nobody else's tables are touched, read, or
needed: what we accept others may still drop, since a packet passes all tables.
"""

from __future__ import annotations

from lamina.linux.nftables import (
    CT_DNAT,
    CT_ESTABLISHED,
    CT_RELATED,
    IPV4,
    IPV6,
    MOST_ELEMENTS,
    NFT_JUMP,
    REG32_00,
    REG_1,
    REG_2,
    Element,
    add_chain,
    add_elements,
    add_rule,
    add_set,
    add_table,
    address_type,
    any_bit,
    compare,
    concat,
    ct,
    delete_elements,
    dnat,
    ifname,
    in_set,
    map_to,
    masquerade,
    meta,
    over_rate_in,
    payload,
    verdict,
)
from lamina.network import egress
from lamina.network.matches import (
    ACCEPT,
    BRIDGE,
    DROP,
    ETHER_IPV6,
    FROM_4,
    FROM_6,
    ICMPV6_TYPE,
    INET,
    IS_ETHER_ARP,
    IS_ETHER_IPV4,
    IS_ETHER_IPV6,
    IS_ICMPV6,
    IS_IPV4,
    IS_IPV6,
    TO_4,
    TO_6,
    network_field,
)
from lamina.network.model import PROTOCOLS, link_local, ports_begin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.linux.nftables import Expression, Message
    from lamina.network.model import Attachment, Network, Published

    Wanted = Iterable[tuple[str, str, list[Element]]]

MOST_QUESTIONS, MOST_QUESTIONS_AT_ONCE = 2000, 200  # datagrams of one container a second; the first ones
_MOST_ASKING, _ASKING_SECONDS = 65535, 60
_ROUTER_ADVERTISEMENT, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT, _REDIRECT = 134, 135, 136, 137
_LISTENER_REPORTS = (131, 143)  # of multicast, MLDv1 and MLDv2
_FROM_BRIDGE = meta("iifname") + in_set("bridges")
_TO_BRIDGE = meta("oifname") + in_set("bridges")
_ELSEWHERE = meta("oifname") + in_set("bridges", absent=True)
_PUBLISHED = ct("status") + any_bit(CT_DNAT)

# name: (fields of a key, fields of what a map gives)
_INET_SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bridges": (("ifname",), ()),
    "internal": (("ifname",), ()),
    "within": (("ifname", "ifname"), ()),
    "naming": (("ifname", "ipv4_addr"), ()),
    "naming6": (("ifname", "ipv6_addr"), ()),
    "inside4": (("ipv4_addr",), ()),
    "inside6": (("ipv6_addr",), ()),
    "ports4": (("inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
    "ports4_at": (("ipv4_addr", "inet_proto", "inet_service"), ("ipv4_addr", "inet_service")),
    "ports6": (("inet_proto", "inet_service"), ("ipv6_addr", "inet_service")),
    "ports6_at": (("ipv6_addr", "inet_proto", "inet_service"), ("ipv6_addr", "inet_service")),
}
BRIDGE_SETS: dict[str, tuple[str, ...]] = {
    "macs": ("ifname", "ether_addr"),
    "addresses4": ("ifname", "ipv4_addr"),
    "addresses6": ("ifname", "ipv6_addr"),
}
_INTERVALS = ("inside4", "inside6")
NETWORK_SETS = ("bridges", "internal", "within", "naming", "naming6", *_INTERVALS)
PORT_MAPS = tuple(name for name, (_, data) in _INET_SETS.items() if data)


def tables(name: str) -> list[Message]:
    """Both tables, without a network. For a transaction before which there are none of that name."""
    return [*_inet(name), *_bridge(name)]


def _inet(name: str) -> list[Message]:
    table = [add_table(INET, name)]
    for number, (known, (key, data)) in enumerate(_INET_SETS.items(), 1):
        table.append(add_set(INET, name, known, number, key, data=data, interval=known in _INTERVALS))
    table += [
        add_set(INET, name, known, number, (kind,), timeout=True, dynamic=True, size=_MOST_ASKING)
        for known, number, kind in (("asking4", 31, "ipv4_addr"), ("asking6", 32, "ipv6_addr"))
    ]
    chains = {
        "first": ("prerouting", -300, "filter"),
        "ports": ("", 0, ""),
        "arriving": ("prerouting", -100, "nat"),
        "own": ("output", -100, "nat"),
        "leaving": ("postrouting", 100, "nat"),
        "questions": ("input", 0, "filter"),
        "forward": ("forward", 0, "filter"),
    }
    for chain, (hook, priority, kind) in chains.items():
        table.append(add_chain(INET, name, chain, hook=hook, priority=priority, kind=kind))
    table += [*egress.sets(INET, name, 201), *egress.chains(INET, name)]
    for chain, rules in _INET_RULES.items():
        table += [add_rule(INET, name, chain, rule) for rule in rules]
    return table


_LOOPBACK = compare(b"\x7f")
_TO_PUBLISHED = verdict(NFT_JUMP, "ports")
_INET_RULES: dict[str, tuple[Expression, ...]] = {
    # a bridge with published ports has route_localnet (see `forwarding`): what comes in by it for 127.0.0.0/8, or
    # claims to come from there, is an attack on services that listen on the loopback alone
    "first": (
        _FROM_BRIDGE + IS_IPV4 + network_field((16, 1)) + _LOOPBACK + DROP,
        _FROM_BRIDGE + IS_IPV4 + network_field((12, 1)) + _LOOPBACK + DROP,
    ),
    # dnat ip to ip daddr . meta l4proto . th dport map @ports4_at; those of an address before those of every one
    "ports": (
        IS_IPV4
        + network_field(TO_4)
        + meta("l4proto", REG32_00 + 1)
        + payload("transport", 2, 2, REG32_00 + 2)
        + map_to("ports4_at")
        + dnat(IPV4, REG_1, REG32_00 + 1),
        meta("l4proto")
        + payload("transport", 2, 2, REG32_00 + 1)
        + map_to("ports4")
        + dnat(IPV4, REG_1, REG32_00 + 1),
        IS_IPV6
        + network_field(TO_6)
        + meta("l4proto", REG_2)
        + payload("transport", 2, 2, REG32_00 + 5)
        + map_to("ports6_at")
        + dnat(IPV6, REG_1, REG_2),
        meta("l4proto")
        + payload("transport", 2, 2, REG32_00 + 1)
        + map_to("ports6")
        + dnat(IPV6, REG_1, REG_2),
    ),
    # what comes by a wire for 127.0.0.0/8 is no host's: left as it is, the kernel drops it when it looks for the route;
    # translated before that, a port that is published to the loopback would be open to all neighbours of this host. The
    # host's own packets have been through "own"
    "arriving": (
        # who asks for a name asks who answers on his bridge, whoever publishes that port of every address
        *(
            family
            + meta("l4proto")
            + in_set("ported")
            + meta("iifname")
            + network_field(target, REG_2)
            + in_set(known)
            + payload("transport", 2, 2)
            + compare(egress.DNS.to_bytes(2, "big"))
            + ACCEPT
            for family, target, known in ((IS_IPV4, TO_4, "naming"), (IS_IPV6, TO_6, "naming6"))
        ),
        IS_IPV4 + network_field((16, 1)) + _LOOPBACK + ACCEPT,
        address_type() + compare(egress.LOCAL) + _TO_PUBLISHED,
    ),
    # not by ::1, from which the kernel lets nothing out: then a client is refused at once, and tries 127.0.0.1
    "own": (
        IS_IPV6 + network_field(TO_6) + compare((1).to_bytes(16, "big")) + ACCEPT,
        address_type() + compare(egress.LOCAL) + _TO_PUBLISHED,
    ),
    # out to the world; and back in by a published port, also one's own neighbour's, which else would answer directly
    "leaving": (
        _ELSEWHERE + IS_IPV4 + network_field(FROM_4) + in_set("inside4") + masquerade(),
        _ELSEWHERE + IS_IPV6 + network_field(FROM_6) + in_set("inside6") + masquerade(),
        _TO_BRIDGE + _PUBLISHED + IS_IPV4 + network_field(FROM_4) + in_set("inside4") + masquerade(),
        _TO_BRIDGE + _PUBLISHED + IS_IPV6 + network_field(FROM_6) + in_set("inside6") + masquerade(),
        _TO_BRIDGE + _PUBLISHED + IS_IPV4 + network_field((12, 1)) + _LOOPBACK + masquerade(),
    ),
    # all containers of a network ask one socket: who floods it must not fill its queue, or others are not heard
    "questions": tuple(
        family
        + meta("l4proto")
        + compare(bytes([PROTOCOLS["udp"]]))
        + meta("iifname")
        + network_field(target, REG_2)
        + in_set(known)
        + payload("transport", 2, 2)
        + compare(egress.DNS.to_bytes(2, "big"))
        + network_field(source)
        + over_rate_in(asking, _ASKING_SECONDS, MOST_QUESTIONS, MOST_QUESTIONS_AT_ONCE)
        + DROP
        for family, source, target, known, asking in (
            (IS_IPV4, FROM_4, TO_4, "naming", "asking4"),
            (IS_IPV6, FROM_6, TO_6, "naming6", "asking6"),
        )
    ),
    # within a network (where br_netfilter shows us that); answers; published ports; nothing else into a network
    "forward": (
        *egress.discovery_within(),
        *egress.jumps(),
        meta("iifname") + meta("oifname", REG_2) + in_set("within") + ACCEPT,
        meta("iifname") + in_set("internal") + DROP,
        meta("oifname") + in_set("internal") + DROP,
        _TO_BRIDGE + ct("state") + any_bit(CT_ESTABLISHED | CT_RELATED) + ACCEPT,
        _TO_BRIDGE + _PUBLISHED + ACCEPT,
        _TO_BRIDGE + DROP,
    ),
}


def _bridge(name: str) -> list[Message]:
    table = [add_table(BRIDGE, name)]
    for number, (known, key) in enumerate(BRIDGE_SETS.items(), 101):
        table.append(add_set(BRIDGE, name, known, number, key))
    table.append(add_chain(BRIDGE, name, "ports", hook="prerouting", priority=-300))
    table += [add_chain(BRIDGE, name, chain) for chain in ("from_a_container", "ipv6_from_a_container")]
    # all of them, also one that is in no set (any more); those of another store are in tables of its own
    ours = meta("iifname") + compare(ports_begin(name).encode())
    table.append(add_rule(BRIDGE, name, "ports", ours + verdict(NFT_JUMP, "from_a_container")))
    for chain, rules in _BRIDGE_RULES.items():
        table += [add_rule(BRIDGE, name, chain, rule) for rule in rules]
    return [*table, *egress.sets(BRIDGE, name, 301), *egress.chains(BRIDGE, name)]


def _own(field: Expression, known: str, *, absent: bool = False) -> Expression:
    """The port, and what of the packet must be that port's own: in the set, or absent from it."""
    return meta("iifname") + field + in_set(known, absent=absent)


_OF_ICMPV6 = IS_ETHER_IPV6 + IS_ICMPV6
_FROM_NOWHERE = _OF_ICMPV6 + network_field(FROM_6) + compare(bytes(16))
_BRIDGE_RULES: dict[str, tuple[Expression, ...]] = {
    "from_a_container": (
        _own(payload("link", 6, 6, REG_2), "macs", absent=True) + DROP,
        IS_ETHER_IPV4 + _own(network_field(FROM_4, REG_2), "addresses4") + ACCEPT,
        # who says in an ARP packet that he has an address: it must be his, and so must be the MAC
        IS_ETHER_ARP
        + _own(network_field((8, 6), REG_2), "macs")
        + _own(network_field((14, 4), REG_2), "addresses4")
        + ACCEPT,
        IS_ETHER_IPV6 + verdict(NFT_JUMP, "ipv6_from_a_container"),
        DROP,
    ),
    "ipv6_from_a_container": (
        # neither hosts nor neighbours take routers and routes from a container
        _OF_ICMPV6 + ICMPV6_TYPE + compare(bytes([_ROUTER_ADVERTISEMENT])) + DROP,
        _OF_ICMPV6 + ICMPV6_TYPE + compare(bytes([_REDIRECT])) + DROP,
        # whose address it says that is must be seen, and his: a first fragment may end before that, and conntrack puts
        # it together again so well that the kernel does not know it for one, which it would drop (RFC 6980)
        _OF_ICMPV6
        + ICMPV6_TYPE
        + compare(bytes([_NEIGHBOUR_ADVERTISEMENT]))
        + _own(payload("transport", 8, 16, REG_2), "addresses6")
        + _own(network_field(FROM_6, REG_2), "addresses6")
        + ACCEPT,
        _OF_ICMPV6 + ICMPV6_TYPE + compare(bytes([_NEIGHBOUR_ADVERTISEMENT])) + DROP,
        meta("protocol") + compare(ETHER_IPV6) + _own(network_field(FROM_6, REG_2), "addresses6") + ACCEPT,
        # before it has an address: whether somebody else has its own one, which for another's would keep that one from
        # it (RFC 4862, 5.4.3); and the multicast groups that takes
        _FROM_NOWHERE
        + ICMPV6_TYPE
        + compare(bytes([_NEIGHBOUR_SOLICITATION]))
        + _own(payload("transport", 8, 16, REG_2), "addresses6")
        + ACCEPT,
        *(_FROM_NOWHERE + ICMPV6_TYPE + compare(bytes([kind])) + ACCEPT for kind in _LISTENER_REPORTS),
        DROP,
    ),
}


# -- what a network adds


def of_network(network: Network) -> list[tuple[str, str, list[Element]]]:
    """(family, set, elements) of a network."""
    if network.parent:
        return []
    bridge, note = ifname(network.bridge), network.name
    found = [
        (INET, "bridges", [Element(bridge, comment=note)]),
        (INET, "within", [Element(concat(bridge, bridge), comment=note)]),
    ]
    if network.names:
        gateway = network.gateways[0]
        known = "naming" if len(gateway) == 4 else "naming6"
        found.append((INET, known, [Element(concat(bridge, gateway), comment=note)]))
    if network.internal:
        found.append((INET, "internal", [Element(bridge, comment=note)]))
    elif network.hidden:
        for subnet in network.subnets:
            known = "inside4" if subnet.bits == 32 else "inside6"
            found.append((INET, known, [Element(subnet.base, end=subnet.end, comment=note)]))
    return found


# -- what a container adds


def of_attachment(attachment: Attachment) -> list[tuple[str, str, list[Element]]]:
    """(family, set, elements) of a container's place in a network."""
    if attachment.network.parent:
        return []
    port, note = ifname(attachment.port), attachment.note
    v4 = [address for address in attachment.addresses if len(address) == 4]
    v6 = [address for address in attachment.addresses if len(address) == 16]
    found = [(BRIDGE, "macs", [Element(concat(port, attachment.mac), comment=note)])]
    if v4:
        found.append((BRIDGE, "addresses4", [Element(concat(port, one), comment=note) for one in v4]))
    if v6:
        local = [*v6, link_local(attachment.mac)]
        found.append((BRIDGE, "addresses6", [Element(concat(port, one), comment=note) for one in local]))
    for published in attachment.published:
        found += _of_port(published, v4, v6, note)
    return [*found, *egress.of_attachment(attachment)]


def _of_port(
    published: Published, v4: list[bytes], v6: list[bytes], note: str
) -> list[tuple[str, str, list[Element]]]:
    protocol, port = bytes([PROTOCOLS[published.protocol]]), published.host_port.to_bytes(2, "big")
    found = []
    for known, length, addresses in (("ports4", 4, v4), ("ports6", 16, v6)):
        if not addresses or len(published.host) not in (0, length):
            continue
        to = concat(addresses[0], published.port.to_bytes(2, "big"))
        if any(published.host):
            element = Element(concat(published.host, protocol, port), data=to, comment=note)
            found.append((INET, f"{known}_at", [element]))
        else:
            found.append((INET, known, [Element(concat(protocol, port), data=to, comment=note)]))
    return found


def additions(name: str, wanted: Wanted) -> list[Message]:
    """The messages that add these elements to the tables *name*."""
    return [add_elements(family, name, known, elements) for family, known, elements in _portions(wanted)]


def removals(name: str, wanted: Wanted) -> list[Message]:
    """The messages that take these elements out of the tables *name*."""
    return [delete_elements(family, name, known, elements) for family, known, elements in _portions(wanted)]


def _portions(wanted: Wanted) -> Wanted:
    """The same, no more elements of a set at a time than one message takes."""
    return (
        (family, known, elements[at : at + MOST_ELEMENTS])
        for family, known, elements in wanted
        for at in range(0, len(elements), MOST_ELEMENTS)
    )
