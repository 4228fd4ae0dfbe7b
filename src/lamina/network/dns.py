"""Messages of the domain name system, as far as a responder needs them: questions read, answers made, addresses found
in the answers of others. RFC 1035; RFC 6891 (EDNS), of which it knows how long an answer may be.

Whoever sends a message may want to hurt who reads it: nothing here reads past its end, and a name is followed through
pointers only backwards, and so often at most as a name can have labels.
"""

from __future__ import annotations

import struct

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

A, CNAME, SOA, PTR, AAAA, OPT, ANY = 1, 5, 6, 12, 28, 41, 255
INTERNET = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
PLAIN = 512  # bytes of an answer over UDP to who says nothing (RFC 1035, 4.2.1)
LONGEST = 65535
MOST_UDP = 1232  # what is never fragmented (dnsflagday.net/2020)
_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_QR, _AA, _TC, _RD, _RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
_OPCODE, _RCODE = 0x7800, 0x000F
_POINTER = 0xC0
_LONGEST_NAME, _LONGEST_LABEL = 255, 63
# one a label; a longer chain leads nowhere, and each record of a message may begin it anew
_MOST_POINTERS = 127
_TO_THE_QUESTION = b"\xc0\x0c"
# what names of containers and of hosts consist of; what else a label may have in it is nobody's here
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset(b"0123456789abcdef")
_MOST_BESIDES = 8  # records that a question may come with: one of EDNS, one signature, and some
# records of an answer that are looked at, each of which may lead through a whole name: who reads it does nothing else
# meanwhile, for anybody
_MOST_ANSWERS = 512


@value
class Query:
    """A question: its `identity` and `flags` as they were sent, the `labels` of its name in small letters, the `kind`
    and `family` (class) that are asked for; `question` is that part of the message, `room` how long an answer over UDP
    may be, and `extended` whether it came with EDNS.
    """

    identity: int
    flags: int
    labels: tuple[bytes, ...]
    kind: int
    family: int
    question: bytes
    room: int = PLAIN
    extended: bool = False

    @property
    def name(self) -> str:
        """The name as text, "" for the root, and for one with a label that no host here could have."""
        return text_of(self.labels)


def text_of(labels: Sequence[bytes]) -> str:
    """Labels as people write them; "" where that is not what people write."""
    if not all(label and _PLAIN.issuperset(label) for label in labels):
        return ""
    return b".".join(labels).decode()


def read_query(data: bytes) -> Query | None:
    """The question of a message; None for a message that is to have no answer at all: an answer, or too short.

    Raises InvalidInput for one that is to be told so.
    """
    if len(data) < _HEADER.size:
        return None
    identity, flags, questions, answers, authorities, more = _HEADER.unpack_from(data)
    if flags & _QR:
        return None
    if questions != 1 or answers or authorities or more > _MOST_BESIDES:
        raise _malformed("not one question")
    labels, at = _name(data, _HEADER.size, pointers=False)
    if at + _QUESTION.size > len(data):
        raise _malformed("cut off")
    kind, family = _QUESTION.unpack_from(data, at)
    at += _QUESTION.size
    question = data[_HEADER.size : at]
    room, extended = PLAIN, False
    for _ in range(more):
        _, record, size, _, at = _record(data, at)[:5]
        if record == OPT:
            room, extended = min(max(size, PLAIN), MOST_UDP), True
    return Query(identity, flags, labels, kind, family, question, room, extended)


def _malformed(why: str) -> InvalidInput:
    return InvalidInput(f"read a message of the domain name system: {why}")


def is_usual(query: Query) -> bool:
    """Whether it is a query, and no update, notification or the like (the opcode)."""
    return not query.flags & _OPCODE


def _name(data: bytes, at: int, *, pointers: bool = True) -> tuple[tuple[bytes, ...], int]:
    """(labels in small letters, where it ends). Raises InvalidInput."""
    labels: list[bytes] = []
    length, end, lowest, followed = 1, -1, at, 0
    while True:
        if at >= len(data):
            raise _malformed("a name without an end")
        size = data[at]
        if size & _POINTER == _POINTER:
            if not pointers or at + 2 > len(data):
                raise _malformed("a pointer")
            target = (size & 0x3F) << 8 | data[at + 1]
            if end < 0:
                end = at + 2
            followed += 1
            if target >= lowest or followed > _MOST_POINTERS:  # only backwards: so it has an end
                raise _malformed("a pointer that does not lead back, or too many")
            at = lowest = target
            continue
        if size > _LONGEST_LABEL:
            raise _malformed("a label of an unknown kind")
        if size == 0:
            return tuple(labels), at + 1 if end < 0 else end
        label = data[at + 1 : at + 1 + size]
        length += size + 1
        if len(label) < size or length > _LONGEST_NAME:
            raise _malformed("a name that is too long")
        labels.append(label.lower())
        at += size + 1


def _record(data: bytes, at: int) -> tuple[tuple[bytes, ...], int, int, int, int, bytes, int]:
    """(name, type, class, time to live, end, data, where the data begins). Raises InvalidInput."""
    labels, at = _name(data, at)
    if at + _RECORD.size > len(data):
        raise _malformed("cut off")
    kind, family, seconds, size = _RECORD.unpack_from(data, at)
    at += _RECORD.size
    if at + size > len(data):
        raise _malformed("cut off")
    return labels, kind, family, seconds, at + size, data[at : at + size], at


# -- answers of ours


@value
class Answer:
    """What there is under the name that was asked for: `data` of a type (`kind`), for `seconds`."""

    kind: int
    seconds: int
    data: bytes


