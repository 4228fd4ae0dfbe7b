"""nf_tables: tables, chains, sets, maps and rules as messages, and transactions. linux/netfilter/nf_tables.h

What is done in one `commit` happens as a whole or not at all. Functions are named as nft(8)'s words and make what nft
itself makes of them (`nft --debug=netlink`), so that `nft list ruleset` reads it back. Numbers are big-endian here.

A rule is a list of expressions that work on registers of four bytes: `load` functions fill them, `compare` and `in_set`
go on if it is so, the last one says what becomes of the packet. A key of several fields lies in one register behind the
other, each on its own four bytes.
"""

from __future__ import annotations

import _socket
import struct

from lamina.errors import KernelError
from lamina.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLMSG_ERROR,
    PATIENCE,
    Channel,
    attribute,
    attributes,
    each_attribute,
    failure_of,
    message,
    nested,
    open_channel,
    receive,
    request,
    send,
    string,
)
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any


GENERIC = struct.Struct(">BBH")  # struct nfgenmsg: nfgen_family, version, res_id
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
NFNL_BATCH_GENID = 1
(
    NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE, NEWSET, GETSET, DELSET,
    NEWSETELEM, GETSETELEM, DELSETELEM, NEWGEN, GETGEN,
) = range(17)  # fmt: skip

# linux/netfilter.h
FAMILIES = {"inet": 1, "ip": 2, "netdev": 5, "bridge": 7, "ip6": 10}
IPV4, IPV6 = 2, 10
INET_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
MOST_ELEMENTS = 200  # of one message, with comments: an attribute has at most 64 KiB
NF_DROP, NF_ACCEPT, NFT_JUMP, NFT_RETURN = 0, 1, -3, -5

# of sets: NFT_SET_*; what nft(8) calls the types of keys, which is stored for it (src/datatype.c, enum datatypes)
INTERVAL, MAP, TIMEOUT, DYNAMIC, CONCAT = 0x4, 0x8, 0x10, 0x20, 0x80
TYPES = {
    "ipv4_addr": (7, 4), "ipv6_addr": (8, 16), "ether_addr": (9, 6), "inet_proto": (12, 1), "inet_service": (13, 2),
    "ifname": (41, 16), "mark": (19, 4),
}  # fmt: skip
_TYPE_BITS = 6
ELEMENT_INTERVAL_END = 1
# what nft(8) keeps in the user data of an element, and of a set (libnftnl/udata.h)
_COMMENT, _KEY_BYTEORDER, _HOST_ENDIAN, _BIG_ENDIAN = 0, 0, 1, 2
MOST_COMMENT = 127

# registers: 1 to 4 have 16 bytes, 8 to 23 are the same memory in pieces of 4
REG_1, REG_2, REG32_00 = 1, 2, 8
_META = {"protocol": 1, "iifname": 6, "oifname": 7, "nfproto": 15, "l4proto": 16}
_CT = {"state": 0, "status": 2}
_BASES = {"link": 0, "network": 1, "transport": 2}
CT_ESTABLISHED, CT_RELATED, CT_DNAT = 0x2, 0x4, 0x20

Expression = bytes
Message = tuple[int, bytes, int, str]


def _u32(kind: int, number: int) -> bytes:
    return attribute(kind, _U32.pack(number & 0xFFFFFFFF))


def _head(family: str) -> bytes:
    return GENERIC.pack(FAMILIES[family], 0, 0)


# -- what a transaction consists of: (message, body, flags, on what)


def add_table(family: str, table: str) -> Message:
    """The table, unless it is there."""
    return NEWTABLE, _head(family) + string(1, table) + _u32(2, 0), NLM_F_CREATE, f"table {family} {table}"


def delete_table(family: str, table: str) -> Message:
    """The table with all that is in it; ENOENT where there is none."""
    return DELTABLE, _head(family) + string(1, table), 0, f"table {family} {table}"


