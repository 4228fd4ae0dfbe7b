"""What is said to pasta and slirp4netns, as words."""

from __future__ import annotations

import pytest

from lamina.errors import InvalidInput, Unsupported
from lamina.network.model import Published
from lamina.network.subnet import packed, read_subnet
from lamina.network.usermode import (
    PASTA,
    SLIRP,
    Layout,
    forward,
    layout_of,
    leads_to_loopback,
    pasta,
    read_words,
    server_of,
    slirp4netns,
)

HERE = Layout(read_subnet("10.0.2.0/24"))


def after(words: list[str], option: str) -> list[str]:
    return [words[number + 1] for number, word in enumerate(words) if word == option]


def test_options_are_read_by_their_long_names() -> None:
    given = "pasta:-a,10.9.8.7,--netmask=24,-T,5432,--map-gw,-4"
    assert read_words(given) == (
        PASTA,
        ("--address", "10.9.8.7", "--netmask", "24", "--tcp-ns", "5432", "--map-gw", "--ipv4-only"),
    )
    assert read_words("pasta") == (PASTA, ())
    assert read_words("slirp4netns:mtu=1400,cidr=10.1.0.0/24") == (SLIRP, ("mtu=1400", "cidr=10.1.0.0/24"))


@pytest.mark.parametrize(
    "text",
    [
        "pasta:", "pasta:,", "pasta:-a", "pasta:-a,--map-gw", "pasta:--netns,/proc/1/ns/net", "pasta:--userns,x",
        "pasta:-P,/tmp/x", "pasta:--pid,/tmp/x", "pasta:--log-file,/tmp/x", "pasta:--pcap,/tmp/x", "pasta:--runas,0",
        "pasta:--foreground", "pasta:--map-gw=yes", "pasta:-a,1\0,-4", "slirp4netns:mtu", "slirp4netns:mtu=12",
        "slirp4netns:mtu=-1", "slirp4netns:cidr=x", "slirp4netns:cidr=fd00::/64", "slirp4netns:enable_ipv6=maybe",
        "slirp4netns:api_socket=/tmp/x", "slirp4netns:outbound_addr6=::2,enable_ipv6=false",
    ],
)  # fmt: skip
def test_what_would_break_what_we_rely_on_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_words(text)


def test_a_port_handler_that_there_is_not_is_said() -> None:
    with pytest.raises(Unsupported, match="rootlesskit"):
        read_words("slirp4netns:port_handler=rootlesskit")


def test_nothing_is_forwarded_and_the_loopback_is_closed_unless_that_is_asked_for() -> None:
    words = pasta("/usr/bin/pasta", (), HERE, (), 7, "/gate")
    for option in ("--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"):
        assert after(words, option) == ["none"]
    assert "--no-map-gw" in words
    assert after(words, "--address") == ["10.0.2.100"]
    assert after(words, "--gateway") == ["10.0.2.2"]
    assert after(words, "--dns-forward") == ["10.0.2.3"]
    assert after(words, "--netns") == ["/proc/7/ns/net"]
    open_ = pasta("/usr/bin/pasta", ("--map-gw", "--tcp-ns", "5432"), HERE, (), 7, "/gate")
    assert not {"--no-map-gw", "--map-gw"}.intersection(open_)  # the latter is podman's word, not pasta's
    assert after(open_, "--tcp-ns") == ["5432"]
    assert leads_to_loopback(PASTA, ("--map-gw",))
    assert not leads_to_loopback(PASTA, ())


def test_ports_are_ranges_where_they_are_neighbours() -> None:
    published = [Published("tcp", b"", 8000 + number, 80 + number) for number in (2, 0, 1)]
    published += [Published("tcp", b"", 9000, 1), Published("tcp", packed("127.0.0.1"), 8003, 83)]
    published += [Published("udp", b"", 53, 53)]
    words = pasta("pasta", (), HERE, published, 7, "/gate")
    assert after(words, "--tcp-ports") == ["8000-8002:80-82", "9000-9000:1-1", "127.0.0.1/8003-8003:83-83"]
    assert after(words, "--udp-ports") == ["53-53:53-53"]


def test_the_subnet_is_one_that_this_host_does_not_use() -> None:
    used = [read_subnet("10.0.2.0/23")]
    assert layout_of(PASTA, (), used) == Layout(read_subnet("10.0.4.0/24"))
    assert layout_of(PASTA, (), [read_subnet("10.0.0.0/8")]) == HERE  # something it has to be
    assert layout_of(PASTA, ("--address", "10.9.8.7"), []) is None
    assert server_of(PASTA, ("--address", "10.9.8.7"), None) == packed("169.254.1.1")
    with pytest.raises(InvalidInput):
        layout_of(SLIRP, ("cidr=10.1.0.0/26",), [])


def test_slirp4netns_is_kept_from_the_loopback_too() -> None:
    words = slirp4netns("slirp4netns", (), HERE, 7, 6, "/api", ipv6=False)
    assert {"--disable-host-loopback", "--enable-seccomp", "--enable-sandbox", "--cidr=10.0.2.0/24"} <= {
        *words
    }
    assert "--enable-ipv6" not in words
    given = ("allow_host_loopback=true", "outbound_addr=eth0")
    words = slirp4netns("slirp4netns", given, HERE, 7, 6, "", ipv6=True, sandbox=False)
    assert {"--disable-host-loopback", "--enable-sandbox"}.isdisjoint(words)
    assert {"--enable-ipv6", "--outbound-addr=eth0"} <= {*words}
    assert not [word for word in words if word.startswith("--api-socket")]
    assert forward(Published("udp", b"", 53, 5353), HERE)["arguments"] == {
        "proto": "udp", "host_addr": "0.0.0.0", "host_port": 53, "guest_addr": "10.0.2.100", "guest_port": 5353,
    }  # fmt: skip
