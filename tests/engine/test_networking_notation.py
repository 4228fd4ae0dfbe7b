"""Docker's notation for networks, and what /etc/hosts and /etc/resolv.conf come to: without a container."""

from __future__ import annotations

import json

import pytest

from lamina.engine import name_files
from lamina.engine.checking import check_options
from lamina.engine.keeping import options_of, options_record
from lamina.engine.network_record import Ledger
from lamina.engine.networking import (
    Joined,
    Networking,
    joined_by,
    read_host,
    read_mac,
)
from lamina.engine.publishing import exposed_ones, read_exposed, read_publish
from lamina.errors import Conflict, Corrupt, InvalidInput
from lamina.network.model import Attachment, Network, Published, mac_of
from lamina.network.subnet import packed, read_subnet
from lamina.store.containers import Home
from lamina.store.root import Store
from lamina.values import replace


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80", [("tcp", "", 0, 80)]),
        ("8080:80", [("tcp", "", 8080, 80)]),
        ("8080:80/UDP", [("udp", "", 8080, 80)]),
        ("127.0.0.1:8080:80", [("tcp", "127.0.0.1", 8080, 80)]),
        ("127.0.0.1::80", [("tcp", "127.0.0.1", 0, 80)]),
        ("0.0.0.0:1:2", [("tcp", "0.0.0.0", 1, 2)]),
        ("[::1]:8080:80/sctp", [("sctp", "::1", 8080, 80)]),
        ("[::]:8080:80", [("tcp", "::", 8080, 80)]),
        ("8080-8081:80-81", [("tcp", "", 8080, 80), ("tcp", "", 8081, 81)]),
        ("8080-8090:80", [("tcp", "", 8080, 80, 8090)]),
        ("127.0.0.1:53-54:53/udp", [("udp", "127.0.0.1", 53, 53, 54)]),
        ("90-91", [("tcp", "", 0, 90), ("tcp", "", 0, 91)]),
    ],
)
def test_ports(text, wanted):
    assert read_publish(text) == [
        Published(protocol, packed(host) if host else b"", *ports) for protocol, host, *ports in wanted
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0",
        "65536",
        "80/icmp",
        "1:2:3",
        "a:1:2",
        "1-3:1-2",
        "2-1",
        "[::1:80",
        "8080:",
        ":80:",
        "80:80:80:80",
        "-1",
        "１",
        pytest.param("9" * 5000, id="so many digits that Python makes no number of them"),
    ],
)
def test_what_is_no_port(text):
    with pytest.raises(InvalidInput):
        read_publish(text)


def test_a_port_is_published_once():
    for twice in (
        ["80:1", "80:2"],
        ["127.0.0.1:80:1", "80:2"],
        ["80:1", "[::]:80:1"],
        ["0.0.0.0:80:1", "127.0.0.1:80:2"],
    ):
        with pytest.raises(InvalidInput, match="published twice"):
            check_options({"network": "bridge", "publish": twice})
    check_options({"network": "bridge", "publish": ["80:1", "80:2/udp", "90", "90", "80-81:3", "80-81:4"]})
    check_options({"network": "bridge", "publish": ["80-81:3", "80:1"]})
    check_options(
        {"network": "bridge", "publish": ["0.0.0.0:80:1", "[::]:80:1", "[::]:81:1", "127.0.0.1:81:1"]}
    )


def test_what_the_image_exposes():
    assert exposed_ones(["80/tcp", "53/udp"], read_publish("8080:80")) == [Published("udp", b"", 0, 53)]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (["80"], ("80/tcp",)),
        (["80/tcp", "80", "53/UDP", "9/sctp"], ("80/tcp", "53/udp", "9/sctp")),
        (["80-82/udp", "81/udp"], ("80-82/udp",)),
        (["1-65535", "9/udp"], ("1-65535/tcp", "9/udp")),
        (["7", "3", "5-6", "4"], ("3-7/tcp",)),
        (["3", "5"], ("3/tcp", "5/tcp")),
        ([], ()),
    ],
)
def test_what_is_exposed(asked, wanted):
    assert read_exposed(asked) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "x", "0", "65536", "80/icmp", "80/", "2-1", "8080:80", "127.0.0.1::80", "[::]:80", "1.2", "-1"],
)
def test_what_cannot_be_exposed(text):
    with pytest.raises(InvalidInput):
        read_exposed([text])


