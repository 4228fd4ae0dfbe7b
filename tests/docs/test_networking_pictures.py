"""What docs/networking.md draws is what is made."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.engine.networks import table_of
from lamina.network import forwarding
from support.lab import Lab, ip, nft, nft_is_there
from support.lives import remove_all
from support.namespaces import in_mount_namespace
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


def chains(ruleset: str, table: str) -> str:
    """The tables without their sets, and without counts."""
    text = re.sub(r"counter packets \d+ bytes \d+", "counter", ruleset.replace(table, "lamina"))
    return re.sub(r"^\t(?:set|map) \w+ \{\n.*?^\t\}\n\n", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_picture_of_a_bridge_and_its_rules(store_root: Path) -> None:
    def inner() -> tuple[str, str]:
        lab = Lab()
        small_image(store_root)
        engine = Engine(store_root)
        try:
            box = engine.start("tiny", ["sleep", "1000"], name="web", network="bridge", publish=["8080:80"])
            drawn = picture("bridge").replace("lamv<id>00", f"lamv{box.id[:9]}00")
            here = addresses()
            macs = {one["ifname"]: one["address"] for one in facts(["link"])}
            assert set(here) == {"lo", "up0", "lamina0", f"lamv{box.id[:9]}00"}
            [port] = [one for one in facts(["link"]) if one["ifname"].startswith("lamv")]
            assert port["master"] == "lamina0"
            drawn_here = [*here["lamina0"], macs["lamina0"], f"{port['ifname']} ── port of ── lamina0"]
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
            drawn_here.append(f"route_localnet = {forwarding.read('ipv4/conf/lamina0/route_localnet')}")
            assert [fact for fact in drawn_here if fact not in drawn] == []
            assert ip("link")
            return chains(nft("list", "ruleset"), table_of(engine.store)), picture("rules")
        finally:
            remove_all(engine)
            lab.close()

    made, shown = in_mount_namespace(inner)
    assert made == shown
