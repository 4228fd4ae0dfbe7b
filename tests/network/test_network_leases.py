"""Addresses and ports: taken, exhausted, given back, and by many at once."""

from __future__ import annotations

import ipaddress
import multiprocessing
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Conflict, InvalidInput
from lamina.linux.nftables import MOST_COMMENT
from lamina.network import claims, leases
from lamina.network.model import Attachment, Network, Published, bridge_of, link_local, port_of, ports_begin
from lamina.network.subnet import Subnet, packed, read_subnet, subnet_of, text_of

NET = read_subnet("10.1.0.0/29")
GATEWAY = packed("10.1.0.1")


@pytest.fixture
def place(tmp_path):
    return os.fsencode(tmp_path)


def take(place, owner="a" * 64, among=NET, subnet=NET, reserved=(GATEWAY,)):
    return text_of(leases.take(place, subnet, among, reserved, owner))


# -- subnets


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.data())
def test_subnets_are_those_of_the_standard_library(address, data):
    prefix = data.draw(st.integers(0, address.max_prefixlen))
    ours, theirs = subnet_of(address.packed, prefix), ipaddress.ip_network((address, prefix), strict=False)
    assert str(ours) == f"{text_of(theirs.network_address.packed)}/{prefix}"
    assert read_subnet(str(ours)) == ours
    assert (ours.first, ours.last) == (int(theirs.network_address), int(theirs.broadcast_address))
    assert ours.has(address.packed)
    if (behind := int(theirs.broadcast_address) + 1) < 1 << theirs.max_prefixlen:
        assert ours.end == behind.to_bytes(theirs.max_prefixlen // 8, "big")
    else:
        assert ours.end == b""


@given(st.ip_addresses(v=4), st.integers(8, 32), st.ip_addresses(v=4), st.integers(8, 32))
def test_overlaps_are_those_of_the_standard_library(one, first, two, second):
    ours = subnet_of(one.packed, first), subnet_of(two.packed, second)
    theirs = (
        ipaddress.IPv4Network((one, first), strict=False),
        ipaddress.IPv4Network((two, second), strict=False),
    )
    assert ours[0].overlaps(ours[1]) == theirs[0].overlaps(theirs[1])
    assert ours[0].within(ours[1]) == theirs[0].subnet_of(theirs[1])


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.1/24", "x/8", "10.0.0.0/-1", "::/129", "1/8"]
)
def test_what_is_no_subnet_is_refused(text):
    with pytest.raises(InvalidInput):
        read_subnet(text)


# -- addresses


def test_addresses_are_given_one_after_the_other_and_not_the_gateway(place):
    assert [take(place) for _ in range(5)] == [f"10.1.0.{n}" for n in (2, 3, 4, 5, 6)]
    with pytest.raises(Conflict, match=r"take an address of 10\.1\.0\.0/29: every one is taken"):
        take(place)


def test_one_that_was_given_back_rests_for_a_while(place):
    first = take(place, "a" * 64)
    leases.give_back(place, packed(first), "a" * 64)
    assert take(place) == "10.1.0.3"
    for _ in range(3):
        take(place)
    assert take(place) == first


def test_only_its_owner_gives_an_address_back(place):
    first = packed(take(place, "a" * 64))
    leases.give_back(place, first, "b" * 64)
    assert leases.holder_of(place, first) == "a" * 64
    assert leases.leased(place) == {text_of(first): "a" * 64}