@pytest.mark.parametrize("network", ["none", "host", "container:x", "ns:/run/netns/x", "bridge", "cni:x"])
def test_what_is_exposed_takes_no_link_and_changes_no_file(network):
    asked = check_options({"network": network, "expose": ["80-81"]})
    assert asked.networking == Networking(exposed=("80-81/tcp",))
    assert not asked.networking.linked
    files = {"/etc/resolv.conf": b"search x\nnameserver 9.9.9.9\n"}
    plain = check_options({"network": network})
    assert name_files.resolv_conf(asked, (), files.__getitem__) == name_files.resolv_conf(
        plain, (), files.__getitem__
    )


@pytest.mark.parametrize(
    "text", ["", "02:00", "03:00:00:00:00:01", "00:00:00:00:00:00", "2:0:0:0:0:1", "zz:00:00:00:00:00"]
)
def test_what_is_no_mac(text):
    with pytest.raises(InvalidInput):
        read_mac(text)
    assert read_mac("02-42-AC-11-00-02") == bytes.fromhex("0242ac110002")


def test_hosts_of_etc_hosts():
    assert read_host("db:10.0.0.5") == ("db", "10.0.0.5")
    assert read_host("db=fd00::5") == ("db", "fd00::5")
    assert read_host("db:[fd00::5]") == ("db", "fd00::5")
    assert read_host("up:host-gateway") == ("up", "host-gateway")
    for wrong in ("db", ":10.0.0.5", "a b:10.0.0.5", "db:x", "a\nb:10.0.0.5", "db:10.0.0.5\n1.2.3.4 evil"):
        with pytest.raises(InvalidInput):
            read_host(wrong)


@pytest.mark.parametrize(
    "given", [{"publish": ["80"]}, {"ip": "10.0.0.5"}, {"mac_address": "02:00:00:00:00:01"}]
)
@pytest.mark.parametrize("network", ["none", "host", "container:x", "ns:/run/netns/x"])
def test_what_takes_a_link_contradicts_networks_without_one(given, network):
    with pytest.raises(InvalidInput, match="contradict"):
        check_options({"network": network, **given})


def test_what_was_asked_is_written_down_and_read_again():
    asked = check_options({
        "network": "bridge", "publish": ["127.0.0.1:8080:80", "53/udp", "8000-8009:90"], "publish_all": True,
        "ip": "10.0.0.5", "ip6": "fd00::5", "mac_address": "02:00:00:00:00:01", "dns": ["9.9.9.9"], "dns_search": ["a"],
        "dns_options": ["ndots:1"], "add_hosts": ["db:10.0.0.6"], "expose": ["81", "82/udp"],
    })  # fmt: skip
    kept = json.loads(json.dumps({"id": "x", "options": options_record(asked)}))
    assert options_of(kept) == asked


# -- the files

NET = Network(
    "n", "b", (read_subnet("10.1.0.0/24"),), (packed("10.1.0.1"),), (read_subnet("10.1.0.0/24"),), b""
)
PLACE = Attachment("a" * 64, "web", NET, 0, (packed("10.1.0.2"),), mac_of(packed("10.1.0.2")), "eth0")


def resolv(text, resolved="", places=(PLACE,), **asked):
    options = check_options({"network": "bridge", **asked})
    files = {"/etc/resolv.conf": text.encode(), "/run/systemd/resolve/resolv.conf": resolved.encode()}
    return name_files.resolv_conf(options, places, files.__getitem__).decode().splitlines()


def test_servers_of_this_host():
    assert resolv("nameserver 10.0.0.53\nsearch a b\noptions ndots:2 x\n") == [
        "nameserver 10.0.0.53", "search a b", "options ndots:2 x"
    ]  # fmt: skip


def test_those_that_only_this_host_reaches_are_replaced_by_what_they_ask():
    assert resolv("nameserver 127.0.0.53\n", "nameserver 10.0.0.53\nnameserver fe80::1%eth0\nsearch lan\n") == [
        "nameserver 10.0.0.53", "search lan"
    ]  # fmt: skip
    assert resolv("nameserver 127.0.0.1\nnameserver ::1\n") == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert resolv("nameserver 127.0.0.1\nnameserver 10.0.0.1\n") == ["nameserver 10.0.0.1"]


