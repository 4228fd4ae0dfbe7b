"""Route netlink: links, addresses, routes and neighbours. rtnetlink(7); include/uapi/linux/{if_link,rtnetlink}.h.

Functions named as ip(8)'s words give the bodies of messages, to be sent with `netlink.requests`; those that end in `s`
read what there is. Addresses are packed: 4 bytes or 16. Numbers of links are those of the namespace of the socket.
"""

from __future__ import annotations

import struct
from sys import byteorder

from lamina.linux.netlink import (
    ADDRESS,
    IFF_UP,
    IFLA_IFNAME,
    LINK,
    NLM_F_DUMP,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    attribute,
    attributes,
    nested,
    request,
    string,
)
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RTM_DELLINK, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 17, 21, 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
IFLA_ADDRESS, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID = 1, 4, 10, 18, 19
IFLA_LINK, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_LINK_NETNSID = 5, 20, 26, 28, 37
RTM_GETNSID, RTM_NEWNSID, NETNSA_NSID, NETNSA_FD, NETNSA_NSID_NOT_ASSIGNED = 90, 88, 1, 3, -1
IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE = 1, 4
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING = 4, 8
IFLA_BR_FORWARD_DELAY, IFLA_BR_STP_STATE = 1, 5
IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE = 8, 1
VETH_INFO_PEER = 1
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_TABLE = 1, 4, 5, 6, 15
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
NDA_DST, NDA_LLADDR, NUD_STALE, NUD_NOARP, NUD_PERMANENT = 1, 2, 0x04, 0x40, 0x80
NTF_MASTER = 0x04
AF_INET, AF_BRIDGE, AF_INET6 = 2, 7, 10

ROUTE = struct.Struct(
    "=BBBBBBBBI"
)  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, ifindex, state, flags, type
_U32 = struct.Struct("=I")


@value
class Link:
    """A network device: `kind` as `ip link` says it ("" for a physical one), `alias` what somebody noted at it;
    `master` is the number of its bridge, 0 without one; `flags` are IFF_*; `other_namespace` is the number that this
    namespace has for the one where its other end is (`namespace_number`), NETNSA_NSID_NOT_ASSIGNED where that is here.
    """

    index: int
    name: str
    kind: str = ""
    flags: int = 0
    mtu: int = 0
    master: int = 0
    address: bytes = b""
    alias: str = ""
    other_namespace: int = NETNSA_NSID_NOT_ASSIGNED


@value
class Address:
    """An address of the link `index`: packed, with the length of its prefix."""

    index: int
    packed: bytes
    prefix: int


@value
class Route:
    """A route of the main table: `packed` is b"" for the default; `gateway` b"" where it is on the link."""

    packed: bytes
    prefix: int
    index: int
    gateway: bytes = b""


@value
class Neighbour:
    """An entry of the neighbour table: the packed address and the link-layer one; `state` is NUD_*."""

    index: int
    packed: bytes
    address: bytes
    state: int


def u32(kind: int, number: int) -> bytes:
    """An attribute with a number."""
    return attribute(kind, _U32.pack(number))


def _family(packed: bytes) -> int:
    return AF_INET if len(packed) == 4 else AF_INET6


# -- links: for RTM_NEWLINK


def link(
    index: int = 0,
    *,
    name: str = "",
    up: bool | None = None,
    mtu: int = 0,
    address: bytes = b"",
    master: int = 0,
    alias: str = "",
    namespace_pid: int = 0,
    namespace_fd: int = -1,
    without_ipv6_address: bool = False,
    more: bytes = b"",
) -> bytes:
    """A link and what is to be so of it; *index* 0 is one that is named, or is to be made. *master* is the number of a
    bridge. It is placed in the namespace of a process or a descriptor. *without_ipv6_address*: the kernel gives it no
    link-local one. Of a new link the kernel takes neither that nor an alias (EAFNOSUPPORT; ignored).
    """
    flags = 0 if up is None else IFF_UP if up else 0
    parts = [LINK.pack(0, 0, index, flags, 0 if up is None else IFF_UP)]
    if name:
        parts.append(string(IFLA_IFNAME, name))
    if mtu:
        parts.append(u32(IFLA_MTU, mtu))
    if address:
        parts.append(attribute(IFLA_ADDRESS, address))
    if master:
        parts.append(u32(IFLA_MASTER, master))
    if alias:
        parts.append(attribute(IFLA_IFALIAS, alias.encode()[:255]))
    if namespace_pid:
        parts.append(u32(IFLA_NET_NS_PID, namespace_pid))
    if namespace_fd >= 0:
        parts.append(u32(IFLA_NET_NS_FD, namespace_fd))
    if without_ipv6_address:
        mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([ADDR_GEN_MODE_NONE]))
        parts.append(nested(IFLA_AF_SPEC, nested(AF_INET6, mode)))
    return b"".join([*parts, more])


