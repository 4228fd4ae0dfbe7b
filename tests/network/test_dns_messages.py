"""Messages of the domain name system: read and written, and hostile ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.network import dns
from lamina.network.dns import AAAA, CNAME, PTR, A, Answer
from support.name_servers import is_cut

LABEL = st.text("abcxyz019-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 253)


def message(question: bytes, *records: bytes, flags: int = 0x8180, questions: int = 1) -> bytes:
    return struct.pack("!6H", 7, flags, questions, len(records), 0, 0) + question + b"".join(records)


def record(name: bytes, kind: int, seconds: int, data: bytes) -> bytes:
    return name + struct.pack("!HHIH", kind, 1, seconds, len(data)) + data


@given(
    NAME, st.sampled_from([A, AAAA, PTR, 65]), st.integers(0, 65535), st.sampled_from([0, 512, 1232, 4096])
)
def test_a_question_is_read_as_it_was_asked(name, kind, identity, room):
    query = dns.read_query(dns.ask(name, kind, identity, room=room))
    assert query is not None
    assert (query.name, query.kind, query.identity, query.family) == (name, kind, identity, 1)
    assert (query.extended, query.room) == (bool(room), min(max(room, 512), 1232))
    assert dns.is_usual(query)


@given(st.binary(max_size=600))
def test_whatever_is_sent_is_read_or_refused(data):
    for readable in (data, struct.pack("!6H", 7, 0, 1, 0, 0, 1) + data):
        try:
            query = dns.read_query(readable)
        except InvalidInput:
            assert len(dns.refusal(readable, dns.FORMERR)) == 12
            continue
        if query is not None:
            dns.reverse_of(query.labels)
            assert dns.read_query(dns.reply(query, dns.NXDOMAIN)) is None  # an answer is never answered


@given(st.binary(max_size=400), st.integers(0, 40))
def test_answers_of_others_are_read_or_refused(data, count):
    query = dns.read_query(dns.ask("a.example", A, 7))
    assert query is not None
    answer = struct.pack("!6H", 7, 0x8180, 1, count, 0, 0) + query.question + data
    assert dns.answers_it(answer, query, 7)
    try:
        found = dns.addresses_in(answer, query)
    except InvalidInput:
        return
    assert all(len(address) in (4, 16) for _, address in found)


def test_names_that_lead_in_circles():
    query = dns.read_query(dns.ask("a", A))
    assert query is not None
    begin = 12 + len(query.question)
    for name in (
        struct.pack("!H", 0xC000 | begin),  # itself
        struct.pack("!H", 0xC000 | begin + 2) + struct.pack("!H", 0xC000 | begin),
        b"\x01a" + struct.pack("!H", 0xC000 | begin),  # grows for ever
        struct.pack("!H", 0xFFFF),
        b"\x80",
        b"\x40" + b"a" * 64,
    ):
        with pytest.raises(InvalidInput):
            dns.addresses_in(message(query.question, record(name, A, 1, b"abcd")), query)
    with pytest.raises(InvalidInput):  # not even one pointer, in a question
        dns.read_query(struct.pack("!6H", 7, 0, 2, 0, 0, 0) + b"\x01a\0" + b"\0\1\0\1" + b"\xc0\x0c\0\1\0\1")
    with pytest.raises(InvalidInput):
        dns.read_query(struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1")
    with pytest.raises(InvalidInput):  # each of which would be walked through
        dns.read_query(struct.pack("!6H", 7, 0, 1, 0, 0, 60000) + query.question)


def test_names_that_lead_a_long_way():
    """Each step leads back, as it should; but there would be thousands, and again for each record."""
    query = dns.read_query(dns.ask("a", A))
    assert query is not None
    begin = 12 + len(query.question)
    first = b"\0" + struct.pack("!HHIH", 99, 1, 0, 3600)
    at = begin + len(first)
    chain = b"\0\0" + b"".join(struct.pack("!H", 0xC000 | at + 2 * step) for step in range(1799))
    last = struct.pack("!H", 0xC000 | at + 3598) + struct.pack("!HHIH", 99, 1, 0, 0)
    with pytest.raises(InvalidInput):
        dns.read_query(struct.pack("!6H", 7, 0, 1, 0, 0, 2) + query.question + first + chain + last)
    with pytest.raises(InvalidInput):
        dns.addresses_in(message(query.question, first + chain, last), query)


def test_an_answer_has_all_addresses_or_says_that_it_was_cut():
    query = dns.read_query(dns.ask("db", A, 9))
    assert query is not None
    answers = [Answer(A, 5, bytes([10, 0, 0, number])) for number in range(60)]
    over_tcp = dns.reply(query, dns.NOERROR, answers, datagram=False)
    assert [address for _, address in dns.addresses_in(over_tcp, query)] == [one.data for one in answers]
    cut = dns.reply(query, dns.NOERROR, answers)
    assert is_cut(cut)
    assert len(cut) <= 512
    assert dns.addresses_in(cut, query) == []
    wide = dns.read_query(dns.ask("db", A, 9, room=1232))
    assert wide is not None
    assert not is_cut(dns.reply(wide, dns.NOERROR, answers))
    assert dns.reply(wide, dns.NOERROR)[-11:-8] == b"\0\0\x29"  # EDNS is answered with EDNS


def test_addresses_are_those_of_the_name_also_by_other_names():
    query = dns.read_query(dns.ask("www.example.org", A, 7))
    assert query is not None
    to = dns.name_data
    answer = message(
        query.question,
        record(b"\xc0\x0c", CNAME, 30, to("edge.example.net")),
        record(to("edge.example.net"), A, 300, bytes([192, 0, 2, 1])),
        record(to("other.example.net"), A, 300, bytes([192, 0, 2, 66])),
        record(b"\xc0\x0c", AAAA, 10, bytes(16)),
        record(b"\xc0\x0c", A, 10, b"odd"),
    )
    assert dns.addresses_in(answer, query) == [(10, bytes(16)), (30, bytes([192, 0, 2, 1]))]


@given(st.permutations(range(6)))
def test_names_that_lead_to_others_come_in_any_order(order):
    """Most resolvers of containers take them so (not glibc's); and one of the world has given them so (1.1.1.1)."""
    query = dns.read_query(dns.ask("www.example.org", A, 7))
    assert query is not None
    to = dns.name_data
    records = [
        record(b"\xc0\x0c", CNAME, 300, to("a.example.net")),
        record(to("a.example.net"), CNAME, 20, to("B.example.net")),
        record(to("b.example.net"), CNAME, 300, to("a.example.net")),  # in a circle
        record(to("b.example.net"), A, 60, bytes([192, 0, 2, 1])),
        record(to("a.example.net"), A, 10, bytes([192, 0, 2, 2])),
        record(to("c.example.net"), A, 60, bytes([192, 0, 2, 66])),
    ]
    found = dns.addresses_in(message(query.question, *(records[number] for number in order)), query)
    assert sorted(found) == [(10, bytes([192, 0, 2, 2])), (20, bytes([192, 0, 2, 1]))]


def test_whose_answer_it_is():
    query = dns.read_query(dns.ask("a.example", A, 7))
    assert query is not None
    own = dns.reply(query, dns.NOERROR)
    assert dns.answers_it(own, query, 7)
    assert not dns.answers_it(own, query, 8)
    assert not dns.answers_it(dns.ask("a.example", A, 7), query, 7)
    assert not dns.answers_it(own[:11], query, 7)
    other = dns.read_query(dns.ask("b.example", A, 7))
    assert other is not None
    assert not dns.answers_it(dns.reply(other, dns.NOERROR), query, 7)
    assert dns.answers_it(message(b"", flags=0x8185, questions=0), query, 7)
    assert not dns.answers_it(message(b"", questions=0), query, 7)


def test_names_that_mean_addresses():
    def reverse(name: str) -> bytes:
        return dns.reverse_of(tuple(name.encode().split(b".")))

    assert reverse("2.0.79.10.in-addr.arpa") == bytes([10, 79, 0, 2])
    nibbles = ".".join(reversed("fd000050" + "0" * 23 + "9"))
    assert reverse(f"{nibbles}.ip6.arpa") == bytes.fromhex("fd000050" + "0" * 23 + "9")
    for wrong in (
        "0.79.10.in-addr.arpa",
        "999.0.0.1.in-addr.arpa",
        "x.0.0.1.in-addr.arpa",
        "1.ip6.arpa",
        "arpa",
    ):
        assert reverse(wrong) == b""
    assert reverse(".".join([" "] * 32) + ".ip6.arpa") == b""


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["abc"] * 70)])
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match=r"name|label"):
        dns.name_data(name)
