"""Connections that the kernel tracks, forgotten: nf_conntrack_netlink(4), linux/netfilter/nfnetlink_conntrack.h."""

from __future__ import annotations

from errno import EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT
from sys import byteorder

from lamina.errors import KernelError
from lamina.linux.netlink import NLM_F_DUMP, attribute, attributes, nested, open_channel, request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # of the subsystem NFNL_SUBSYS_CTNETLINK
_ORIGINAL, _REPLY, _ZONE, _FILTER = 1, 2, 18, 25  # CTA_*; the first two are those of CTA_FILTER_*_FLAGS too
_BY_SOURCE = 1  # CTA_FILTER_F_CTA_IP_SRC
_IP = 1  # CTA_TUPLE_IP
_FAMILIES = {4: (2, 1), 16: (10, 3)}  # length of an address: (AF_*, CTA_IP_V4_SRC or CTA_IP_V6_SRC)


def forget(address: bytes) -> int:
    """Forget all connections in which the packed *address* sends, whoever began them, as for a new one who has that
    address; how many that were. A kernel that shows none (without nf_conntrack_netlink) is left as it is: 0.

    Raises KernelError.
    """
    try:
        with open_channel(_NETLINK_NETFILTER) as channel:
            return sum(_forget(channel, address, direction) for direction in (_ORIGINAL, _REPLY))
    except KernelError as error:
        if error.errno in (EINVAL, EOPNOTSUPP, EPROTONOSUPPORT):  # no such subsystem, or no such protocol
            return 0
        raise


def _forget(channel: Any, address: bytes, direction: int) -> int:
    family, source = _FAMILIES[len(address)]
    head = bytes([family, 0, 0, 0])
    who = nested(direction, nested(_IP, attribute(source, address)))
    flags = nested(_FILTER, attribute(direction, _BY_SOURCE.to_bytes(4, byteorder)))
    forgotten = 0
    for _, content in request(channel, _GET, head + who + flags, NLM_F_DUMP, target="connections"):
        found = attributes(content[4:])
        own = attributes(attributes(found.get(direction, b"")).get(_IP, b""))
        if own.get(source) != address:  # a kernel that does not select (before Linux 5.8)
            continue
        zone = attribute(_ZONE, found[_ZONE]) if _ZONE in found else b""
        try:
            request(channel, _DELETE, head + nested(_ORIGINAL, found[_ORIGINAL]) + zone, target="connection")
            forgotten += 1
        except KernelError as error:
            if error.errno != ENOENT:  # it has just ended
                raise
    return forgotten