def kind_of(kind: str, *data: bytes) -> bytes:
    """For *more* of `link`: the kind of a new link, and what is said of that kind."""
    parts = [string(IFLA_INFO_KIND, kind)]
    if data:
        parts.append(nested(IFLA_INFO_DATA, *data))
    return nested(IFLA_LINKINFO, *parts)


def veth(peer: bytes) -> bytes:
    """A pair of links; *peer* is the other one, as `link` gives it. veth(4)."""
    return kind_of("veth", attribute(VETH_INFO_PEER | 0x8000, peer))


def macvlan(parent: int) -> bytes:
    """A link with an address of its own on the wire of the link *parent*; those of one parent reach each other."""
    return kind_of("macvlan", u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE)) + u32(IFLA_LINK, parent)


def bridge_port(*, hairpin: bool, learning: bool) -> bytes:
    """What is so of a link as the port of a bridge; *hairpin*: it may get back what came from it; *learning*: whoever
    sends by it is taken to be behind it.
    """
    modes = attribute(IFLA_BRPORT_MODE, bytes([hairpin])), attribute(IFLA_BRPORT_LEARNING, bytes([learning]))
    return nested(IFLA_LINKINFO, string(IFLA_INFO_SLAVE_KIND, "bridge"), nested(IFLA_INFO_SLAVE_DATA, *modes))


def bridge() -> bytes:
    """A bridge that forwards from its first packet on: nothing of ours can make a circle."""
    return kind_of("bridge", u32(IFLA_BR_FORWARD_DELAY, 0), u32(IFLA_BR_STP_STATE, 0))


def links(channel: Any, index: int = 0, name: str = "") -> list[Link]:
    """The links there are, or the one of that number or name. Raises KernelError (ENODEV for one that is not there)."""
    if index or name:
        body = LINK.pack(0, 0, index, 0, 0) + (string(IFLA_IFNAME, name) if name else b"")
        answers = request(channel, RTM_GETLINK, body, target=name or f"link {index}")
    else:
        answers = request(channel, RTM_GETLINK, LINK.pack(0, 0, 0, 0, 0), NLM_F_DUMP, target="links")
    return [_link(content) for kind, content in answers if kind == RTM_NEWLINK]


def _link(content: bytes) -> Link:
    _, _, index, flags, _ = LINK.unpack_from(content)
    found = attributes(content[LINK.size :])
    info = attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found.get(IFLA_IFNAME, b"")),
        kind=_text(info.get(IFLA_INFO_KIND, b"")),
        flags=flags,
        mtu=_number(found.get(IFLA_MTU)),
        master=_number(found.get(IFLA_MASTER)),
        address=found.get(IFLA_ADDRESS, b""),
        alias=_text(found.get(IFLA_IFALIAS, b"")),
        other_namespace=_signed(found.get(IFLA_LINK_NETNSID)),
    )


def namespace_number(channel: Any, namespace: int) -> int:
    """The number that the namespace of the socket has for the network *namespace*, a descriptor;
    NETNSA_NSID_NOT_ASSIGNED where it has none. Raises KernelError. linux/net_namespace.h.
    """
    body = bytes(4) + u32(NETNSA_FD, namespace)  # struct rtgenmsg, padded
    answers = request(channel, RTM_GETNSID, body, target="the number of a network namespace")
    found = [attributes(content[4:]) for kind, content in answers if kind == RTM_NEWNSID]
    return _signed(found[0].get(NETNSA_NSID)) if found else NETNSA_NSID_NOT_ASSIGNED


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="surrogateescape")


def _number(data: bytes | None) -> int:
    return int(_U32.unpack(data)[0]) if data is not None and len(data) == _U32.size else 0


