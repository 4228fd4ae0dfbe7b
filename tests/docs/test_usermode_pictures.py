"""What docs/networking.md draws of networks that programs which are not ours make is what is made."""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.lab import Lab
from support.lives import until
from support.network_host import Host, on_host
from support.sources import REPOSITORY
from support.user_host import UserHost, on_user_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]
PLUGINS = next(
    (place for place in ("/usr/lib/cni", "/opt/cni/bin") if Path(place, "host-local").exists()), ""
)


def picture(name: str) -> str:
    text = (REPOSITORY / "docs/networking.md").read_text()
    found = re.search(rf"^```picture {name}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def facts(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        subprocess.run(["ip", "-j", *words], check=True, capture_output=True).stdout
    )
    return found


def has(host: UserHost, programs: list[str]) -> bool:
    return sorted(Path(words[0]).name for words in host.helpers().values()) == programs


def inside(lab: Lab, pid: int) -> list[str]:
    """The lines of the left side: devices with their addresses, and the default route."""
    box = lab.adopt(pid)
    try:
        with lab.inside(box):
            every = {one["ifname"]: one["addr_info"] for one in facts("addr")}
            [default] = [one for one in facts("route") if one["dst"] == "default"]
    finally:
        box.release()
    found = [
        f"{name:6} {one['local']}/{one['prefixlen']}"
        for name, own in every.items()
        for one in own
        if one["family"] == "inet"
    ]
    assert len(found) == 2
    return [*found, f"default via {default['gateway']}"]


@pytest.mark.userns
@pytest.mark.peer("pasta", "slirp4netns")
def test_the_pictures_of_pasta_and_slirp4netns(tmp_path: Path) -> None:
    def test(host: UserHost) -> None:
        for name, listens in (("pasta", "*"), ("slirp4netns", "0.0.0.0")):
            drawn = picture(name)
            words = ("--network", name, "-p", "8080:80", "tiny", "sleep", "1000")
            host.ok("run", "-d", "--name", "web", *words)
            shown = inside(host, int(host.inspect("web")["State"]["Pid"]))
            shown.append(host.ok("exec", "web", "grep", "^nameserver", "/etc/resolv.conf").strip())
            sockets = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
            assert f" {listens}:8080 " in sockets
            shown.append(f"listens at {listens}:8080")
            expected = ["lamina-tether", name]
            until(partial(has, host, expected))
            shown.append(f"{name}, kept by lamina-tether")
            assert [fact for fact in shown if fact not in drawn] == []
            host.ok("rm", "-f", "web")

    on_user_host(tmp_path, test)


@pytest.mark.skipif(not PLUGINS, reason="needs the plugins of CNI (containernetworking-plugins)")
def test_the_picture_of_cni(store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETCONFPATH", str(tmp_path))
    monkeypatch.setenv("CNI_PATH", PLUGINS)
    ipam = {
        "type": "host-local", "dataDir": str(tmp_path / "leases"), "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": "10.44.0.0/24"}]],
    }  # fmt: skip
    bridge = {"type": "bridge", "bridge": "cni-lamina", "isGateway": True, "ipam": ipam}
    (tmp_path / "1.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "x", "plugins": [bridge]})
    )

    def test(host: Host) -> None:
        drawn = picture("cni")
        box = host.start("sleep 1000", network="cni:x")
        shown = inside(host, int(box.inspect()["State"]["Pid"]))
        [port] = [one for one in facts("link") if one["ifname"].startswith("veth")]
        [here] = [one for one in facts("addr") if one["ifname"] == port["master"]]
        own = next(one for one in here["addr_info"] if one["family"] == "inet")
        shown.append(f"veth<...> ── port of ── {port['master']}  {own['local']}/{own['prefixlen']}")
        assert [fact for fact in shown if fact not in drawn] == []
        box.remove(force=True)
        subprocess.run(["ip", "link", "del", "cni-lamina"], check=True)

    on_host(store_root, test)
