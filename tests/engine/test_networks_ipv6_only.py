"""Networks without IPv4: addresses, names, ports, policies and isolation, with real packets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import ContainerFailed, InvalidInput
from lamina.network import dns
from support.lab import HOST, HOST6, SILENCE, WORLD6, ip, listen, reaches, seen_by
from support.lives import until
from support.name_servers import lookup
from support.network_host import Host, within
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

SERVE = "while :; do echo hello | nc -l -p 80; done"
SUBNET = "fd00:60::/64"


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """As in test_networks."""
    return lambda test: call_on_host(store_root, test)


def six(host: Host, name: str = "six", **how: Any) -> Any:
    how.setdefault("subnets", [SUBNET])
    return host.engine.networks.create(name, ipv4=False, ipv6=True, **how)


def inside(box: Any, *words: str) -> str:
    return str(box.exec(list(words), capture_output=True, text=True).stdout)


def settings(box: Any, name: str = "six") -> dict[str, Any]:
    found: dict[str, Any] = box.attrs["NetworkSettings"]["Networks"][name]
    return found


def test_a_container_has_no_address_of_ipv4_and_reaches_the_world(on_host):
    def test(host):
        network = six(host)
        assert (network.subnets, network.gateways) == ([SUBNET], ["fd00:60::1"])
        assert (network.attrs["EnableIPv4"], network.attrs["EnableIPv6"]) == (False, True)
        box = host.start("sleep 1000", name="box", network="six")
        other = host.start("sleep 1000", network="six")
        found = settings(box)
        assert (found["IPAddress"], found["IPPrefixLen"], found["Gateway"]) == ("", 0, "")
        assert found["GlobalIPv6Address"] == "fd00:60::2"
        assert (found["GlobalIPv6PrefixLen"], found["IPv6Gateway"]) == (64, "fd00:60::1")
        assert found["MacAddress"] != settings(other)["MacAddress"]
        with within(host, box):
            assert "inet " not in ip("-4", "addr", "show", "dev", "eth0")
            assert ip("-4", "route") == ""
        assert "fd00:60::2\t" in inside(box, "cat", "/etc/hosts")
        with host.inside(host.world):
            server = listen(80, "::")
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(seen_by, server)
            inside(box, "sh", "-c", f"nc {WORLD6} 80 </dev/null")
            assert seen.result() == HOST6, "masqueraded"
        server.close()
        assert host.engine.storage.check().findings == ()

    on_host(test)


def test_containers_find_each_other_by_names_that_mean_no_ipv4(on_host):
    def test(host):
        six(host)
        web = host.start(SERVE, name="web", network="six", network_aliases=["store"])
        box = host.start("sleep 1000", name="box", network="six")
        assert inside(box, "cat", "/etc/resolv.conf").startswith("nameserver fd00:60::1\n")
        until(lambda: "hello" in inside(box, "nc", "web", "80"))
        with within(host, box):
            for tcp in (False, True):
                assert lookup("fd00:60::1", "store", dns.AAAA, tcp=tcp) == (dns.NOERROR, ["fd00:60::2"])
                assert lookup("fd00:60::1", "web", dns.A, tcp=tcp) == (dns.NOERROR, [])
            backwards = ".".join(reversed("fd000060" + "0" * 23 + "2")) + ".ip6.arpa"
            assert lookup("fd00:60::1", backwards, dns.PTR) == (dns.NOERROR, ["web"])
            # under an address that is good on the link alone it is a stranger, and nobody is disturbed
            own = until(lambda: ip("-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative"))
            address = next(one for one in own.split() if one.startswith("fe80")).partition("/")[0]
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
                stranger.bind((address, 0, 0, socket.if_nametoindex("eth0")))
                stranger.settimeout(SILENCE)
                stranger.sendto(dns.ask("web", dns.AAAA, 78), ("fd00:60::1", 53))
                with pytest.raises(TimeoutError):
                    stranger.recv(512)
            assert lookup("fd00:60::1", "web", dns.AAAA) == (dns.NOERROR, ["fd00:60::2"])
        web.remove(force=True)
        with within(host, box):
            assert lookup("fd00:60::1", "web", dns.AAAA, patience=100.0)[1] == []

    on_host(test)


def test_ports_are_published_of_ipv6_alone(on_host):
    def test(host):
        network = six(host)
        box = host.start(SERVE, name="box", network="six", publish=["8080:80", f"[{HOST6}]:8081:80"])
        assert box.ports == {"80/tcp": ["[::]:8080", f"[{HOST6}]:8081"]}
        with host.inside(host.world):
            until(lambda: reaches(HOST6, 8080))
            until(lambda: reaches(HOST6, 8081))
        until(lambda: reaches(HOST6, 8080))
        until(lambda: reaches("fd00:60::1", 8080))
        until(lambda: "hello" in inside(box, "nc", HOST6, "8080"))  # its own, by this host's address
        for nowhere in ("127.0.0.1", HOST, "::1"):
            assert not reaches(nowhere, 8080, SILENCE), nowhere
        assert Path(f"/proc/sys/net/ipv4/conf/{network.bridge}/route_localnet").read_text() == "0\n"
        for wrong in ("127.0.0.1:8082:80", "0.0.0.0:8082:80"):
            with pytest.raises(InvalidInput, match="network six has no addresses of that family") as caught:
                host.run("true", network="six", publish=[wrong])
            assert "with IPv4" in caught.value.remedy
        box.remove(force=True)
        assert host.left() == []

    on_host(test)


def test_nothing_of_ipv4_leaves_it_and_networks_are_apart(on_host):
    def test(host):
        six(host)
        six(host, "other", subnets=["fd00:61::/64"])
        inner = six(host, "inner", subnets=["fd00:62::/64"], internal=True)
        web = host.start(SERVE, network="six")
        stranger = host.start("sleep 1000", network="other", cap_add=["NET_ADMIN"])
        neighbour = host.start("sleep 1000", network="six")
        address = settings(web)["GlobalIPv6Address"]
        until(lambda: "hello" in inside(neighbour, "nc", address, "80"))
        with pytest.raises(ContainerFailed):
            stranger.exec(["nc", "-w", "1", address, "80"], check=True)
        with within(host, stranger):
            ip("addr", "add", "10.99.0.2/24", "dev", "eth0")  # an address that nobody gave it
            ip("route", "add", "default", "via", "10.99.0.1", "onlink", "dev", "eth0")
        ip("addr", "add", "10.99.0.1/24", "dev", host.engine.networks.get("other").bridge)
        server = listen(90)
        with within(host, stranger):
            assert not reaches("10.99.0.1", 90, SILENCE)
            assert not reaches(HOST, 90, SILENCE)
        server.close()
        dark = host.start("sleep 1000", network=inner.name)
        with within(host, dark):
            assert ip("-6", "route", "show", "default") == ""

    on_host(test)


def test_what_it_may_reach_and_what_was_dropped(on_host):
    def test(host):
        six(host)
        web = host.start(SERVE, name="web", network="six")
        box = host.start("sleep 1000", name="box", network="six", egress=f"allow=web:80,[{WORLD6}]:81")
        with host.inside(host.world):
            servers = [listen(port, "::") for port in (81, 82)]
        until(lambda: "hello" in inside(box, "nc", "web", "80"))
        with within(host, box):
            assert lookup("fd00:60::1", "elsewhere.example", dns.AAAA) == (dns.REFUSED, [])
            assert reaches(WORLD6, 81)
            assert not reaches(WORLD6, 82, SILENCE)
        for server in servers:
            server.close()
        dropped = lambda: [  # noqa: E731
            (one.attributes["destination"], one.attributes.get("port"))
            for one in host.engine.events(since=0, until=time.time(), filters={"event": ["egress-drop"]})
        ]
        until(lambda: (WORLD6, "82") in dropped())
        assert web.state == "running"

    on_host(test)


def test_a_second_network_with_ipv4_and_back(on_host):
    """It leads there by IPv4, and by IPv6 where it did."""

    def test(host):
        network = six(host)
        four = host.engine.networks.create("four", subnets=["10.51.0.0/24"])
        box = host.start("sleep 1000", name="box", network="six")
        four.connect("box")
        with within(host, box):
            assert "via 10.51.0.1 dev eth1" in ip("-4", "route", "show", "default")
            assert "via fd00:60::1 dev eth0" in ip("-6", "route", "show", "default")
        four.disconnect("box")
        with within(host, box):
            assert ip("-4", "route") == ""
        network.disconnect("box")
        network.connect("box", ip6="fd00:60::77", mac_address="02:00:00:00:00:77")
        assert settings(box)["GlobalIPv6Address"] == "fd00:60::77"
        box.restart(timeout=0)
        assert settings(box)["MacAddress"] == "02:00:00:00:00:77"
        assert host.engine.storage.check().findings == ()

    on_host(test)


def test_one_by_itself_and_what_contradicts_it(on_host):
    def test(host):
        known = host.engine.networks
        made = known.create("made", ipv4=False, ipv6=True)
        [subnet] = made.subnets
        assert subnet.startswith("fd")
        assert subnet.endswith("::/64")
        assert host.run("cat", "/etc/hosts", network="made").count(subnet.removesuffix("/64")) == 1
        for wrong, said in (
            ({"ipv4": False}, "neither IPv4 nor IPv6"),
            (
                {"ipv4": False, "ipv6": True, "subnets": ["10.5.0.0/24"]},
                "a subnet of IPv4, which it does not have",
            ),
            ({"ipv4": False, "ipv6": True, "gateways": ["10.5.0.1"]}, "a gateway of IPv4"),
            ({"ipv4": False, "ipv6": True, "ranges": ["10.5.0.0/25"]}, "a range of IPv4"),
            ({"gateways": ["fd00::1"]}, "a gateway of IPv6"),
            (
                {"subnets": ["10.5.0.0/24"], "gateways": ["10.5.0.1", "10.5.0.2"]},
                "two gateways of one family",
            ),
            ({"ipv4": False, "ipv6": True, "options": {"mtu": "1000"}}, "mtu"),
        ):
            with pytest.raises(InvalidInput, match=said):
                known.create("wrong", **wrong)
        with pytest.raises(InvalidInput, match="no subnet of its family"):
            host.run("true", network="made", ip="10.5.0.7")
        assert [one.name for one in known.list()] == ["made"]
        # an IPv6 subnet of its own says enough
        assert known.create("plain", ipv4=False, subnets=["fd00:63::/120"]).gateways == ["fd00:63::1"]

    on_host(test)


def test_without_names_it_has_servers_that_it_can_reach(on_host):
    def test(host):
        six(host, options={"dns": "false"})
        found = host.run("cat", "/etc/resolv.conf", network="six")
        servers = [line.split()[1] for line in found.splitlines() if line.startswith("nameserver")]
        assert servers
        assert all(":" in server for server in servers)
        asked = host.run("cat", "/etc/resolv.conf", network="six", dns=["192.0.2.9"])
        assert "nameserver 192.0.2.9\n" in asked

    on_host(test)


def test_one_on_the_wire_of_a_link(on_host):
    def test(host):
        wire = host.engine.networks.create(
            "wire", driver="macvlan", ipv4=False, subnets=["2001:db8::/64"], gateways=[WORLD6],
            ranges=["2001:db8::100/120"], options={"parent": "up0"},
        )  # fmt: skip
        assert wire.subnets == ["2001:db8::/64"]
        box = host.start(SERVE, name="box", network="wire")
        address = settings(box, "wire")["GlobalIPv6Address"]
        assert address == "2001:db8::100"
        with host.inside(host.world):
            until(lambda: reaches(address, 80))

    on_host(test)
