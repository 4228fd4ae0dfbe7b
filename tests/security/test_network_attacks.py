"""What a container with CAP_NET_RAW may try on our bridges: each with real frames."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import closing, suppress

import pytest

from lamina.linux.netlink import open_channel
from lamina.linux.rtnetlink import links
from lamina.network import forwarding, rules
from lamina.network.model import Network, link_local
from lamina.network.subnet import packed, text_of
from support.frames import ARP, IPV4, IPV6, checksum, frame, icmpv6, udp4
from support.lab import (
    HOST,
    SILENCE,
    WORLD,
    Box,
    Lab,
    arrives,
    heard,
    hears,
    in_lab,
    ip,
    listen,
    publish,
    raw,
    reaches,
    seen_by,
)
from support.lives import until

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]

V6 = "fd00:88::/64"
ALL = b"\xff" * 6
SO_RCVBUFFORCE = 33


def three(lab: Lab) -> tuple[Network, Box, Box, bytes]:
    """A network of a victim and an attacker, and the MAC of its bridge."""
    network = lab.network("one", subnet6=V6)
    victim, attacker = lab.container(network, "victim", publish(80, 8080)), lab.container(network, "attacker")
    with open_channel() as channel:
        mac = links(channel, name="lam-one")[0].address
    return network, victim, attacker, mac


def test_a_container_cannot_send_under_anothers_address() -> None:
    def test(lab: Lab) -> None:
        _network, victim, attacker, bridge = three(lab)
        own, others = attacker.mac, victim.mac
        with (
            closing(hears(lab, victim)) as at_victim,
            closing(hears(lab, None)) as at_host,
            lab.inside(attacker),
        ):
            raw(frame(others, own, IPV4, udp4(attacker.v4, victim.v4)))
            assert arrives(at_victim), "what is true arrives"
            for source in ("10.88.0.1", "10.88.0.77", "127.0.0.1", "192.0.2.2"):
                raw(frame(others, own, IPV4, udp4(source, victim.v4)))
            assert not heard(at_victim)
            raw(frame(bridge, own, IPV4, udp4(victim.v4, HOST)))
            assert not heard(at_host)
            raw(frame(bridge, own, IPV4, udp4(attacker.v4, HOST)))
            assert arrives(at_host)

    in_lab(test)


def test_a_container_cannot_send_under_anothers_mac() -> None:
    def test(lab: Lab) -> None:
        _network, victim, attacker, bridge = three(lab)
        with closing(hears(lab, None)) as at_host, lab.inside(attacker):
            raw(frame(bridge, victim.mac, IPV4, udp4(attacker.v4, HOST)))
            raw(frame(bridge, bridge, IPV4, udp4(attacker.v4, HOST)))
            raw(frame(bridge, b"\x02\x00\x00\x00\x00\x77", IPV4, udp4(attacker.v4, HOST)))
            assert not heard(at_host)

    in_lab(test)


def test_a_container_cannot_pose_as_another_by_arp() -> None:
    def test(lab: Lab) -> None:
        _network, victim, attacker, _bridge = three(lab)
        own = attacker.mac
        for claimed in (victim.v4, "10.88.0.1"):
            for mac in (own, victim.mac):
                body = (
                    struct.pack("!HHBBH", 1, IPV4, 6, 4, 2)
                    + mac
                    + packed(claimed)
                    + ALL
                    + packed("10.88.0.1")
                )
                with lab.inside(attacker):
                    raw(frame(ALL, own, ARP, body))
        assert reaches(victim.v4, 1) is False  # it asks for the victim's MAC
        assert victim.mac.hex(":") in ip("neigh", "show", victim.v4)
        with lab.inside(victim):
            assert not reaches("10.88.0.1", 1)  # it asks for the gateway's
            assert own.hex(":") not in ip("neigh", "show", "10.88.0.1")

    in_lab(test)


def test_a_container_cannot_pose_as_another_by_neighbour_discovery() -> None:
    def test(lab: Lab) -> None:
        _network, victim, attacker, _bridge = three(lab)
        own = attacker.mac
        local = link_local(own)
        option = struct.pack("!BB", 2, 1) + own
        all_nodes = packed("ff02::1")
        assert not reaches(victim.v6, 1)  # the host knows the victim now
        assert victim.mac.hex(":") in ip("-6", "neigh")
        for source in (local, packed(victim.v6)):
            rest = struct.pack("!I", 0x20000000) + packed(victim.v6) + option
            with lab.inside(attacker):
                raw(frame(b"\x33\x33\x00\x00\x00\x01", own, IPV6, icmpv6(source, all_nodes, 136, rest)))
        assert own.hex(":") not in ip("-6", "neigh", "show", victim.v6)

    in_lab(test)


def test_a_container_cannot_keep_another_from_its_address() -> None:
    """Who asks from no address for one that somebody is about to take says that he takes it too (RFC 4862, 5.4.3)."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6=V6)
        attacker = lab.container(network, "attacker")
        victim = lab.container(network, "victim")
        wanted = link_local(victim.mac)
        group = packed("ff02::1:ff00:0")[:13] + wanted[13:]
        probe = frame(b"\x33\x33" + group[12:], attacker.mac, IPV6,
                      icmpv6(bytes(16), group, 135, bytes(4) + wanted))  # fmt: skip
        own = link_local(attacker.mac)
        shown = "tentative"
        while "tentative" in shown and "dadfailed" not in shown:
            with lab.inside(attacker):
                raw(probe)
            with lab.inside(victim):
                shown = ip("-6", "addr", "show", "dev", "eth0", "scope", "link")
        assert "dadfailed" not in shown
        with lab.inside(attacker):  # its own questions of this kind have passed
            until(lambda: "tentative" not in ip("-6", "addr", "show", "dev", "eth0", "scope", "link"))
            assert text_of(own) in ip("-6", "addr", "show", "dev", "eth0", "scope", "link")

    in_lab(test)