def _signed(data: bytes | None) -> int:
    return int.from_bytes(data, byteorder, signed=True) if data is not None else NETNSA_NSID_NOT_ASSIGNED


# -- addresses: for RTM_NEWADDR and RTM_DELADDR


def address(index: int, packed: bytes, prefix: int) -> bytes:
    """An address of the link *index*. One of IPv6 can be used at once: nobody else can have it (no duplicate detection,
    RFC 4862, 5.4).
    """
    body = ADDRESS.pack(_family(packed), prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if len(packed) == 4:
        if prefix < 31:
            host = (1 << (32 - prefix)) - 1
            body += attribute(IFA_BROADCAST, (int.from_bytes(packed, "big") | host).to_bytes(4, "big"))
        return body
    return body + u32(IFA_FLAGS, IFA_F_NODAD)


def addresses(channel: Any) -> list[Address]:
    """The addresses there are. Raises KernelError."""
    found = []
    for kind, content in request(
        channel, RTM_GETADDR, ADDRESS.pack(0, 0, 0, 0, 0), NLM_F_DUMP, target="addresses"
    ):
        if kind == RTM_NEWADDR:
            _, prefix, _, _, index = ADDRESS.unpack_from(content)
            of = attributes(content[ADDRESS.size :])
            found.append(Address(index, of.get(IFA_LOCAL) or of.get(IFA_ADDRESS, b""), prefix))
    return found


# -- routes: for RTM_NEWROUTE and RTM_DELROUTE


def route(index: int, gateway: bytes = b"", packed: bytes = b"", prefix: int = 0, metric: int = 0) -> bytes:
    """A route of the main table by the link *index*: by default to everywhere, over *gateway*."""
    family = _family(gateway or packed)
    scope = RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK
    body = ROUTE.pack(family, prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, 0)
    if packed:
        body += attribute(RTA_DST, packed)
    if gateway:
        body += attribute(RTA_GATEWAY, gateway)
    if metric:
        body += u32(RTA_PRIORITY, metric)
    return body + u32(RTA_OIF, index)


def routes(channel: Any) -> list[Route]:
    """The unicast routes of the main table, of both families. Raises KernelError."""
    found = []
    for kind, content in request(
        channel, RTM_GETROUTE, ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), NLM_F_DUMP, target="routes"
    ):
        if kind != RTM_NEWROUTE:
            continue
        _, prefix, _, _, table, _, _, sort, _ = ROUTE.unpack_from(content)
        of = attributes(content[ROUTE.size :])
        if sort == RTN_UNICAST and (_number(of.get(RTA_TABLE)) or table) == RT_TABLE_MAIN:
            found.append(
                Route(of.get(RTA_DST, b""), prefix, _number(of.get(RTA_OIF)), of.get(RTA_GATEWAY, b""))
            )
    return found


# -- neighbours: for RTM_NEWNEIGH and RTM_DELNEIGH


def neighbour(index: int, packed: bytes, hardware: bytes, state: int = NUD_PERMANENT) -> bytes:
    """An entry of the neighbour table: *packed* is at the link-layer address *hardware*. One that is NUD_STALE is used,
    and looked whether it is right.
    """
    body = NEIGHBOUR.pack(_family(packed), index, state, 0, 0)
    return body + attribute(NDA_DST, packed) + attribute(NDA_LLADDR, hardware)


def forwarding_entry(port: int, hardware: bytes) -> bytes:
    """An entry of a bridge's forwarding table: *hardware* is behind the link *port*, whatever is heard elsewhere
    (`bridge fdb replace ... master static`, bridge(8)).
    """
    return NEIGHBOUR.pack(AF_BRIDGE, port, NUD_NOARP, NTF_MASTER, 0) + attribute(NDA_LLADDR, hardware)


def neighbours(channel: Any) -> list[Neighbour]:
    """The neighbour table, of both families. Raises KernelError."""
    found = []
    for kind, content in request(
        channel, RTM_GETNEIGH, NEIGHBOUR.pack(0, 0, 0, 0, 0), NLM_F_DUMP, target="neighbours"
    ):
        if kind == RTM_NEWNEIGH:
            _, index, state, _, _ = NEIGHBOUR.unpack_from(content)
            of = attributes(content[NEIGHBOUR.size :])
            found.append(Neighbour(index, of.get(NDA_DST, b""), of.get(NDA_LLADDR, b""), state))
    return found