def add_chain(
    family: str, table: str, name: str, *, hook: str = "", priority: int = 0, kind: str = "filter"
) -> Message:
    """A chain; with a *hook* it is where packets come by, with the policy to accept them."""
    body = _head(family) + string(1, table) + string(3, name)
    if hook:
        where = _u32(1, INET_HOOKS[hook]) + _u32(2, priority)
        body += nested(4, where) + _u32(5, NF_ACCEPT) + string(7, kind)
    return NEWCHAIN, body, NLM_F_CREATE, f"chain {family} {table} {name}"


def add_rule(family: str, table: str, chain: str, *expressions: Expression) -> Message:
    """A rule at the end of a chain."""
    body = _head(family) + string(1, table) + string(2, chain) + nested(4, *expressions)
    return NEWRULE, body, NLM_F_CREATE | NLM_F_APPEND, f"rule of {family} {table} {chain}"


def add_set(
    family: str,
    table: str,
    name: str,
    number: int,
    key: Sequence[str],
    *,
    interval: bool = False,
    data: Sequence[str] = (),
    timeout: bool = False,
    dynamic: bool = False,
    size: int = 0,
) -> Message:
    """A set whose keys consist of fields of TYPES; with *data* a map. *number* is its own in this transaction. With
    *timeout* elements may go by themselves, to a *dynamic* one packets add them; it has at most *size*, unless that is
    0.
    """
    kind, length = _type(key)
    flags = (INTERVAL if interval else 0) | (MAP if data else 0) | (CONCAT if len(key) > 1 else 0)
    flags |= (TIMEOUT if timeout else 0) | (DYNAMIC if dynamic else 0)
    body = (
        _head(family) + string(1, table) + string(2, name) + _u32(3, flags) + _u32(4, kind) + _u32(5, length)
    )
    if data:
        kind, length = _type(data)
        body += _u32(6, kind) + _u32(7, length)
    body += _u32(10, number)
    # nft(8) prints a key as it is told here; only names and marks are numbers of this host to it
    order = _HOST_ENDIAN if tuple(key) in (("ifname",), ("mark",)) else _BIG_ENDIAN
    body += attribute(13, struct.pack("=BBI", _KEY_BYTEORDER, 4, order))
    description = _u32(1, size) if size else b""
    if len(key) > 1:
        fields = (nested(1, _u32(1, (TYPES[field][1]))) for field in key)
        description += nested(2, *fields)
    if description:
        body += nested(9, description)
    return NEWSET, body, NLM_F_CREATE, f"set {family} {table} {name}"


def _type(fields: Sequence[str]) -> tuple[int, int]:
    kind, length = 0, 0
    for field in fields:
        number, size = TYPES[field]
        kind, length = kind << _TYPE_BITS | number, length + (size + 3 & ~3 if len(fields) > 1 else size)
    return kind, length


def concat(*fields: bytes) -> bytes:
    """A key or a value of several fields, as it lies in registers."""
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


def ifname(name: str) -> bytes:
    """The name of a link as a field."""
    return name.encode().ljust(16, b"\0")


@value
class Element:
    """One of a set or a map. `data` is what a map gives for `key`; the set's interval begins at `key` and ends before
    `end`, or, of several fields, each is between that of `key` and that of `last`. `comment` is what nft(8) shows. It
    goes after `seconds`, if they are not 0 (of one that is there: that are left). `packets` have been counted by it.
    """

    key: bytes
    data: bytes = b""
    end: bytes = b""
    comment: str = ""
    last: bytes = b""
    seconds: int = 0
    packets: int = 0


def add_elements(family: str, table: str, name: str, elements: Iterable[Element]) -> Message:
    """Elements of a set or map; those which are there stay as they are. A key of a map that is there with other data is
    EEXIST.
    """
    body = _elements(family, table, name, elements)
    return NEWSETELEM, body, NLM_F_CREATE, f"element of {family} {table} {name}"


def delete_elements(family: str, table: str, name: str, elements: Iterable[Element]) -> Message:
    """Elements that are to go; ENOENT where one of them is not there."""
    return DELSETELEM, _elements(family, table, name, elements), 0, f"element of {family} {table} {name}"