def test_nobody_takes_routers_and_routes_from_a_container() -> None:
    def test(lab: Lab) -> None:
        _network, victim, attacker, _bridge = three(lab)
        own = attacker.mac
        prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 86400, 0) + packed("2001:db8:bad::")
        advertisement = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix
        with lab.inside(attacker):
            raw(frame(b"\x33\x33\x00\x00\x00\x01", own, IPV6,
                      icmpv6(link_local(own), packed("ff02::1"), 134, advertisement)))  # fmt: skip
        for place in (None, victim):
            if place is None:
                assert "2001:db8:bad" not in ip("-6", "addr") + ip("-6", "route")
            else:
                with lab.inside(place):
                    assert "2001:db8:bad" not in ip("-6", "addr") + ip("-6", "route")
        for setting in ("accept_redirects", "secure_redirects", "send_redirects"):
            assert forwarding.read(f"ipv4/conf/lam-one/{setting}") == "0"
        for setting in ("accept_ra", "accept_redirects"):
            assert forwarding.read(f"ipv6/conf/lam-one/{setting}") == "0"

    in_lab(test)


def test_nobody_follows_a_redirect_of_a_container() -> None:
    """ICMP redirects (RFC 792), under its own address and under the gateway's, to the host and to a neighbour."""

    def redirect(source: str, target: str, by: str) -> bytes:
        told = udp4(target, WORLD)[:28]  # begins as a packet that the target has sent
        body = struct.pack("!BBH4s", 5, 1, 0, packed(by)) + told
        body = struct.pack("!BBH4s", 5, 1, checksum(body), packed(by)) + told
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0, packed(source), packed(target)
        )
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

    def test(lab: Lab) -> None:
        _network, victim, attacker, bridge = three(lab)
        with lab.inside(victim):
            assert not reaches(WORLD, 1, SILENCE)  # it has a route that could be changed
        with lab.inside(attacker):
            for source in (attacker.v4, "10.88.0.1"):
                raw(frame(victim.mac, attacker.mac, IPV4, redirect(source, victim.v4, attacker.v4)))
                for target in ("10.88.0.1", HOST):
                    raw(frame(bridge, attacker.mac, IPV4, redirect(source, target, attacker.v4)))
        for place in (victim, None):
            if place is None:
                shown = ip("route", "get", WORLD)
            else:
                with lab.inside(place):
                    shown = ip("route", "get", WORLD)
                    assert "via 10.88.0.1" in shown
            assert attacker.v4 not in shown.replace(f"src {attacker.v4}", "")
            assert "redirected" not in shown

    in_lab(test)


