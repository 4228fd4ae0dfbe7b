"""Route netlink: the few messages that a start needs, as bytes. netlink(7), rtnetlink(7).

A request is sent on a socket, and its acknowledgement (or every part of a dump) is read back. All raise KernelError.
"""

from __future__ import annotations

import struct

from lamina.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
IFLA_IFNAME, IFLA_NET_NS_PID = 3, 19
IFA_FLAGS, IFA_CACHEINFO = 8, 6
IFA_F_PERMANENT = 0x80
RT_SCOPE_UNIVERSE = 0
IFF_UP = 0x1
IFNAMSIZ = 16

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefixlen, flags, scope, index
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_ROOM = 1 << 16


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    length = ATTRIBUTE.size + len(data)
    return ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in *data* by kind."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        if length < ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
    return found


def request(
    channel: Any, kind: int, body: bytes, flags: int = 0, *, target: str = ""
) -> list[tuple[int, bytes]]:
    """Send one message on the socket *channel*; gives what comes back before the acknowledgement: (type, body).

    *flags*: NLM_F_DUMP for all there are. Raises KernelError with the kernel's errno; *target* says on what.
    """
    head = HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0)
    channel.sendall(head + body)
    answers: list[tuple[int, bytes]] = []
    while True:
        data = channel.recv(_ROOM)
        if not data:
            raise KernelError("netlink", 5, target)
        while len(data) >= HEADER.size:
            length, answer, _, _, _ = HEADER.unpack_from(data)
            content = data[HEADER.size : length]
            if answer == NLMSG_ERROR:
                error = struct.unpack_from("=i", content)[0]
                if error:
                    raise KernelError("netlink", -error, target)
                return answers
            if answer == NLMSG_DONE:
                return answers
            answers.append((answer, content))
            data = data[(length + 3) & ~3 :]