def _elements(family: str, table: str, name: str, elements: Iterable[Element]) -> bytes:
    parts = []
    for element in elements:
        content = nested(1, attribute(1, element.key))
        if element.data:
            content += nested(2, attribute(1, element.data))
        if element.last:
            content += nested(10, attribute(1, element.last))
        if element.seconds:
            content += attribute(4, _U64.pack(element.seconds * 1000))
        if element.comment:
            text = element.comment.encode(errors="replace")[:MOST_COMMENT] + b"\0"
            content += attribute(6, bytes([_COMMENT, len(text)]) + text)
        parts.append(nested(1, content))
        if element.end:
            parts.append(nested(1, nested(1, attribute(1, element.end)), _u32(3, ELEMENT_INTERVAL_END)))
    return _head(family) + string(1, table) + string(2, name) + nested(3, *parts)


# -- expressions


def _expression(name: str, *content: bytes) -> Expression:
    return nested(1, string(1, name), nested(2, *content))


def meta(key: str, register: int = REG_1) -> Expression:
    """Load what is known of the packet: "iifname", "oifname" (16 bytes), "l4proto", "nfproto", "protocol"."""
    return _expression("meta", _u32(2, _META[key]), _u32(1, register))


def payload(base: str, offset: int, length: int, register: int = REG_1) -> Expression:
    """Load *length* bytes of the "link", "network" or "transport" header."""
    return _expression("payload", _u32(1, register), _u32(2, _BASES[base]), _u32(3, offset), _u32(4, length))


def ct(key: str) -> Expression:
    """Load the "state" or the "status" of its connection."""
    return _expression("ct", _u32(1, REG_1), _u32(2, _CT[key]))


def address_type() -> Expression:
    """Load what the destination is to this host (RTN_*): `fib daddr type`."""
    return _expression("fib", _u32(1, REG_1), _u32(2, 3), _u32(3, 2))


def compare(data: bytes, register: int = REG_1, *, differs: bool = False) -> Expression:
    """Go on if the register begins with *data*, or does not."""
    return _expression("cmp", _u32(1, register), _u32(2, int(differs)), nested(3, attribute(1, data)))


def masked(mask: bytes) -> Expression:
    """Leave of the first register the bits of *mask*."""
    both = nested(4, attribute(1, mask)) + nested(5, attribute(1, bytes(len(mask))))  # and, exclusive or
    return _expression("bitwise", _u32(1, REG_1), _u32(2, REG_1), _u32(3, len(mask)), both)


def constant(data: bytes, register: int) -> Expression:
    """Load *data*."""
    return _expression("immediate", _u32(1, register), nested(2, attribute(1, data)))