def test_a_container_reaches_nothing_that_listens_on_the_hosts_loopback() -> None:
    def test(lab: Lab) -> None:
        network, _victim, attacker, bridge = three(lab)
        forwarding.route_loopback(network)  # as with a published port: else the kernel drops it by itself
        own = attacker.mac
        with closing(hears(lab, None)) as at_host, lab.inside(attacker):
            raw(frame(bridge, own, IPV4, udp4(attacker.v4, "127.0.0.1")))
            raw(frame(bridge, own, IPV4, udp4("127.0.0.1", "127.0.0.1")))
            assert not heard(at_host)
        server = listen(7777, "127.0.0.1")
        with lab.inside(attacker):
            ip("route", "add", "local", "127.0.0.0/8", "dev", "lo", "table", "99")
            ip("addr", "del", "127.0.0.1/8", "dev", "lo")
            ip("route", "add", "127.0.0.1/32", "via", "10.88.0.1")
            assert not reaches("127.0.0.1", 7777, SILENCE)
        server.close()

    in_lab(test)


def test_other_protocols_do_not_pass() -> None:
    """What is neither IP nor ARP has no address that could be its own: VLAN tags, spanning tree, LLDP."""

    def test(lab: Lab) -> None:
        _network, victim, attacker, _bridge = three(lab)
        own = attacker.mac
        with lab.inside(victim):
            sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sniffer.bind(("eth0", 3))
            sniffer.settimeout(SILENCE)
        tagged = struct.pack("!HH", 7, IPV4) + udp4(victim.v4, victim.v4)
        with lab.inside(attacker):
            raw(frame(victim.mac, own, 0x8100, tagged))
            raw(frame(ALL, own, 0x88CC, bytes(50)))
        received = []
        with pytest.raises(TimeoutError):
            while True:
                received.append(sniffer.recv(2048))
        sniffer.close()
        assert not [one for one in received if one[12:14] in (b"\x81\x00", b"\x88\xcc")]

    in_lab(test)


def test_the_host_does_not_forward_for_strangers_into_a_network() -> None:
    def test(lab: Lab) -> None:
        _network, victim, _attacker, _bridge = three(lab)
        with lab.inside(victim):
            server = listen(81)
        with lab.inside(lab.world):
            ip("route", "add", "10.88.0.0/16", "via", HOST)
            assert not reaches(victim.v4, 81, SILENCE)
        server.close()

    in_lab(test)


def test_a_port_published_to_the_loopback_is_not_for_the_neighbours_of_the_host() -> None:
    """A machine on the same wire sends what is for 127.0.0.1 to the host's MAC (moby 28.0.0, issue 45610): where the
    port is translated before the kernel sees that such a packet cannot be, it arrives in the container.
    """

    def test(lab: Lab) -> None:
        network = lab.network("one")
        web = lab.container(network, "web", publish(9, 8081, "127.0.0.1", "udp"))
        forwarding.route_loopback(network)
        host_mac = bytes.fromhex(ip("-br", "link", "show", "up0").split()[2].replace(":", ""))
        with lab.inside(lab.world):
            own = bytes.fromhex(ip("-br", "link", "show", "eth0").split()[2].replace(":", ""))
        with closing(hears(lab, web)) as at_web, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            with lab.inside(lab.world):
                for target in ("127.0.0.1", "127.0.0.2"):
                    raw(frame(host_mac, own, IPV4, udp4(WORLD, target, port=8081)))
            assert not heard(at_web)
            sender.sendto(b"own", ("127.0.0.1", 8081))
            assert arrives(at_web), "it is the host's own"

    in_lab(test)


