"""Netlink: messages and attributes as bytes, and the exchange with the kernel. netlink(7).

A request is sent on a socket, and its acknowledgement (or every part of a dump) is read back; several go in one
datagram. All raise KernelError, with the kernel's own words where it has some (extended acknowledgements, since Linux
4.12). What is said by rtnetlink(7) is in `rtnetlink`, what by nf_tables in `nftables`.
"""

from __future__ import annotations

import _socket
import struct

from lamina.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# linux/rtnetlink.h, linux/netlink.h, linux/if_link.h, linux/if_addr.h
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
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
# asm-generic/socket.h; how many answers every socket has room for, and what one takes of that at most
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_FEW, _ANSWER = 32, 4096
NESTED = 0x8000  # NLA_F_NESTED
_KIND = 0x3FFF  # NLA_TYPE_MASK
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
# of an answer's flags: a dump that changed meanwhile, an error without the request, one with attributes
NLM_F_DUMP_INTR, NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x10, 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
_AF_NETLINK, _SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 16, 270, 10, 11
_EIO, _EAGAIN = 5, 11
_MOST_DUMPS = 10  # of a table that keeps changing
PATIENCE = 10.0  # seconds; the kernel answers at once, unless it is out of memory for the answer


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    length = ATTRIBUTE.size + len(data)
    return ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that consists of others."""
    return attribute(kind | NESTED, b"".join(parts))


def string(kind: int, text: str | bytes) -> bytes:
    """An attribute with a string, which ends with a NUL."""
    return attribute(kind, (text.encode() if isinstance(text, str) else text) + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in *data* by kind."""
    return dict(each_attribute(data))


def each_attribute(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in *data* in their order, as (kind, content): of a list, all have the same kind."""
    found = []
    place = 0
    while place + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, place)
        if length < ATTRIBUTE.size:
            break
        found.append((kind & _KIND, data[place + ATTRIBUTE.size : place + length]))
        place += (length + 3) & ~3
    return found


def message(kind: int, body: bytes, flags: int = 0, sequence: int = 1) -> bytes:
    """One message with its header. *flags* are added to NLM_F_REQUEST."""
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, sequence, 0) + body


class Channel(_socket.socket):
    """A netlink socket, which closes at the end of a `with`."""

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_MOST_STRANGERS = 1000  # datagrams of others that are passed over for one of the kernel's


def open_channel(
    protocol: int = NETLINK_ROUTE, fd: int | None = None, kind: type[Channel] = Channel
) -> Channel:
    """A socket of *protocol* in this network namespace, or around the netlink socket *fd*, which it then owns."""
    channel = kind(_AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol, fd)
    try:
        for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
            channel.setsockopt(_SOL_NETLINK, option, 1)
        channel.settimeout(PATIENCE)
    except OSError as error:
        channel.close()
        raise KernelError("netlink socket", error.errno or _EIO) from error
    return channel


def send(channel: Any, data: bytes, answers: int = 0, *, target: str = "") -> None:
    """Send *data* as one datagram, however large it is and however many *answers* it may get: a socket that is told
    nothing has room for 200 KiB of either (EMSGSIZE, ENOBUFS). Raises KernelError.
    """
    try:
        if len(data) > _ROOM:
            _enlarge(channel, _SO_SNDBUFFORCE, _socket.SO_SNDBUF, len(data))
        if answers > _FEW:
            _enlarge(channel, _SO_RCVBUFFORCE, _socket.SO_RCVBUF, answers * _ANSWER)
        channel.sendall(data)
    except OSError as error:
        raise KernelError(
            "netlink", error.errno or _EIO, target, hint=f"{len(data)} bytes to be sent"
        ) from error


def _enlarge(channel: Any, force: int, ask: int, size: int) -> None:
    try:
        channel.setsockopt(_socket.SOL_SOCKET, force, size)
    except PermissionError:  # root of a user namespace: as much as the host's sysctl has it
        channel.setsockopt(_socket.SOL_SOCKET, ask, size)


def request(
    channel: Any, kind: int, body: bytes, flags: int = 0, *, target: str = ""
) -> list[tuple[int, bytes]]:
    """Send one message on the socket *channel*; gives what comes back before the acknowledgement: (type, body).

    *flags*: NLM_F_DUMP for all there are, read again when it changed meanwhile. Raises KernelError with the kernel's
    errno; *target* says on what.
    """
    for _ in range(_MOST_DUMPS):
        send(channel, message(kind, body, flags | NLM_F_ACK), target=target)
        answers, whole = _answers(channel, target)
        if whole:
            return answers
    raise KernelError("netlink", _EAGAIN, target, hint="it kept changing while it was read")


def requests(channel: Any, wanted: Sequence[tuple[int, bytes, int, str]]) -> None:
    """Send messages (type, body, flags, on what) in one datagram; the kernel does one after the other.

    It goes on behind one that fails; the first failure is raised when all were answered, as KernelError.
    """
    parts = [
        message(kind, body, flags | NLM_F_ACK, number) for number, (kind, body, flags, _) in enumerate(wanted)
    ]
    send(channel, b"".join(parts), len(parts))
    failures: dict[int, KernelError] = {}
    left = set(range(len(wanted)))
    while left:
        for answer, flags, sequence, content in receive(channel):
            if answer != NLMSG_ERROR:
                continue
            left.discard(sequence)
            target = wanted[sequence][3] if sequence < len(wanted) else ""
            if (failure := failure_of(content, flags, target)) is not None:
                failures[sequence] = failure
    if failures:
        raise failures[min(failures)]


def _answers(channel: Any, target: str) -> tuple[list[tuple[int, bytes]], bool]:
    answers: list[tuple[int, bytes]] = []
    whole = True
    while True:
        for answer, flags, _, content in receive(channel):
            whole = whole and not flags & NLM_F_DUMP_INTR
            if answer == NLMSG_ERROR:
                if (failure := failure_of(content, flags, target)) is not None:
                    raise failure
                return answers, whole
            if answer == NLMSG_DONE:
                return answers, whole
            answers.append((answer, content))


def receive(channel: Any) -> list[tuple[int, int, int, bytes]]:
    """The messages of one datagram: (type, flags, sequence, body). Raises KernelError, also after PATIENCE.

    What does not come from the kernel is passed over: in the network namespace of a container whoever administers that
    may send us something, too (netlink(7), nl_pid).
    """
    for _ in range(_MOST_STRANGERS):
        try:
            data, (sender, _groups) = channel.recvfrom(_ROOM)
        except TimeoutError:
            raise KernelError("netlink", _EAGAIN, hint="the kernel did not answer") from None
        except OSError as error:
            raise KernelError("netlink", error.errno or _EIO) from error
        if not sender:
            break
    else:
        raise KernelError("netlink", _EAGAIN, hint="others send all the time")
    if not data:
        raise KernelError("netlink", _EIO)
    found = []
    while len(data) >= HEADER.size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data)
        if length < HEADER.size:
            break
        found.append((kind, flags, sequence, data[HEADER.size : length]))
        data = data[(length + 3) & ~3 :]
    return found


def failure_of(content: bytes, flags: int, target: str) -> KernelError | None:
    """What an NLMSG_ERROR says, None for an acknowledgement."""
    error, length = struct.unpack_from("=iI", content)
    if not error:
        return None
    hint = ""
    if flags & NLM_F_ACK_TLVS:
        behind = 4 + (HEADER.size if flags & NLM_F_CAPPED else length)
        said = attributes(content[behind:]).get(NLMSGERR_ATTR_MSG, b"")
        hint = said.rstrip(b"\0").decode(errors="replace")
    return KernelError("netlink", -error, target, hint=hint)
