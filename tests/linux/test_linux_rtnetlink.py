"""Links, addresses, routes and neighbours against the kernel and ip(8), and every number against the C compiler."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import netlink, nftables, rtnetlink
from lamina.linux.constants import CLONE_NEWNET
from lamina.linux.namespaces import unshare
from lamina.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    open_channel,
    request,
    requests,
)
from lamina.linux.rtnetlink import (
    NETNSA_NSID_NOT_ASSIGNED,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    Address,
    Neighbour,
    Route,
    address,
    addresses,
    bridge,
    bridge_port,
    forwarding_entry,
    link,
    links,
    namespace_number,
    neighbour,
    neighbours,
    route,
    routes,
    veth,
)
from support.held import held_descriptors
from support.namespaces import in_mount_namespace, in_user_namespace

NEW = NLM_F_CREATE | NLM_F_EXCL
MAC = bytes.fromhex("020000000007")
HEADERS = (
    "linux/rtnetlink.h", "linux/if_link.h", "linux/if_addr.h", "linux/neighbour.h", "linux/netlink.h", "linux/veth.h",
    "linux/net_namespace.h", "linux/netfilter.h", "linux/netfilter/nf_tables.h", "linux/netfilter/nfnetlink.h",
)  # fmt: skip
PREFIXES = (
    "RTM", "NLM", "NLMSG", "NLMSGERR", "IFLA", "IFA", "RTA", "RTN", "RTPROT", "RT", "NDA", "NUD", "NTF", "NF", "NFT",
    "NFNL", "VETH", "NETNSA",
)  # fmt: skip


def test_numbers_are_the_headers(run_c):
    """Every constant that is called as in the headers is the headers' own."""
    known = {
        name: number
        for module in (netlink, rtnetlink, nftables)
        for name, number in vars(module).items()
        if name.partition("_")[0] in PREFIXES and isinstance(number, int)
    }
    newer = {"NLM_F_CAPPED", "NLM_F_ACK_TLVS", "NLM_F_DUMP_INTR"}  # older headers lack them
    assert len(known) > 50
    names = sorted(known.keys() - newer)
    includes = "\n".join(f"#include <{header}>" for header in HEADERS)
    prints = "\n".join(f'printf("%ld\\n", (long)({name}));' for name in names)
    printed = run_c(
        f"#include <stdio.h>\n#include <sys/socket.h>\n{includes}\nint main(void) {{ {prints} return 0; }}"
    )
    assert dict(zip(names, map(int, printed.split()), strict=True)) == {name: known[name] for name in names}


@pytest.mark.parametrize(
    ("layout", "c_type"),
    [
        (netlink.HEADER, "struct nlmsghdr"), (netlink.LINK, "struct ifinfomsg"), (netlink.ADDRESS, "struct ifaddrmsg"),
        (rtnetlink.ROUTE, "struct rtmsg"), (rtnetlink.NEIGHBOUR, "struct ndmsg"), (nftables.GENERIC, "struct nfgenmsg"),
        (netlink.ATTRIBUTE, "struct nlattr"),
    ],
)  # fmt: skip
def test_sizes_of_structures(run_c, layout, c_type):
    includes = "\n".join(f"#include <{header}>" for header in HEADERS)
    size = run_c(
        f'#include <stdio.h>\n{includes}\nint main(void) {{ printf("%zu", sizeof({c_type})); return 0; }}'
    )
    assert layout.size == int(size)


