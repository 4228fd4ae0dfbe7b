"""What docs/networking.md draws is what is made."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from socket import inet_aton
from sys import byteorder
from typing import Any

import pytest

from lamina import Engine
from lamina.engine.networks import table_of
from lamina.network import forwarding
from lamina.network.model import port_of, ports_begin
from support.lab import Lab, ip, nft, nft_is_there
from support.lives import remove_all, until
from support.namespaces import in_mount_namespace
from support.network_host import responders
from support.small_images import small_image
from support.sources import REPOSITORY

pytestmark = [
    pytest.mark.root,
    pytest.mark.peer("ip", "busybox"),
    pytest.mark.skipif(not nft_is_there(), reason="needs nft"),
]


def picture(name: str) -> str:
    text = (REPOSITORY / "docs/networking.md").read_text()
    found = re.search(rf"^```picture {name}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def facts(words: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        subprocess.run(["ip", "-j", *words], check=True, capture_output=True).stdout
    )
    return found


def addresses() -> dict[str, list[str]]:
    return {
        one["ifname"]: [f"{a['local']}/{a['prefixlen']}" for a in one["addr_info"] if a["family"] == "inet"]
        for one in facts(["addr"])
    }


OF_EGRESS = ("egress", "egress4", "egress6", "input", "neighbours")  # they have a picture of their own
CHAIN = r"\tchain %s \{\n.*?^\t\}\n"


def chains(ruleset: str, table: str) -> str:
    """The tables without their sets, and without counts."""
    plain = ruleset.replace(ports_begin(table), ports_begin("lamina")).replace(table, "lamina")
    text = re.sub(r"counter packets \d+ bytes \d+", "counter", plain)
    return re.sub(r"^\t(?:set|map) \w+ \{\n.*?^\t\}\n\n", "", text, flags=re.DOTALL | re.MULTILINE)


def usual(text: str) -> str:
    """Without those of egress policies."""
    for name in OF_EGRESS:
        text = re.sub("\n" + CHAIN % name, "", text, flags=re.DOTALL | re.MULTILINE)
    return text


def of_egress(text: str) -> str:
    """What the picture of egress policies shows: some chains, after the names of family and chain."""
    inet, bridge = text.split("table bridge")
    shown = []
    wanted = (("inet", inet, "input"), ("inet", inet, "egress4"), ("bridge", bridge, "neighbours"),
              ("bridge", bridge, "egress"))  # fmt: skip
    for family, table, name in wanted:
        found = re.search("^" + CHAIN % name, table, re.DOTALL | re.MULTILINE)
        assert found is not None
        shown.append(f"{family} {name}\n{found[0]}")
    return "".join(shown)


def test_the_picture_of_a_bridge_and_its_rules(store_root: Path) -> None:
    def inner() -> str:
        lab = Lab()
        small_image(store_root)
        engine = Engine(store_root)
        try:
            box = engine.start("tiny", ["sleep", "1000"], name="web", network="bridge", publish=["8080:80"])
            name = port_of(box.id, 0, table_of(engine.store))
            bridge = table_of(engine.store)  # the system's store calls it lamina0
            drawn = picture("bridge").replace("lamv<id>00", name).replace("lamina0", bridge)
            here = addresses()
            macs = {one["ifname"]: one["address"] for one in facts(["link"])}
            assert set(here) == {"lo", "up0", bridge, name}
            [port] = [one for one in facts(["link"]) if one["ifname"] == name]
            assert port["master"] == bridge
            drawn_here = [*here[bridge], macs[bridge], f"{port['ifname']} ── port of ── {bridge}"]
            pid = int(box.inspect()["State"]["Pid"])
            with lab.inside(lab_box := lab.adopt(pid)):
                there = addresses()
                assert set(there) == {"lo", "eth0"}
                mac = next(one["address"] for one in facts(["link"]) if one["ifname"] == "eth0")
                [default] = [one for one in facts(["route"]) if one["dst"] == "default"]
                drawn_here += [f"eth0   {there['eth0'][0]}", f"lo     {there['lo'][0]}", mac]
                drawn_here.append(f"default via {default['gateway']}")
            lab_box.release()
            drawn_here.append(f"ip_forward = {forwarding.read('ipv4/ip_forward')}")
            drawn_here.append(f"route_localnet = {forwarding.read(f'ipv4/conf/{bridge}/route_localnet')}")
            assert [fact for fact in drawn_here if fact not in drawn] == []
            assert ip("link")
            return chains(nft("list", "ruleset"), table_of(engine.store))
        finally:
            remove_all(engine)
            lab.close()

    made = in_mount_namespace(inner)
    assert usual(made) == picture("rules")
    assert of_egress(made) == picture("egress")


def _has(read: Callable[[], list[str]], wanted: str) -> bool:
    return wanted in read()


def test_the_picture_of_two_networks_and_their_names(store_root: Path) -> None:
    def inner() -> None:
        lab = Lab()
        small_image(store_root)
        engine = Engine(store_root)
        try:
            drawn = picture("names")
            for name in ("front", "back"):
                engine.networks.create(name)
            box = engine.start("tiny", ["sleep", "1000"], name="web", network=["front", "back"])
            here = addresses()
            found = [
                f"lam-{name}{' ' * (7 - len(name))}{here[f'lam-{name}'][0]}" for name in ("front", "back")
            ]
            until(lambda: len(responders()) == 2)

            def bound() -> list[str]:
                return [line.split()[1] for line in Path("/proc/net/udp").read_text().splitlines()[1:]]

            for name in ("front", "back"):
                gateway = here[f"lam-{name}"][0].partition("/")[0]
                until(partial(_has, bound, f"{int.from_bytes(inet_aton(gateway), byteorder):08X}:0035"))
                found.append(f"lamina-names  {gateway}:53")
            resolv = box.exec(["cat", "/etc/resolv.conf"], capture_output=True, text=True).stdout
            found.append(str(resolv).splitlines()[0])
            with lab.inside(lab_box := lab.adopt(int(box.inspect()["State"]["Pid"]))):
                there = addresses()
                [default] = [one for one in facts(["route"]) if one["dst"] == "default"]
            lab_box.release()
            found += [f"{name}   {there[name][0]}" for name in ("eth0", "eth1")]
            found.append(f"default via {default['gateway']}")
            assert [fact for fact in found if fact not in drawn] == []
        finally:
            remove_all(engine)
            for network in engine.networks.list():
                network.remove()
            until(lambda: responders() == [])
            lab.close()

    in_mount_namespace(inner)