def count_in(name: str, seconds: int) -> Expression:
    """Count it in the element of a dynamic set that the registers are the key of, which is there for *seconds* more; go
    on only if there is room for it.
    """
    return _kept_in(name, seconds, "counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def over_rate_in(name: str, seconds: int, most: int, burst: int) -> Expression:
    """Go on only for what is more than *most* a second of one key, which the registers are, after the first *burst*.
    The element of a dynamic set that keeps count of it is there for *seconds* more; without room for it nobody goes on.
    """
    inverted = 1  # NFT_LIMIT_F_INV
    rate = attribute(1, _U64.pack(most)), attribute(2, _U64.pack(1)), _u32(3, burst), _u32(5, inverted)
    return _kept_in(name, seconds, "limit", *rate)


def _kept_in(name: str, seconds: int, kind: str, *content: bytes) -> Expression:
    """What becomes of an expression that each element of a dynamic set has for itself: NFT_DYNSET_OP_UPDATE."""
    time = attribute(6, _U64.pack(seconds * 1000))
    each = nested(7, string(1, kind), nested(2, *content))
    return _expression("dynset", string(1, name), _u32(3, 1), _u32(4, REG_1), time, each)


def any_bit(mask: int) -> Expression:
    """Go on if one of these bits, of a number of the host's byte order, is set."""
    return masked(struct.pack("=I", mask)) + compare(bytes(4), differs=True)


def in_set(name: str, *, absent: bool = False) -> Expression:
    """Go on if the key in the registers is in the set, or is not."""
    return _expression("lookup", string(1, name), _u32(2, REG_1), *([_u32(5, 1)] if absent else []))


def map_to(name: str) -> Expression:
    """Load what the map has for the key in the registers; go on only if it has something."""
    return _expression("lookup", string(1, name), _u32(2, REG_1), _u32(3, REG_1))


def counter() -> Expression:
    """Count it."""
    return _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def verdict(code: int, chain: str = "") -> Expression:
    """What becomes of the packet: NF_DROP, NF_ACCEPT, NFT_JUMP to a chain, or NFT_RETURN to where that came from."""
    said = _u32(1, code) + (string(2, chain) if chain else b"")
    return _expression("immediate", _u32(1, 0), nested(2, nested(2, said)))


def dnat(family: int, address: int, port: int) -> Expression:
    """Give it another destination: the registers with the address of IPV4 or IPV6 and the port."""
    return _expression("nat", _u32(1, 1), _u32(2, family), _u32(3, address), _u32(5, port))


def masquerade() -> Expression:
    """Give it the address of the link it leaves by as its source."""
    return _expression("masq")


# -- the exchange


class Transactions(Channel):
    """A socket to nf_tables, which is closed behind our back.

    close(2) of one waits until everything that was deleted lately is freed, by whomever: an RCU grace period, 10 to 20
    ms (net/netfilter/nf_tables_api.c, nft_rcv_nl_event). Nobody needs to wait for that. So it is sent over a socket
    that is then in flight itself, to where nobody can receive it any more: the kernel finds such sockets and closes
    them when it has time (net/unix/garbage.c). Where that happens at once it is as a close(2).
    """

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        if self.fileno() < 0:
            return
        try:
            one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        except OSError:
            super().close()
            return
        rights = struct.pack("=2i", other.fileno(), self.fileno())
        try:
            one.sendmsg([b"\0"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        except OSError:  # too many are in flight (unix(7), ETOOMANYREFS)
            pass
        finally:
            super().close()
            other.close()
            one.close()


def open_nftables() -> Channel:
    """A socket to nf_tables of this network namespace. Raises KernelError (EPROTONOSUPPORT: this kernel has none)."""
    try:
        return open_channel(NETLINK_NETFILTER, kind=Transactions)
    except OSError as error:
        if isinstance(error, KernelError):
            raise
        raise KernelError("netlink socket", error.errno or 0, "nf_tables") from error


def commit(channel: Any, changes: Sequence[Message], generation: int | None = None) -> None:
    """Do all of *changes*, or none of them. Raises KernelError of the first that fails. With *generation*, as
    `generation_of` gave it, only if nothing has been changed since: ERESTART.

    Transactions of nf_tables are done one after the other by the kernel; nobody sees half of one.
    """
    if not changes:
        return
    whose = GENERIC.pack(0, 0, _SUBSYSTEM)
    begin = whose if generation is None else whose + _u32(NFNL_BATCH_GENID, generation)
    parts = [message(_BATCH_BEGIN, begin, sequence=0)]
    last = len(changes)
    for number, (kind, body, flags, _) in enumerate(changes, 1):
        # a transaction that goes well is not answered at all: so its last message asks for it
        parts.append(
            message(_SUBSYSTEM << 8 | kind, body, flags | (NLM_F_ACK if number == last else 0), number)
        )
    parts.append(message(_BATCH_END, whose, sequence=last + 1))
    send(channel, b"".join(parts), last, target="nf_tables")
    failures: dict[int, KernelError] = {}
    while True:
        for kind, flags, number, content in receive(channel):
            if kind != NLMSG_ERROR:
                continue
            target = changes[number - 1][3] if 0 < number <= last else "nf_tables"
            if (failure := failure_of(content, flags, target)) is not None:
                failures[number] = failure
            if number == last or (number == 0 and failures):
                if failures:
                    _drain(channel)
                    raise failures[min(failures)]
                return


def _drain(channel: Any) -> None:
    """What else is said of a transaction that failed is in the socket already."""
    channel.setblocking(False)
    try:
        while channel.recv(1 << 16):
            pass
    except OSError:
        pass
    finally:
        channel.settimeout(PATIENCE)


def generation_of(channel: Any) -> int:
    """The number of transactions so far in this network namespace, at which the next one begins."""
    for _, content in request(channel, _SUBSYSTEM << 8 | GETGEN, _head("inet"), target="nf_tables"):
        return int(_U32.unpack(attributes(content[GENERIC.size :])[1])[0])
    return 0


def tables(channel: Any) -> list[tuple[str, str]]:
    """(family, name) of every table."""
    families = {number: name for name, number in FAMILIES.items()}
    answers = request(channel, _SUBSYSTEM << 8 | GETTABLE, GENERIC.pack(0, 0, 0), NLM_F_DUMP, target="tables")
    found = []
    for _, content in answers:
        family = GENERIC.unpack_from(content)[0]
        name = attributes(content[GENERIC.size :]).get(1, b"").rstrip(b"\0").decode(errors="replace")
        found.append((families.get(family, str(family)), name))
    return found


def dropping(channel: Any, hook: str) -> list[str]:
    """The chains ("ip filter FORWARD") at *hook*, of INET_HOOKS, that drop what of IP no rule of theirs accepts."""
    families = {number: name for name, number in FAMILIES.items() if name in ("inet", "ip", "ip6")}
    answers = request(channel, _SUBSYSTEM << 8 | GETCHAIN, GENERIC.pack(0, 0, 0), NLM_F_DUMP, target="chains")
    found = []
    for _, content in answers:
        family, parts = GENERIC.unpack_from(content)[0], attributes(content[GENERIC.size :])
        place = attributes(parts.get(4, b"")).get(1)  # NFTA_CHAIN_HOOK, NFTA_HOOK_HOOKNUM
        policy = parts.get(5)  # NFTA_CHAIN_POLICY
        if family in families and place == _U32.pack(INET_HOOKS[hook]) and policy == _U32.pack(NF_DROP):
            names = [parts.get(kind, b"").rstrip(b"\0").decode(errors="replace") for kind in (1, 3)]
            found.append(" ".join((families[family], *names)))
    return found


def elements(channel: Any, family: str, table: str, name: str) -> list[Element]:
    """The elements of a set or a map; the ends of intervals follow their beginnings as elements without a comment.

    Raises KernelError: ENOENT where there is no such set.
    """
    body = _head(family) + string(1, table) + string(2, name)
    answers = request(
        channel, _SUBSYSTEM << 8 | GETSETELEM, body, NLM_F_DUMP, target=f"set {family} {table} {name}"
    )
    found = []
    for _, content in answers:
        listed = attributes(content[GENERIC.size :]).get(3, b"")
        found += [_element(attributes(one)) for _, one in each_attribute(listed)]
    return found


def _element(parts: dict[int, bytes]) -> Element:
    said = parts.get(6, b"")
    comment = (
        said[2 : 2 + said[1]].rstrip(b"\0").decode(errors="replace") if said[:1] == bytes([_COMMENT]) else ""
    )
    key = attributes(parts.get(1, b"")).get(1, b"")
    last = attributes(parts.get(10, b"")).get(1, b"")
    data = attributes(parts.get(2, b"")).get(1, b"")
    left = int.from_bytes(parts.get(5, b""), "big")  # milliseconds
    packets = _packets(parts.get(7, b""))
    return Element(key, data=data, comment=comment, last=last, seconds=-(-left // 1000), packets=packets)


def _packets(expression: bytes) -> int:
    counted = attributes(attributes(expression).get(2, b"")).get(2, b"")
    return int.from_bytes(counted, "big")
