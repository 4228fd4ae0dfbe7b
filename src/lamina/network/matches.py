"""What the rules of our networks look at, and what they say: expressions that `rules` and `egress` are made of."""

from __future__ import annotations

from lamina.linux.nftables import (
    IPV4,
    IPV6,
    NF_ACCEPT,
    NF_DROP,
    REG_1,
    compare,
    counter,
    meta,
    payload,
    verdict,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.nftables import Expression

INET, BRIDGE = "inet", "bridge"  # the families of the two tables
ACCEPT, DROP = verdict(NF_ACCEPT), counter() + verdict(NF_DROP)
IS_IPV4, IS_IPV6 = (meta("nfproto") + compare(bytes([family])) for family in (IPV4, IPV6))
# where the addresses are: offset and length in a header of IPv4 (RFC 791), of IPv6 (RFC 8200)
FROM_4, TO_4, FROM_6, TO_6 = (12, 4), (16, 4), (8, 16), (24, 16)
# of a frame: its EtherType, and those that there are for us (RFC 826, RFC 894, RFC 2464)
ETHER_IPV6 = b"\x86\xdd"
IS_ETHER_IPV4, IS_ETHER_ARP, IS_ETHER_IPV6 = (
    payload("link", 12, 2) + compare(kind) for kind in (b"\x08\x00", b"\x08\x06", ETHER_IPV6)
)
# the first byte of a header of ICMPv6 is its type (RFC 4443)
IS_ICMPV6, ICMPV6_TYPE = meta("l4proto") + compare(b"\x3a"), payload("transport", 0, 1)


def network_field(field: tuple[int, int], register: int = REG_1) -> Expression:
    """Read *field* (offset and length, in bytes) of a packet's header of IPv4 or IPv6."""
    return payload("network", *field, register)
