"""linux.netDevices: a device of the host becomes the container's, with its addresses. The test has its own network."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, NotFound
from lamina.linux.constants import CLONE_NEWNET
from lamina.linux.namespaces import unshare
from lamina.runtime.net_devices import check_devices
from support.bundles import over_host, small
from support.namespaces import in_mount_namespace
from support.starting import DEV, PROC, SHIFTED, run, said

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def spec_for(devices: dict[str, Any], *args: str, user: bool = False) -> dict[str, Any]:
    spec = small(*(args or ("ip", "-o", "addr")), env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
    spec["mounts"] = [PROC, DEV]
    spec["linux"]["namespaces"].append({"type": "network"})
    spec["linux"]["netDevices"] = devices
    if user:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=SHIFTED, gidMappings=SHIFTED)
    return spec


def prepared() -> None:
    unshare(CLONE_NEWNET)
    ip("link", "add", "one", "type", "veth", "peer", "name", "two")
    ip("addr", "add", "192.0.2.7/24", "dev", "one")
    ip("addr", "add", "2001:db8::7/64", "dev", "one", "nodad")
    ip("link", "set", "one", "up")


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(("devices", "name"), [({"one": {}}, "one"), ({"one": {"name": "eth0"}}, "eth0")])
def test_a_device_moves_with_its_addresses_and_is_up(
    tmp_path: Path, devices: dict[str, Any], name: str, user: bool
) -> None:
    def inner() -> tuple[str, str]:
        prepared()
        before = ip("-o", "link")
        script = "ip -o addr; ip -o link"
        return before, said(over_host(tmp_path, spec_for(devices, "/bin/sh", "-c", script, user=user)))

    before, text = in_mount_namespace(inner)
    assert "one@two" in before
    assert any(f"{name}@" in line and "UP" in line for line in text.splitlines())
    assert f"{name}    inet 192.0.2.7/24" in text
    assert f"{name}    inet6 2001:db8::7/64" in text


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    def inner() -> None:
        prepared()
        with pytest.raises(NotFound, match="move network device none: there is none of that name"):
            run(over_host(tmp_path, spec_for({"none": {}})))
        assert "one@two" in ip("-o", "link")

    in_mount_namespace(inner)


@pytest.mark.parametrize(
    "devices",
    [
        {"": {}},
        {"x" * 16: {}},
        {"a/b": {}},
        {"one": {"name": "a b"}},
        {"one": {"name": ".."}},
        {"one": {"name": "x"}, "two": {"name": "x"}},
        {"one": {"name": "two"}, "two": {}},
    ],
)
def test_names_that_no_device_can_have(devices: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="network device"):
        check_devices(devices)


def test_a_container_in_the_hosts_network_gets_no_devices(tmp_path: Path) -> None:
    spec = spec_for({"one": {}})
    spec["linux"]["namespaces"].pop()
    with pytest.raises(InvalidInput, match="shares the network namespace"):
        run(over_host(tmp_path, spec))