def ip(*words):
    done = subprocess.run(["ip", "-j", "-d", *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "[]")


def in_network(test):
    def inner():
        unshare(CLONE_NEWNET)
        with open_channel() as channel:
            test(channel)

    in_mount_namespace(inner)


def number(channel, name):
    return links(channel, name=name)[0].index


@pytest.mark.root
@pytest.mark.peer("ip")
def test_links_are_as_ip_sees_them():
    def test(channel):
        make = [
            (link(name="br0", address=MAC, mtu=1300, more=bridge()), "bridge"),
            (link(name="one", mtu=1300, more=veth(link(name="two", address=MAC))), "veth"),
        ]
        for body, what in make:
            request(channel, RTM_NEWLINK, body, NEW, target=what)
        master = number(channel, "br0")
        request(channel, RTM_NEWLINK, link(name="one", up=True, master=master, alias="an alias: ä"))
        request(channel, RTM_NEWLINK, link(name="one", more=bridge_port(hairpin=True, learning=False)))
        seen = {one["ifname"]: one for one in ip("link")}
        assert seen["br0"]["linkinfo"]["info_kind"] == "bridge"
        assert (seen["br0"]["address"], seen["br0"]["mtu"]) == ("02:00:00:00:00:07", 1300)
        assert seen["br0"]["linkinfo"]["info_data"]["forward_delay"] == 0
        assert (seen["one"]["mtu"], seen["one"]["master"], seen["one"]["ifalias"]) == (
            1300,
            "br0",
            "an alias: ä",
        )
        assert seen["one"]["linkinfo"]["info_slave_data"]["hairpin"] is True
        assert seen["one"]["linkinfo"]["info_slave_data"]["learning"] is False
        body = forwarding_entry(number(channel, "one"), b"\x02\0\0\0\0\x09")
        request(channel, RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE)
        known = subprocess.run(["bridge", "-j", "fdb", "show", "br", "br0"], capture_output=True, check=True)
        [entry] = [one for one in json.loads(known.stdout) if one["mac"] == "02:00:00:00:00:09"]
        assert (entry["ifname"], entry["state"]) == ("one", "static")
        assert "UP" in seen["one"]["flags"]
        assert (seen["two"]["address"], seen["two"]["link"]) == ("02:00:00:00:00:07", "one")
        for ours in links(channel):
            theirs = seen[ours.name]
            assert (ours.index, ours.mtu, ours.alias) == (
                theirs["ifindex"],
                theirs["mtu"],
                theirs.get("ifalias", ""),
            )
            assert ours.kind == theirs.get("linkinfo", {}).get("info_kind", "")
        assert links(channel, name="one")[0].master == master
        request(channel, RTM_DELLINK, link(number(channel, "one")))
        assert {one["ifname"] for one in ip("link")} == {"lo", "br0"}

    in_network(test)


@pytest.mark.root
@pytest.mark.peer("ip")
def test_addresses_routes_and_neighbours_are_as_ip_sees_them():
    def test(channel):
        request(channel, RTM_NEWLINK, link(name="one", more=veth(link(name="two"))), NEW)
        one = number(channel, "one")
        v4, gateway = socket.inet_aton("192.0.2.7"), socket.inet_aton("192.0.2.1")
        v6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7")
        far = socket.inet_aton("198.51.100.0")
        requests(channel, [
            (RTM_NEWLINK, link(one, up=True), 0, "up"),
            (RTM_NEWADDR, address(one, v4, 24), NEW, "v4"),
            (RTM_NEWADDR, address(one, v6, 64), NEW, "v6"),
            (RTM_NEWROUTE, route(one, gateway), NEW, "default"),
            (RTM_NEWROUTE, route(one, gateway, far, 24, metric=7), NEW, "far"),
            (RTM_NEWNEIGH, neighbour(one, gateway, MAC), NEW, "neighbour"),
        ])  # fmt: skip
        seen = {a["local"]: a for a in ip("addr", "show", "dev", "one")[0]["addr_info"]}
        assert (seen["192.0.2.7"]["prefixlen"], seen["192.0.2.7"]["broadcast"]) == (24, "192.0.2.255")
        assert seen["2001:db8::7"]["nodad"] is True
        assert {(r["dst"], r.get("gateway"), r.get("metric")) for r in ip("route")} >= {
            ("default", "192.0.2.1", None), ("198.51.100.0/24", "192.0.2.1", 7),
        }  # fmt: skip
        assert [
            (n["dst"], n["lladdr"], n["state"]) for n in ip("neigh", "show", "nud", "permanent", "dev", "one")
        ] == [("192.0.2.1", "02:00:00:00:00:07", ["PERMANENT"])]
        assert Address(one, v4, 24) in addresses(channel)
        assert Route(b"", 0, one, gateway) in routes(channel)
        assert Route(far, 24, one, gateway) in routes(channel)
        assert Neighbour(one, gateway, MAC, 0x80) in neighbours(channel)
        requests(channel, [
            (RTM_DELNEIGH, neighbour(one, gateway, MAC), 0, ""),
            (RTM_DELROUTE, route(one, gateway, far, 24, metric=7), 0, ""),
            (RTM_DELADDR, address(one, v6, 64), 0, ""),
        ])  # fmt: skip
        assert Route(far, 24, one, gateway) not in routes(channel)
        assert Address(one, v6, 64) not in addresses(channel)
        assert Neighbour(one, gateway, MAC, 0x80) not in neighbours(channel)

    in_network(test)


@pytest.mark.root
def test_the_kernels_words_are_in_the_error():
    def test(channel):
        request(channel, RTM_NEWLINK, link(name="br0", more=bridge()), NEW)
        with pytest.raises(KernelError) as caught:
            request(
                channel, RTM_NEWLINK, link(name="x", more=rtnetlink.kind_of("no-such-kind")), NEW, target="x"
            )
        assert (caught.value.errno, caught.value.hint) == (95, "Unknown device type")
        with pytest.raises(KernelError, match="the second: No such device") as caught:
            requests(channel, [
                (RTM_NEWLINK, link(name="y", more=bridge()), NEW, "the first"),
                (RTM_NEWLINK, link(999, up=True), 0, "the second"),
                (RTM_NEWLINK, link(name="z", more=bridge()), NEW, "the third"),
            ])  # fmt: skip
        assert {one.name for one in links(channel)} == {"lo", "br0", "y", "z"}

    in_network(test)


@pytest.mark.userns
def test_without_root_in_namespaces_of_its_own():
    def inner():
        unshare(CLONE_NEWNET)
        with open_channel() as channel:
            request(channel, RTM_NEWLINK, link(name="one", more=veth(link(name="two"))), NEW)
            names = {one.name for one in links(channel)}
        with nftables.open_nftables() as rules:
            nftables.commit(rules, [nftables.add_table("inet", "mine")])
            return names, nftables.tables(rules)

    assert in_user_namespace(inner) == ({"lo", "one", "two"}, [("inet", "mine")])


@pytest.mark.userns
def test_where_the_other_end_of_a_link_is():
    def inner():
        with open_channel() as outside, open("/proc/self/ns/net") as before:
            unshare(CLONE_NEWNET)
            with open_channel() as inside, open("/proc/self/ns/net") as own:
                one = link(name="one", more=veth(link(name="two", namespace_fd=before.fileno())))
                request(inside, RTM_NEWLINK, one, NEW)
                request(inside, RTM_NEWLINK, link(name="here", more=veth(link(name="there"))), NEW)
                two = links(outside, name="two")[0]
                known = [namespace_number(outside, file.fileno()) for file in (own, before)]
                return two.other_namespace, known, links(inside, name="here")[0].other_namespace

    def apart():
        unshare(CLONE_NEWNET)
        return inner()

    other, (own, before), here = in_user_namespace(apart)
    assert (other, here) == (own, NETNSA_NSID_NOT_ASSIGNED)
    assert own >= 0
    assert before != own


def test_a_link_is_placed_by_a_descriptor_too():
    """The same attribute as of a process, by another number."""
    with tempfile.TemporaryFile() as file:
        found = netlink.attributes(link(name="x", namespace_fd=file.fileno())[netlink.LINK.size :])
        assert int.from_bytes(found[rtnetlink.IFLA_NET_NS_FD], "little") == file.fileno()
    assert Path("/proc/self/ns/net").exists()


def netlink_sockets():
    """The protocol and the owner of each; the kernel's own are 0's."""
    return [line.split()[1:3] for line in Path("/proc/net/netlink").read_text().splitlines()[1:]]


@pytest.mark.root
def test_a_socket_to_nf_tables_is_closed_when_nobody_needs_it():
    """Not by us (that takes long), but soon."""

    def inner():
        unshare(CLONE_NEWNET)
        before = held_descriptors()
        for _ in range(20):
            with nftables.open_nftables() as rules:
                nftables.commit(rules, [nftables.add_table("inet", "mine")])
                nftables.commit(rules, [nftables.delete_table("inet", "mine")])
            rules.close()
        assert held_descriptors() == before
        end = time.monotonic() + 100
        while any(protocol == "12" and owner != "0" for protocol, owner in netlink_sockets()):
            assert time.monotonic() < end
            time.sleep(0.01)

    in_mount_namespace(inner)
