"""What containers may reach that are not to reach everything: sets and chains of the tables (`rules`), and elements.

A container with such a policy is in `limited`. Of what it sends, answers pass (as connection tracking has it), what is
for an address that it may reach (`open`), and what is for one that a name meant which it may reach (`told`, for as long
as the name server said); all else is dropped, and counted by where it was to go (`dropped`). This holds for what is
routed and for this host (inet), and for neighbours behind the same bridge (bridge), where there is no connection
tracking: there TCP that opens no connection counts as an answer.
"""

from __future__ import annotations

from sys import byteorder

from lamina.linux.nftables import (
    CT_ESTABLISHED,
    CT_RELATED,
    NF_DROP,
    NFT_JUMP,
    NFT_RETURN,
    REG32_00,
    REG_2,
    Element,
    add_chain,
    add_elements,
    add_rule,
    add_set,
    address_type,
    any_bit,
    compare,
    concat,
    constant,
    count_in,
    ct,
    ifname,
    in_set,
    masked,
    meta,
    payload,
    verdict,
)
from lamina.network.matches import (
    ACCEPT,
    BRIDGE,
    DROP,
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
from lamina.network.model import PROTOCOLS, link_local
from lamina.network.subnet import Subnet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.linux.nftables import Expression, Message
    from lamina.network.model import Allowed, Attachment

LOCAL = (2).to_bytes(4, byteorder)  # RTN_LOCAL
DNS = 53
MOST_TOLD, MOST_DROPPED = 65535, 4096  # elements of a set, of all containers together
KEPT = 3600  # seconds that a count is kept which nobody reads
_RETURN = verdict(NFT_RETURN)
_TCP, _SOLICITATION, _ADVERTISEMENT = 6, 135, 136
_MEMBERSHIPS = (131, 132, 143)  # a report of MLD, that one has left a group, a report of MLDv2
_LINK_WIDE = b"\xff\x02"  # how groups of this link begin
_OPENING, _SYN = b"\x12", b"\x02"  # of the flags of TCP: SYN and ACK; SYN alone
_FAMILIES = {4: "ipv4_addr", 6: "ipv6_addr"}  # the type of an address
_HEADERS = {4: (FROM_4, TO_4, IS_IPV4, IS_ETHER_IPV4), 6: (FROM_6, TO_6, IS_IPV6, IS_ETHER_IPV6)}


def _sets(family: str) -> dict[str, tuple[tuple[str, ...], dict[str, bool | int]]]:
    """{name: (key, how)}"""
    found: dict[str, tuple[tuple[str, ...], dict[str, bool | int]]] = {"ported": (("inet_proto",), {})}
    if family == BRIDGE:
        found["limited"] = (("ifname",), {})
    for version, kind in _FAMILIES.items():
        if family == INET:
            found[f"limited{version}"] = ((kind,), {})
        for at, more in (("", ()), ("_at", ("inet_service",))):
            key = (kind, kind, *more)
            found[f"open{version}{at}"] = (key, {"interval": True})
            found[f"told{version}{at}"] = (key, {"timeout": True, "size": MOST_TOLD})
        key = (kind, kind, "inet_proto", "inet_service")
        found[f"dropped{version}"] = (key, {"timeout": True, "dynamic": True, "size": MOST_DROPPED})
    return found


# of a container: (family of the table, set)
SETS = tuple(
    (family, name)
    for family in (INET, BRIDGE)
    for name in _sets(family)
    if name.startswith(("limited", "open", "told"))
)
TOLD = tuple(one for one in SETS if one[1].startswith("told"))
DROPPED = tuple((family, f"dropped{version}") for family in (INET, BRIDGE) for version in _FAMILIES)


def sets(family: str, table: str, first: int) -> list[Message]:
    """The sets, numbered from *first* on."""
    found = [
        add_set(family, table, name, number, key, **how)  # type: ignore[arg-type]
        for number, (name, (key, how)) in enumerate(_sets(family).items(), first)
    ]
    ported = [Element(bytes([number])) for number in sorted(PROTOCOLS.values())]
    return [*found, add_elements(family, table, "ported", ported)]


def chains(family: str, table: str) -> list[Message]:
    """The chains with their rules: `egress4` and `egress6`, to which who is limited is sent."""
    passed = _RETURN if family == INET else ACCEPT
    found = [add_chain(family, table, f"egress{version}") for version in _FAMILIES]
    for version in _FAMILIES:
        found += [
            add_rule(family, table, f"egress{version}", rule)
            for rule in _of_family(version, passed, family == INET)
        ]
    if family == INET:
        found.append(add_chain(family, table, "input", hook="input"))
        found += [add_rule(family, table, "input", rule) for rule in (*_discovery_of_host(), *jumps())]
        return found
    found += [add_chain(family, table, "neighbours", hook="forward"), add_chain(family, table, "egress")]
    limited = meta("iifname") + in_set("limited")
    found.append(add_rule(family, table, "neighbours", limited + verdict(NFT_JUMP, "egress")))
    found += [add_rule(family, table, "egress", rule) for rule in _AMONG_NEIGHBOURS]
    return found


def jumps() -> tuple[Expression, ...]:
    """The rules that send who is limited to the chains; they come back with what it may."""
    return (
        IS_IPV4 + network_field(FROM_4) + in_set("limited4") + verdict(NFT_JUMP, "egress4"),
        IS_IPV6 + network_field(FROM_6) + in_set("limited6") + verdict(NFT_JUMP, "egress6"),
    )


def _discovery_of_host() -> tuple[Expression, ...]:
    """How this host and the container find each other's link. Not when it is routed: that would be a way out."""
    theirs = IS_IPV6 + network_field(FROM_6) + in_set("limited6") + IS_ICMPV6 + ICMPV6_TYPE
    return (
        theirs + compare(bytes([_SOLICITATION])) + ACCEPT,
        theirs + compare(bytes([_ADVERTISEMENT])) + ACCEPT,
    )


def discovery_within() -> tuple[Expression, ...]:
    """The same of neighbours, where br_netfilter shows us what passes a bridge (of IPv4 that is ARP, which it does not
    show); for the forward chain.
    """
    own = meta("iifname") + meta("oifname", REG_2) + in_set("within")
    return tuple(own + rule for rule in _discovery_of_host())


_DISCOVERY = IS_ETHER_IPV6 + IS_ICMPV6 + ICMPV6_TYPE
_AMONG_NEIGHBOURS: tuple[Expression, ...] = (
    IS_ETHER_ARP + ACCEPT,
    _DISCOVERY + compare(bytes([_SOLICITATION])) + ACCEPT,
    _DISCOVERY + compare(bytes([_ADVERTISEMENT])) + ACCEPT,
    IS_ETHER_IPV4 + verdict(NFT_JUMP, "egress4"),
    IS_ETHER_IPV6 + verdict(NFT_JUMP, "egress6"),
    DROP,
)


def _of_family(version: int, passed: Expression, tracked: bool) -> list[Expression]:
    """Each says anew of what family it is, so that nft(8) shows addresses and not numbers of bits."""
    source, target, routed, bridged = _HEADERS[version]
    words = source[1] // 4
    family = routed if tracked else bridged
    both = family + network_field(source) + network_field(target, REG32_00 + words)
    ported = meta("l4proto") + in_set("ported")
    port = payload("transport", 2, 2, REG32_00 + 2 * words)
    protocol = meta("l4proto", REG32_00 + 2 * words)
    counted = count_in(f"dropped{version}", KEPT) + DROP
    if tracked:
        answers = ct("state") + any_bit(CT_ESTABLISHED | CT_RELATED) + passed
        # who owns a name may say that it is this host, by any of its addresses, or a container of another network,
        # which is behind a published port; within a network (where br_netfilter shows us that) it may be a neighbour
        outside = meta("oifname") + in_set("bridges", absent=True)
        elsewhere = address_type() + compare(LOCAL, differs=True) + outside
        ways: tuple[Expression, ...] = (
            elsewhere,
            meta("iifname") + meta("oifname", REG_2) + in_set("within"),
        )
    else:
        flags = payload("transport", 13, 1) + masked(_OPENING) + compare(_SYN, differs=True)
        answers = meta("l4proto") + compare(bytes([_TCP])) + flags + passed
        ways = (b"",)  # this host is no neighbour
    return [
        answers,
        both + in_set(f"open{version}") + passed,
        *(way + both + in_set(f"told{version}") + passed for way in ways),
        ported + both + port + in_set(f"open{version}_at") + passed,
        *(way + ported + both + port + in_set(f"told{version}_at") + passed for way in ways),
        *(_memberships(family) if version == 6 else ()),
        ported + both + protocol + payload("transport", 2, 2, REG32_00 + 2 * words + 1) + counted,
        both + protocol + constant(bytes(2), REG32_00 + 2 * words + 1) + counted,
        DROP,
    ]


def _memberships(family: Expression) -> list[Expression]:
    """What the container's kernel says by itself of the multicast groups that it is in (RFC 2710, RFC 3810), to this
    link: dropped as the rest is, but nobody has tried anything, so it is not counted.
    """
    to_link = family + network_field((24, 2)) + compare(_LINK_WIDE) + IS_ICMPV6 + ICMPV6_TYPE
    return [to_link + compare(bytes([kind])) + verdict(NF_DROP) for kind in _MEMBERSHIPS]


# -- elements


def of_attachment(attachment: Attachment) -> list[tuple[str, str, list[Element]]]:
    """(family, set, elements) of the policy of a container's place in a network."""
    if attachment.egress is None:
        return []
    note = attachment.note
    found = [(BRIDGE, "limited", [Element(ifname(attachment.port), comment=note)])]
    for version, own in sources_of(attachment).items():
        if not own:
            continue
        found.append((INET, f"limited{version}", [Element(one, comment=note) for one in own]))
        opened = _opened(attachment, version)
        for at in ("", "_at"):
            elements = [
                Element(
                    _key(one, subnet.base, port),
                    last=_key(one, subnet.packed(subnet.last), port),
                    comment=note,
                )
                for one in own
                for subnet, port in opened
                if bool(port) == bool(at)
            ]
            if elements:
                found += [(family, f"open{version}{at}", elements) for family in (INET, BRIDGE)]
    return found


def sources_of(attachment: Attachment) -> dict[int, list[bytes]]:
    """The addresses under which it sends, by family."""
    four = [one for one in attachment.addresses if len(one) == 4]
    six = [one for one in attachment.addresses if len(one) == 16]
    return {4: four, 6: [*six, link_local(attachment.mac)] if six else []}


def _key(source: bytes, target: bytes, port: int) -> bytes:
    return concat(source, target, port.to_bytes(2, "big")) if port else concat(source, target)


def _opened(attachment: Attachment, version: int) -> list[tuple[Subnet, int]]:
    """(subnet, port or 0) that are open from the start; none within another one, which the kernel does not take."""
    bits = 32 if version == 4 else 128
    known = {(one.subnet, one.port) for one in attachment.egress or () if one.subnet is not None}
    if attachment.network.names:  # who answers for names, which sees to it that no other ones are asked for
        gateway = attachment.network.gateways[0]
        known.add((Subnet(gateway, len(gateway) * 8), DNS))
    own = [(subnet, port) for subnet, port in known if subnet.bits == bits]
    return sorted(
        (
            (subnet, port)
            for subnet, port in own
            if not any(port == at and subnet != other and subnet.within(other) for other, at in own)
        ),
        key=lambda one: (one[0].base, one[0].prefix, one[1]),
    )


def told(
    attachments: Iterable[Attachment], ports: Iterable[int], addresses: Iterable[tuple[int, bytes]]
) -> list[tuple[str, str, Element]]:
    """(family, set, element) that let a container reach *addresses*, each for some seconds, at *ports* (0: at any)."""
    found = []
    for attachment in attachments:
        own = sources_of(attachment)
        for seconds, address in addresses:
            version = 4 if len(address) == 4 else 6
            for source in own[version]:
                for port in ports:
                    element = Element(_key(source, address, port), seconds=seconds, comment=attachment.note)
                    name = f"told{version}_at" if port else f"told{version}"
                    found += [(family, name, element) for family in (INET, BRIDGE)]
    return found


def where(element: Element) -> tuple[bytes, bytes, int, int]:
    """(source, target, protocol, port) of an element of DROPPED."""
    length = 4 if len(element.key) == 16 else 16
    target, rest = element.key[length : 2 * length], element.key[2 * length :]
    return element.key[:length], target, rest[0], int.from_bytes(rest[4:6], "big")


def allows(allowed: Allowed, name: str) -> bool:
    """Whether it means the name: its own, or, of *.example.org, any below it."""
    if allowed.name.startswith("*."):
        return name.endswith(allowed.name[1:])
    return bool(name) and allowed.name == name