def test_a_wanted_address(place):
    leases.take_this(place, NET, packed("10.1.0.4"), (GATEWAY,), "a" * 64)
    leases.take_this(place, NET, packed("10.1.0.4"), (GATEWAY,), "a" * 64)
    with pytest.raises(Conflict, match="taken by container aaaaaaaaaaaa"):
        leases.take_this(place, NET, packed("10.1.0.4"), (GATEWAY,), "b" * 64)
    with pytest.raises(Conflict, match="the gateway"):
        leases.take_this(place, NET, GATEWAY, (GATEWAY,), "b" * 64)
    for wrong in ("10.1.0.0", "10.1.0.7", "10.1.0.8", "fd00::1"):
        with pytest.raises(InvalidInput):
            leases.take_this(place, NET, packed(wrong), (GATEWAY,), "b" * 64)
    with pytest.raises(InvalidInput) as caught:
        leases.take_this(place, NET, packed("10.2.0.4"), (GATEWAY,), "b" * 64)
    assert caught.value.remedy == "there are 10.1.0.1 to 10.1.0.6; or leave it out"
    assert "10.1.0.4" not in [take(place) for _ in range(4)]


def test_a_range_is_a_part(place):
    assert [take(place, among=read_subnet("10.1.0.4/30")) for _ in range(3)] == [
        f"10.1.0.{n}" for n in (4, 5, 6)
    ]
    with pytest.raises(Conflict, match=r"10\.1\.0\.4/30 of 10\.1\.0\.0/29"):
        take(place, among=read_subnet("10.1.0.4/30"))


def test_leases_of_the_dead_are_given_back(place):
    for owner in "ab":
        take(place, owner * 64)
    assert leases.drop_stale(place, lambda owner: owner == "a" * 64) == ["10.1.0.3"]
    assert leases.leased(place) == {"10.1.0.2": "a" * 64}


def test_of_ipv6_there_are_enough(place):
    net = read_subnet("fd00:1::/64")
    first = take(place, subnet=net, among=net, reserved=(packed("fd00:1::1"),))
    assert first == "fd00:1::2"


def _many(place, results, letter):
    for number in range(40):
        owner = f"{letter}{number:02d}".ljust(64, "0")
        results.put((take(place, owner, read_subnet("10.2.0.0/24"), read_subnet("10.2.0.0/24"), ()), owner))


def test_many_at_once_get_different_addresses(place):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_many, args=(place, results, letter)) for letter in "abcde"]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=200) for _ in range(200)]
    for worker in workers:
        worker.join()
    assert len(dict(found)) == 200
    assert leases.leased(place) == dict(found)


def test_two_who_give_back_do_not_take_it_from_a_third(place):
    """The one who was slow must not remove what has been taken anew meanwhile."""
    for _ in range(200):
        leases.take_this(place, NET, packed("10.1.0.2"), (), "d" * 64)
        with ThreadPoolExecutor(3) as pool:
            droppers = [
                pool.submit(leases.drop_stale, place, lambda owner: owner != "d" * 64) for _ in range(2)
            ]

            def taken_anew():
                while True:
                    try:
                        return leases.take_this(place, NET, packed("10.1.0.2"), (), "e" * 64)
                    except Conflict:
                        pass

            pool.submit(taken_anew).result(timeout=100)
            for dropper in droppers:
                dropper.result(timeout=100)
        assert leases.holder_of(place, packed("10.1.0.2")) == "e" * 64
        leases.give_back(place, packed("10.1.0.2"), "e" * 64)


# -- ports


def published(port=0, host="", protocol="tcp"):
    return Published(protocol, packed(host) if host else b"", port, 80)


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_port_belongs_to_one_container(place):
    port = claims.take(place, published(host="127.0.0.1"), "a" * 64, (4,)).host_port
    wanted = published(port, "127.0.0.1")
    assert claims.take(place, wanted, "a" * 64, (4,)) == wanted
    with pytest.raises(Conflict, match="taken by container aaaaaaaaaaaa"):
        claims.take(place, wanted, "b" * 64, (4,))
    claims.give_back(place, wanted, "b" * 64)
    assert claims.claimed(place) == {f"tcp:{port}:127.0.0.1": "a" * 64}
    claims.give_back(place, wanted, "a" * 64)
    assert claims.claimed(place) == {}


