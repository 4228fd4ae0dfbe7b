"""Packets of which the rules are not to see what they are: in pieces, and behind extension headers."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from lamina.linux.netlink import open_channel
from lamina.linux.rtnetlink import links
from lamina.network import egress, firewall
from lamina.network.model import link_local
from lamina.network.subnet import packed, text_of
from support.frames import (
    IPV4,
    IPV6,
    NO_MORE_ROUTE,
    NOTHING_FOR_TARGET,
    NOTHING_PER_HOP,
    ROUTER_ALERT,
    WHOLE_FRAGMENT,
    disguised,
    fragments,
    frame,
    icmpv6,
    udp4,
    udp6,
)
from support.lab import HOST, HOST6, WORLD, WORLD6, Box, Lab, heard, in_lab, ip, raw
from support.lives import until

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]

V6 = "fd00:88::/64"
OPEN, CLOSED = 7, 9
LONG = b"x" * 64
DISGUISES = [
    (NOTHING_PER_HOP,), (NOTHING_FOR_TARGET,), (NO_MORE_ROUTE,), (WHOLE_FRAGMENT,),
    (NOTHING_PER_HOP, NOTHING_FOR_TARGET, NO_MORE_ROUTE, WHOLE_FRAGMENT, NOTHING_FOR_TARGET),
    tuple([NOTHING_FOR_TARGET] * 40),
]  # fmt: skip


def bridge_mac() -> bytes:
    with open_channel() as channel:
        return links(channel, name="lam-one")[0].address


@contextmanager
def ears(lab: Lab, box: Box | None, port: int) -> Iterator[list[socket.socket]]:
    """Sockets of UDP of *box*, or of this host, in both families."""
    with ExitStack() as opened:
        if box is not None:
            opened.enter_context(lab.inside(box))
        found = []
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            one = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((host, port))
            found.append(one)
    try:
        yield found
    finally:
        for one in found:
            one.close()


def test_a_limited_container_gets_nothing_past_in_pieces_or_behind_headers() -> None:
    """To a neighbour, to this host and to the world: what is open arrives so, what is not does not."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6=V6)
        free = lab.container(network, "free")
        allowed = ",".join(
            f"{one}:{OPEN}" for one in (f"[{free.v6}]", free.v4, HOST, f"[{HOST6}]", WORLD, f"[{WORLD6}]")
        )
        box = lab.container(network, "box", egress=f"allow={allowed}")
        places: list[tuple[Box | None, bytes, str, str]] = [
            (free, free.mac, free.v4, free.v6), (None, bridge_mac(), HOST, HOST6),
            (lab.world, bridge_mac(), WORLD, WORLD6),
        ]  # fmt: skip
        with lab.inside(lab.world):
            ip("route", "add", "default", "via", HOST)
        with lab.inside(box):  # addresses of links are known, for none of this waits for them
            for where in (WORLD, WORLD6):
                with socket.socket(
                    socket.AF_INET6 if ":" in where else socket.AF_INET, socket.SOCK_DGRAM
                ) as one:
                    one.sendto(b"x", (where, OPEN))
        for place, mac, four, six in places:
            with ears(lab, place, CLOSED) as closed, ears(lab, place, OPEN) as opened:
                with lab.inside(box):
                    for port in (CLOSED, OPEN):
                        whole4, whole6 = udp4(box.v4, four, LONG, port), udp6(box.v6, six, LONG, port)
                        every = [(IPV4, one) for first in (8, 16, 24) for one in fragments(whole4, first)]
                        every += [(IPV6, one) for first in (8, 16, 24) for one in fragments(whole6, first)]
                        every += [(IPV6, disguised(whole6, *headers)) for headers in DISGUISES]
                        # the ports of the first piece are open; the second one says others once more
                        head, _ = fragments(udp4(box.v4, four, LONG, OPEN), 8)
                        _, again = fragments(udp4(box.v4, four, LONG, CLOSED), 8)
                        every += [(IPV4, head), (IPV4, again[:6] + b"\x20\x00" + again[8:])]
                        for kind, packet in every:
                            raw(frame(mac, box.mac, kind, packet))
                    raw(frame(mac, box.mac, IPV4, udp4(box.v4, four, b"last", OPEN)))
                    raw(frame(mac, box.mac, IPV6, udp6(box.v6, six, b"last", OPEN)))
                for ear in opened:
                    until(lambda: ear.recv(4096) == b"last")  # noqa: B023
                for ear in closed:
                    assert not heard(ear), (place, ear)

    in_lab(test)


