"""Each mode of a network as docs/networking.md draws it: what is drawn is made, and all that is made is drawn."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address, summarize_address_range
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.networks import table_of
from lamina.network.model import port_of
from support.lab import ip, nft, nft_is_there
from support.lives import until
from support.network_host import Host, on_host
from support.sources import REPOSITORY

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer("ip", "busybox"),
    pytest.mark.skipif(not nft_is_there(), reason="needs nft"),
]

DEVICE = re.compile(r"\b(?:lo|eth\d|up0|lamina0|lam-\w+|lamv<id>\d\d)\b")
ADDRESS = re.compile(r"\b(?:\d+(?:\.\d+){3}|fd00:[\da-f:]+)(?:/\d+)?\b")
SET = re.compile(r"^(?:inet|bridge) \w+ +\{.*\}$", re.MULTILINE)


def drawing(name: str) -> str:
    text = (REPOSITORY / "docs/networking.md").read_text()
    found = re.search(rf"^```picture {name}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None, name
    return found[1]


def drawn(name: str) -> dict[str, Any]:
    """What a picture says: its devices and addresses, and below it the elements of sets."""
    text = drawing(name)
    sets = {" ".join(line.split()) for line in SET.findall(text)}
    links = SET.sub("", text)
    return {"devices": set(DEVICE.findall(links)), "addresses": set(ADDRESS.findall(links)), "sets": sets}


def seen() -> tuple[set[str], set[str], str]:
    """(devices, addresses of IPv4 and of fd00::/16, default gateway) of this network namespace."""
    links = json.loads(ip("-j", "addr"))
    devices = {one["ifname"] for one in links}
    addresses = {
        f"{a['local']}/{a['prefixlen']}"
        for one in links
        for a in one["addr_info"]
        if a["family"] == "inet" or a["local"].startswith("fd00:")
    }
    routes = [one for family in ("-4", "-6") for one in json.loads(ip("-j", family, "route"))]
    return devices, addresses, next((one["gateway"] for one in routes if one["dst"] == "default"), "")


def elements(table: str) -> set[str]:
    """`family set { element, ... }` of every set of ours that has any, but for those that are the same always."""
    found = set()
    for one in json.loads(nft("-j", "list", "ruleset"))["nftables"]:
        known = one.get("set") or one.get("map")
        if known and known["table"] == table and known.get("elem") and known["name"] != "ported":
            inside = ", ".join(sorted(map(_text, known["elem"])))
            found.add(f"{known['family']} {known['name']} {{ {inside} }}")
    return found


def _text(element: Any) -> str:
    """As nft(8) shows it, without comments."""
    if isinstance(element, list):  # of a map
        return f"{_text(element[0])} : {_text(element[1])}"
    if not isinstance(element, dict):
        return f'"{element}"' if str(element).startswith(("lam", "lw")) else str(element)
    if "elem" in element:
        return _text(element["elem"]["val"])
    if "concat" in element:
        return " . ".join(map(_text, element["concat"]))
    if "range" in element:
        return _subnet(*element["range"])
    return f"{element['prefix']['addr']}/{element['prefix']['len']}"


def _subnet(first: str, last: str) -> str:
    [found] = summarize_address_range(ip_address(first), ip_address(last))
    return str(found)


# picture: options of its containers, in turn, the last of which is looked at; the network that it takes
WORLD, BACK = "ns:{world}", {"subnets": ["10.79.0.0/24"]}
MODES: dict[str, tuple[list[dict[str, Any]], dict[str, Any] | None]] = {
    "none": ([{"network": "none"}], None),
    "host": ([{"network": "host"}], None),
    "default bridge": ([{"network": "bridge", "publish": ["8080:80"]}], None),
    "user-defined": ([{"network": "back"}], BACK),
    "IPv6 alone": ([{"network": "back", "publish": ["8080:80"]}], {"ipv4": False, "subnets": ["fd00:79::/64"]}),
    "internal": ([{"network": "back"}], {**BACK, "internal": True}),
    "container": ([{"network": "back", "name": "web"}, {"network": "container:web"}], BACK),
    "ns": ([{"network": WORLD}], None),
    "egress of a container": ([{"network": "back", "egress": "allow=192.168.7.0/24:5432"}], BACK),
    "macvlan": ([{"network": "back"}], {
        "driver": "macvlan", "options": {"parent": "eth0"}, "subnets": ["192.168.1.0/24"],
        "gateways": ["192.168.1.1"], "ranges": ["192.168.1.192/27"],
    }),
}  # fmt: skip
HERE = {"lo", "up0"}, {"127.0.0.1/8", "192.0.2.1/24"}


def test_every_mode_is_drawn_as_it_is(store_root: Path) -> None:
    """Devices and addresses on both sides, the default route, and the elements of all sets; no more and no less."""

    def made(host: Host, mode: str) -> dict[str, Any]:
        options, network = MODES[mode]
        table, boxes = table_of(host.engine.store), []
        if network is not None:
            host.engine.networks.create("back", **network)
        for one in options:
            asked = {**one, "network": one["network"].format(world=f"/proc/{host.world.pid}/ns/net")}
            boxes.append(host.start("sleep 1000", **asked))
        names = {port_of(one.id, 0, table): "lamv<id>00" for one in boxes}
        names |= {one.bridge: "lamina0" for one in host.engine.networks.list() if one.name == "bridge"}
        inside = host.adopt(int(boxes[-1].attrs["State"]["Pid"]))
        with host.inside(inside):
            devices, addresses, gateway = seen()
            if mode == "macvlan":
                [link] = json.loads(ip("-j", "-d", "link", "show", "eth0"))
                assert link["linkinfo"]["info_kind"] == "macvlan"
        inside.release()
        here = seen()
        here = (here[0] - HERE[0], here[1] - HERE[1], "")
        found = {
            "devices": {names.get(one, one) for one in devices | here[0]},
            "addresses": addresses | here[1] | ({gateway} if gateway else set()),
            "sets": {_called(one, names) for one in elements(table)},
        }
        for box in reversed(boxes):
            box.remove(force=True)
        until(lambda: host.ports() == [])
        for known in host.engine.networks.list():
            known.remove()
        return found

    def test(host: Host) -> None:
        for mode in MODES:
            if mode == "macvlan":
                ip(
                    "link",
                    "add",
                    "eth0",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "wire",
                    "netns",
                    str(host.world.pid),
                )
                ip("link", "set", "eth0", "up")
            assert made(host, mode) == drawn(mode), mode
            if mode == "macvlan":
                ip("link", "del", "eth0")

    on_host(store_root, test)


def _called(text: str, names: dict[str, str]) -> str:
    for name, drawn_as in names.items():
        text = text.replace(f'"{name}"', f'"{drawn_as}"')
    return text