@pytest.mark.parametrize(("first", "second"), [("", "127.0.0.1"), ("127.0.0.1", "")])
def test_every_address_and_one_address_exclude_each_other(place, first, second):
    port = claims.take(place, published(0, first), "a" * 64, (4,)).host_port
    with pytest.raises(Conflict, match="taken by container a"):
        claims.take(place, published(port, second), "b" * 64, (4,))
    assert len(claims.claimed(place)) == 1
    claims.take(place, published(port, second, "udp"), "b" * 64, (4,))  # another protocol's


@pytest.mark.parametrize("other", ["", "0.0.0.0", "127.0.0.1"])
def test_every_address_of_a_family_excludes_all_of_that_family_alone(place, other):
    port = claims.take(place, published(0, "0.0.0.0"), "a" * 64, (4, 16)).host_port
    with pytest.raises(Conflict, match="taken by container a"):
        claims.take(place, published(port, other), "b" * 64, (4, 16))
    claims.take(place, published(port, "::"), "b" * 64, (4, 16))
    assert set(claims.claimed(place)) == {f"tcp:{port}:0.0.0.0", f"tcp:{port}:::"}
    with pytest.raises(Conflict, match="taken by container b"):
        claims.take(place, published(port, "::1"), "c" * 64, (16,))


def test_a_random_port_is_free_in_both_families(place, monkeypatch):
    """The kernel chooses it for one of them; the other one may have somebody there."""
    real = claims._bind
    refused: list[int] = []

    def bind(wanted, family, host, port):
        if family == 16 and not refused:
            refused.append(port)
            raise Conflict("somebody listens")
        return real(wanted, family, host, port)

    monkeypatch.setattr(claims, "_bind", bind)
    assert claims.take(place, published(), "a" * 64, (4, 16)).host_port
    assert refused


def test_a_port_at_which_a_process_listens_is_taken(place):
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(Conflict, match=f"a process of this host listens at 127.0.0.1:{port}"):
            claims.take(place, published(port, "127.0.0.1"), "a" * 64, (4,))
    assert claims.claimed(place) == {}


def test_an_address_that_is_not_this_hosts(place):
    with pytest.raises(InvalidInput, match="no address of this host"):
        claims.take(place, published(free_port(), "192.0.2.250"), "a" * 64, (4,))


def test_claims_of_the_dead_are_given_back(place):
    one = claims.take(place, published(host="127.0.0.1"), "a" * 64, (4,))
    claims.take(place, published(host="127.0.0.1"), "b" * 64, (4,))
    assert claims.drop_stale(place, lambda owner: owner == "b" * 64) == [f"tcp:{one.host_port}:127.0.0.1"]
    assert list(claims.claimed(place).values()) == ["b" * 64]


# -- names


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=64))
def test_names_of_links_fit(name):
    assert 0 < len(bridge_of(name, "0123456789abcdef")) <= 15
    assert len(port_of("a" * 64, 99)) <= 15
    others = [port_of("a" * 64, 99, f"lamina-{store}") for store in ("0123abcd", "0123abce")]
    assert {len(port) for port in others} == {15}
    assert not any(one.startswith(ports_begin(table)) for one, table in zip(
        [*others, others[0]], ["lamina", "lamina-0123abcd", "lamina"], strict=True))  # fmt: skip


def test_whose_a_rule_is_can_be_read_however_long_the_name():
    network = Network("x" * 128, "lam-x", (), (), (), b"", table="lamina-0123abcd")
    place = Attachment("0123456789ab" + "c" * 52, "n" * 128, network, 0, (), b"", "eth0")
    assert len(place.note) <= MOST_COMMENT
    assert place.note.endswith(" 0123456789ab")
    assert place.alias[:255].split()[3] == "0123456789ab"


def test_link_local_addresses():
    assert text_of(link_local(bytes.fromhex("0242ac110002"))) == "fe80::42:acff:fe11:2"


def test_a_subnet_is_a_value():
    assert Subnet(packed("10.0.0.0"), 8) == read_subnet("10.0.0.0/8")