def reply(query: Query, code: int, answers: Sequence[Answer] = (), *, datagram: bool = True) -> bytes:
    """The message that answers *query*; over UDP one that would be too long says so, and is empty (RFC 2181, 9)."""
    records = b"".join(
        _TO_THE_QUESTION + _RECORD.pack(one.kind, INTERNET, one.seconds, len(one.data)) + one.data
        for one in answers
    )
    extension = b"\0" + _RECORD.pack(OPT, MOST_UDP, 0, 0) if query.extended else b""
    count, cut = len(answers), 0
    most = query.room if datagram else LONGEST
    if _HEADER.size + len(query.question) + len(records) + len(extension) > most:
        records, count, cut = b"", 0, _TC
    own = _AA if code in (NOERROR, NXDOMAIN) else 0
    flags = _QR | query.flags & (_OPCODE | _RD) | own | cut | _RA | code
    head = _HEADER.pack(query.identity, flags, 1, count, 0, int(query.extended))
    return head + query.question + records + extension


def refusal(data: bytes, code: int) -> bytes:
    """An answer to what could not be read, of which only the head is used."""
    identity, flags = _HEADER.unpack_from(data)[:2]
    return _HEADER.pack(identity, _QR | flags & (_OPCODE | _RD) | _RA | code, 0, 0, 0, 0)


def name_data(text: str) -> bytes:
    """A name as data of a record. Raises InvalidInput for one that cannot be one."""
    labels = text.encode("ascii").split(b".") if text else []
    if not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise InvalidInput(f"name {text[:100]!r}: a label is empty or too long")
    found = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(found) > _LONGEST_NAME:
        raise InvalidInput(f"name {text[:100]!r}: it is too long")
    return found


def ask(name: str, kind: int, identity: int = 0, *, room: int = 0) -> bytes:
    """A question; with *room* it says, by EDNS, how long the answer may be."""
    extension = b"\0" + _RECORD.pack(OPT, room, 0, 0) if room else b""
    head = _HEADER.pack(identity, _RD, 1, 0, 0, int(bool(room)))
    return head + name_data(name) + _QUESTION.pack(kind, INTERNET) + extension


# -- answers of others


def with_identity(data: bytes, identity: int) -> bytes:
    """The same message under another number."""
    return identity.to_bytes(2, "big") + data[2:]


def answers_it(data: bytes, query: Query, identity: int) -> bool:
    """Whether *data* is the answer to *query*, which was sent as *identity*: the same question, letter for letter."""
    if len(data) < _HEADER.size:
        return False
    number, flags, questions = _HEADER.unpack_from(data)[:3]
    if number != identity or not flags & _QR:
        return False
    if questions == 0:  # some servers leave it out where they refuse
        return bool(flags & _RCODE)
    return questions == 1 and data[_HEADER.size :].startswith(query.question)


def code_of(data: bytes) -> int:
    """The response code of a message."""
    return int(_HEADER.unpack_from(data)[1]) & _RCODE


def addresses_in(data: bytes, query: Query) -> list[tuple[int, bytes]]:
    """(seconds, packed address) of all addresses that the answer *data* has for the name of *query*, also by other
    names that it leads to (CNAME), in whatever order they come. Raises InvalidInput.
    """
    addresses: dict[tuple[bytes, ...], list[tuple[int, bytes]]] = {}
    others: dict[tuple[bytes, ...], list[tuple[int, tuple[bytes, ...]]]] = {}
    for labels, kind, family, seconds, content, begin in _answers(data):
        if family != INTERNET:
            continue
        if kind == CNAME:
            others.setdefault(labels, []).append((seconds, _name(data, begin)[0]))
        elif (kind, len(content)) in ((A, 4), (AAAA, 16)):
            addresses.setdefault(labels, []).append((seconds, content))
    led, found = {query.labels: 1 << 31}, []
    waiting = [query.labels]
    while waiting:
        labels = waiting.pop(0)
        found += [(min(seconds, led[labels]), address) for seconds, address in addresses.get(labels, ())]
        for seconds, target in others.get(labels, ()):
            if target not in led:
                led[target] = min(seconds, led[labels])
                waiting.append(target)
    return found


def _answers(data: bytes) -> Iterator[tuple[tuple[bytes, ...], int, int, int, bytes, int]]:
    """As `_record`, of each answer, without its end. Raises InvalidInput."""
    _, _, questions, answers, _, _ = _HEADER.unpack_from(data)
    if questions > 1 or answers > _MOST_ANSWERS:
        raise _malformed("more records than are looked at")
    at = _HEADER.size
    for _ in range(questions):
        at = _name(data, at)[1] + _QUESTION.size
    for _ in range(answers):
        labels, kind, family, seconds, at, content, begin = _record(data, at)
        yield labels, kind, family, seconds, content, begin


def reverse_of(labels: Sequence[bytes]) -> bytes:
    """The packed address that a name of in-addr.arpa or ip6.arpa means; b"" where it is none."""
    try:
        if labels[-2:] == (b"in-addr", b"arpa") and len(labels) == 6:
            numbers = [int(label) for label in reversed(labels[:4]) if label.isdigit() and len(label) <= 3]
            return bytes(numbers) if len(numbers) == 4 else b""
        if labels[-2:] == (b"ip6", b"arpa") and len(labels) == 34:
            digits = b"".join(reversed(labels[:32]))
            return (
                bytes.fromhex(digits.decode("ascii"))
                if _DIGITS.issuperset(digits) and len(digits) == 32
                else b""
            )
    except ValueError:
        pass
    return b""
