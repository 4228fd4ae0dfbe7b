"""What can be reached and what cannot, with real packets between network namespaces."""

from __future__ import annotations

import socket

import pytest

from lamina.network import forwarding
from support.lab import HOST, HOST6, SILENCE, WORLD, WORLD6, in_lab, ip, listen, publish, reaches, seen_by

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]

V6 = "fd00:88::/64"


def test_a_container_reaches_the_world_under_the_hosts_address():
    def test(lab):
        box = lab.container(lab.network("one", subnet6=V6), "web")
        with lab.inside(lab.world):
            four, six = listen(80), listen(81, WORLD6)
        with lab.inside(box):
            assert reaches(WORLD, 80)
            assert reaches(WORLD6, 81)
        assert seen_by(four) == HOST
        assert seen_by(six) == HOST6

    in_lab(test)


def test_neighbours_of_a_network_reach_each_other_under_their_own_addresses():
    def test(lab):
        network = lab.network("one", subnet6=V6)
        one, two = lab.container(network, "a"), lab.container(network, "b")
        with lab.inside(one):
            server, six = listen(80), listen(81, "::")
        with lab.inside(two):
            assert reaches(one.v4, 80)
            assert reaches(one.v6, 81)
        assert seen_by(server) == two.v4
        assert seen_by(six) == two.v6

    in_lab(test)


def test_a_container_reaches_no_container_of_another_network():
    def test(lab):
        one = lab.container(lab.network("one", subnet6=V6), "a")
        two = lab.container(lab.network("two", "10.89.0.0/24", "fd00:89::/64"), "b")
        with lab.inside(one):
            servers = [listen(80), listen(81, "::")]
        with lab.inside(two):
            assert not reaches(one.v4, 80, SILENCE)
            assert not reaches(one.v6, 81, SILENCE)
        assert reaches(one.v4, 80)  # the host does
        del servers

    in_lab(test)


def test_nobody_outside_reaches_a_port_that_is_not_published():
    def test(lab):
        one = lab.container(lab.network("one", subnet6=V6), "a")
        with lab.inside(one):
            servers = [listen(80), listen(81, "::")]
        with lab.inside(lab.world):
            ip("route", "add", "10.88.0.0/16", "via", HOST)
            ip("route", "add", V6, "via", HOST6)
            assert not reaches(one.v4, 80, SILENCE)
            assert not reaches(one.v6, 81, SILENCE)
        del servers

    in_lab(test)


def test_a_published_port_is_reached_from_everywhere():
    def test(lab):
        network, other = lab.network("one", subnet6=V6), lab.network("two", "10.89.0.0/24")
        web = lab.container(network, "web", publish(80, 8080))
        forwarding.route_loopback(network)
        neighbour, stranger = lab.container(network, "b"), lab.container(other, "c")
        with lab.inside(web):
            four, six = listen(80), listen(80, web.v6)
        with lab.inside(lab.world):
            assert reaches(HOST, 8080)
            assert reaches(HOST6, 8080)
        assert seen_by(four) == WORLD
        assert seen_by(six) == WORLD6
        assert reaches("127.0.0.1", 8080)
        assert reaches(HOST, 8080)
        with lab.inside(neighbour):
            assert reaches(HOST, 8080)
        with lab.inside(stranger):
            assert reaches(HOST, 8080)
        with lab.inside(web):  # its own, by the host's address
            assert reaches(HOST, 8080)

    in_lab(test)


def test_a_port_published_at_one_address_is_not_reached_at_another():
    def test(lab):
        network = lab.network("one")
        web = lab.container(network, "web", publish(80, 8080, "127.0.0.1"), publish(80, 8081, HOST))
        forwarding.route_loopback(network)
        with lab.inside(web):
            server = listen(80)
        with lab.inside(lab.world):
            assert not reaches(HOST, 8080, SILENCE)
            assert reaches(HOST, 8081)
        assert reaches("127.0.0.1", 8080)
        assert not reaches("127.0.0.1", 8081, SILENCE)
        del server

    in_lab(test)


def test_udp_is_published_and_answered():
    def test(lab):
        web = lab.container(lab.network("one"), "web", publish(53, 5353, protocol="udp"))
        with lab.inside(web):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("0.0.0.0", 53))
            server.settimeout(60)
        with lab.inside(lab.world):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            client.settimeout(60)
            client.sendto(b"who", (HOST, 5353))
        said, where = server.recvfrom(64)
        server.sendto(b"me", where)
        assert (said, client.recvfrom(64)) == (b"who", (b"me", (HOST, 5353)))

    in_lab(test)


def test_an_internal_network_leads_nowhere():
    def test(lab):
        network = lab.network("inner", internal=True)
        one, two = lab.container(network, "a"), lab.container(network, "b")
        with lab.inside(lab.world):
            server = listen(80)
        with lab.inside(one):
            near = listen(80)
            ip("route", "add", "default", "via", "10.88.0.1")  # it has none of its own
            assert not reaches(WORLD, 80, SILENCE)
        with lab.inside(two):
            assert reaches(one.v4, 80)
        del server, near

    in_lab(test)