def test_who_publishes_port_53_does_not_get_the_questions_of_others() -> None:
    """They are for who answers for names on their bridge, though a port of "every address" is one of the bridge too."""

    def test(lab: Lab) -> None:
        network = lab.network("one", names=b"/nowhere")
        box = lab.container(network, "server", publish(53, 53), publish(53, 53, protocol="udp"))
        asking = lab.container(network, "asking")
        with lab.inside(box):
            theirs = listen(53)
        own = listen(53, "10.88.0.1")
        with lab.inside(asking):
            assert reaches("10.88.0.1", 53)
            assert reaches(HOST, 53)
        with lab.inside(lab.world):
            assert reaches(HOST, 53)
        for server, connections in ((own, 1), (theirs, 2)):
            for _ in range(connections):  # who connects may know it a moment before who listens
                seen_by(server)
            server.settimeout(SILENCE)
            with pytest.raises(TimeoutError):
                server.accept()
        for one in (own, theirs):
            one.close()

    in_lab(test)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_who_floods_the_server_of_names_does_not_fill_its_queue(family: socket.AddressFamily) -> None:
    """All containers of a network ask one socket; what the kernel has no room for in it is lost, whoever sent it."""

    def test(lab: Lab) -> None:
        subnet = "10.88.0.0/16" if family == socket.AF_INET else "fd00:88::/64"
        network = lab.network("one", subnet, names=b"/nowhere")
        attacker, other = lab.container(network, "attacker"), lab.container(network, "other")
        gateway = text_of(network.gateways[0])
        flooding, asking = (text_of(one.attachment.addresses[0]) for one in lab.boxes if one.attachment)
        senders = []
        for box in (attacker, other):
            with lab.inside(box):
                senders.append(socket.socket(family, socket.SOCK_DGRAM))
                senders[-1].connect((gateway, 53))
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as server:
            server.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            server.bind((gateway, 53))
            server.setblocking(False)
            begin, sent, heard_of = time.monotonic(), 0, {flooding: 0, asking: 0}
            while sent < 3000 or sent == heard_of[flooding]:  # until there was more than may be
                for _ in range(1000):
                    senders[0].send(b"flood")
                senders[1].send(b"a question")
                sent += 1000
                assert sent < 1_000_000, "nothing was too much"
                with suppress(BlockingIOError):
                    while True:
                        heard_of[server.recvfrom(64)[1][0]] += 1
            took = time.monotonic() - begin
        assert heard_of[flooding] <= rules.MOST_QUESTIONS_AT_ONCE + rules.MOST_QUESTIONS * took + 1
        assert heard_of[flooding] >= rules.MOST_QUESTIONS_AT_ONCE
        assert heard_of[asking] == sent // 1000
        for one in senders:
            one.close()

    in_lab(test)


def test_containers_of_two_stores_live_beside_each_other() -> None:
    """Each store's table sees the packets of the other's containers as well, and knows nothing of them."""

    def test(lab: Lab) -> None:
        first = lab.network("one")
        second = lab.network("two", subnet="10.89.0.0/16", table="lamina-other")
        a, b = lab.container(first, "a"), lab.container(second, "b")
        with lab.inside(lab.world):
            server = listen(80)
        for box in (a, b):
            with lab.inside(box):
                assert reaches(WORLD, 80)
        server.close()

    in_lab(test)


def test_the_rules_cannot_be_changed_from_inside() -> None:
    """A network namespace has tables of its own: what a container with CAP_NET_ADMIN sees is not ours."""
    from lamina.linux.nftables import open_nftables, tables

    def test(lab: Lab) -> None:
        _network, _victim, attacker, _bridge = three(lab)
        with lab.inside(attacker), open_nftables() as channel:
            assert tables(channel) == []

    in_lab(test)