def test_nobody_poses_as_another_or_as_a_router_in_pieces_or_behind_headers() -> None:
    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6=V6)
        victim, attacker = lab.container(network, "victim"), lab.container(network, "attacker")
        own, mac_of_bridge = link_local(attacker.mac), bridge_mac()
        # that the victim is at the attacker's MAC, and that this is a router
        option = b"\x02\x01" + attacker.mac
        advert = icmpv6(own, packed("ff02::1"), 136, b"\x20\0\0\0" + packed(victim.v6) + option)
        prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + packed("2001:db8:bad::")
        router = icmpv6(own, packed("ff02::1"), 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix)
        group = b"\x33\x33\0\0\0\x01"
        with lab.inside(victim):
            ip("-6", "route", "flush", "default")
        with lab.inside(attacker):
            for packet in (advert, router):
                every = [disguised(packet, *headers) for headers in DISGUISES]
                every += [one for first in (8, 16) for one in fragments(packet, first)]
                late = disguised(packet, NOTHING_FOR_TARGET)
                every += fragments(late, 8)  # what it is comes in the second piece alone
                for one in every:
                    raw(frame(group, attacker.mac, IPV6, one))
        # who sends in another's name is not heard
        with closing(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as ear:
            ear.bind(("::", CLOSED))
            with lab.inside(attacker):
                for headers in DISGUISES:
                    raw(
                        frame(
                            mac_of_bridge,
                            attacker.mac,
                            IPV6,
                            disguised(udp6(victim.v6, "fd00:88::1"), *headers),
                        )
                    )
                raw(frame(mac_of_bridge, attacker.mac, IPV6, udp6(attacker.v6, "fd00:88::1", b"last")))
            assert ear.recvfrom(64)[1][0] == attacker.v6
            assert not heard(ear)
        assert attacker.mac.hex(":") not in ip("-6", "neigh", "show", victim.v6)
        for box in (None, victim):
            with lab.inside(box) if box else ExitStack():
                assert "2001:db8:bad" not in ip("-6", "addr") + ip("-6", "route")
                assert text_of(own) not in ip("-6", "route", "show", "default")

    in_lab(test)


def test_what_a_kernel_says_of_its_multicast_groups_is_not_counted_as_dropped() -> None:
    """Nobody has tried anything. What goes elsewhere under that name is."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6=V6)
        free = lab.container(network, "free")
        box = lab.container(network, "box", egress="deny")
        own, mac_of_bridge = link_local(box.mac), bridge_mac()
        groups = [packed(text) for text in ("ff02::16", "ff02::2", "ff02::1:ff00:9")]
        with lab.inside(box):
            # the kernel's own
            member = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            index = socket.if_nametoindex("eth0")
            member.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed("ff02::7777") + struct.pack("@I", index)
            )
            for group in groups:
                for kind in (131, 132, 143):
                    for source in (own, packed(box.v6)):
                        report = icmpv6(source, group, kind, bytes(4) + packed("ff02::9"))
                        for packet in (report, disguised(report, ROUTER_ALERT)):
                            raw(frame(b"\x33\x33" + group[-4:], box.mac, IPV6, packet))
            for target, mac in ((free.v6, free.mac), ("fd00:88::1", mac_of_bridge)):
                raw(frame(mac, box.mac, IPV6, icmpv6(packed(box.v6), packed(target), 143, bytes(4))))
            member.close()
        counted: list[str] = []

        def are_counted() -> bool:
            counted.extend(
                text_of(egress.where(one)[1]) for one in firewall.take_counted("lamina", lambda _: True)
            )
            return {free.v6, "fd00:88::1"} <= set(counted)

        until(are_counted)
        assert set(counted) == {free.v6, "fd00:88::1"}

    in_lab(test)