def test_what_was_asked_instead():
    found = resolv(
        "nameserver 10.0.0.53\nsearch a\n", dns=["127.0.0.53"], dns_search=["x", "y"], dns_options=["rotate"]
    )
    assert found == ["nameserver 127.0.0.53", "search x y", "options rotate"]
    assert resolv("nameserver 10.0.0.53\nsearch a\n", dns_search=["."]) == ["nameserver 10.0.0.53"]


def test_host_gateway_is_where_there_is_one():
    options = check_options({"network": "none", "add_hosts": ["up:host-gateway"]})
    with pytest.raises(Conflict, match="no network of its own"):
        name_files.hosts(b"", options, "box", (), "web")
    options = check_options({"network": "bridge", "add_hosts": ["up:host-gateway", "db:10.1.0.9"]})
    assert name_files.hosts(b"", options, "box", (), "web") == b"10.1.0.9\tdb\n", "it has not begun"
    options = check_options({"network": "bridge", "add_hosts": ["up:host-gateway"]})
    found = name_files.hosts(b"127.0.0.1\tlocalhost", options, "box", (PLACE,), "web")
    assert found == b"127.0.0.1\tlocalhost\n10.1.0.1\tup\n10.1.0.2\tbox web\n"


def test_nothing_asked_is_nothing():
    assert check_options({"network": "bridge"}).networking is None
    assert Networking().linked == ""


# -- several networks, and what one may reach


def test_networks_in_short_and_in_long():
    asked = check_options({
        "network": ["front", "name=back,alias=db,alias=Store,ip=10.1.0.5,ip6=fd00::5,mac=02:00:00:00:00:05"],
        "network_aliases": ["www"], "egress": ["allow=a.example:443", "allow=10.0.0.0/8"],
    })  # fmt: skip
    wanted = asked.networking
    assert wanted is not None
    assert (asked.network, wanted.aliases) == ("front", ("www",))
    [back] = wanted.joined
    assert back == Joined(
        "back", (packed("10.1.0.5"), packed("fd00::5")), read_mac("02:00:00:00:00:05"), ("db", "Store")
    )
    assert joined_by(asked) == (Joined("front", aliases=("www",)), back)
    kept = json.loads(json.dumps({"id": "x", "options": options_record(asked)}))
    assert options_of(kept) == asked
    assert check_options({"network": ["front"]}) == check_options({"network": "front"})
    assert check_options({"network": "name=front,ip=10.1.0.5"}) == check_options(
        {"network": "front", "ip": "10.1.0.5"}
    )


@pytest.mark.parametrize("alias", ["", "a b", "-a", "a..b", "x" * 64, "a/b", "é"])
def test_what_is_no_alias(alias):
    with pytest.raises(InvalidInput):
        check_options({"network": "back", "network_aliases": [alias]})


def test_a_network_with_names_has_one_server():
    named = replace(PLACE, network=replace(NET, names=b"/names"))
    text = "nameserver 10.0.0.53\nsearch a\noptions edns0\n"
    assert resolv(text, places=(named,)) == ["nameserver 10.1.0.1", "search a", "options edns0 ndots:0"]
    assert resolv(text, places=(named,), dns=["9.9.9.9"], dns_options=["ndots:2"]) == [
        "nameserver 10.1.0.1", "search a", "options ndots:2"
    ]  # fmt: skip
    # a server of its own, which only the container reaches
    assert resolv(text, places=(named,), dns=["127.0.0.1"])[0] == "nameserver 127.0.0.1"


def test_a_damaged_record_is_said_to_be_damaged(store_root, monkeypatch):
    home = Home(Store(store_root), "a" * 64)
    damaged: tuple[dict[str, object], ...] = (
        {"attachments": [{}]}, {"attachments": 7}, {"servers": ["x"]}, {"attachments": [{"gateways": [1]}]},
    )  # fmt: skip
    for content in damaged:
        monkeypatch.setattr(Home, "read", lambda self, name, content=content: content)
        with pytest.raises(Corrupt, match=r"network\.json is damaged"):
            Ledger.of(home)
