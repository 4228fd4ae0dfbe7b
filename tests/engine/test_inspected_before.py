"""What `inspect` says of a container that has not been started, or runs no more: scripts ask before they start it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Engine
from support.network_host import Host
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """As in test_networks."""
    return lambda test: call_on_host(store_root, test)


@pytest.mark.usefixtures("tiny")
def test_what_was_asked_is_said_before_the_first_start(engine: Engine) -> None:
    box = engine.create(
        "tiny", ["true"], env={"A": "b"}, hostname="here", workdir="/etc", domainname="example.org", tty=True
    )
    before = box.inspect()["Config"]
    assert (before["Hostname"], before["Domainname"], before["WorkingDir"]) == ("here", "example.org", "/etc")
    assert "A=b" in before["Env"]
    box.start()
    box.wait()
    after = box.inspect()["Config"]
    assert [one for one in after["Env"] if not one.startswith("HOME=")] == before["Env"]
    assert {**after, "Env": 0} == {**before, "Env": 0}
    other = engine.create("tiny", ["true"])
    assert other.inspect()["Config"]["Hostname"] == other.id[:12]


def test_its_networks_are_said_before_it_is_in_them_and_afterwards(on_host):
    def test(host):
        made = [host.engine.networks.create(name) for name in ("front", "back")]
        box = host.engine.create("tiny", ["sleep", "1000"], network="front")
        made[1].connect(box.name)
        for moment in ("created", "running", "exited"):
            found = box.inspect()["NetworkSettings"]["Networks"]
            assert [(name, one["NetworkID"]) for name, one in found.items()] == [
                (one.name, one.id) for one in made
            ]
            assert all(bool(one["IPAddress"]) == (moment == "running") for one in found.values()), moment
            if moment == "created":
                keys = set(found["front"])
                box.start()
            elif moment == "running":
                assert set(found["front"]) == keys
                box.stop(timeout=0)
        apart = host.engine.create("tiny", ["true"], network="none")
        assert apart.inspect()["NetworkSettings"]["Networks"] == {}

    on_host(test)


def test_a_network_names_who_is_in_it(on_host):
    def test(host):
        back = host.engine.networks.create("back", subnets=["10.50.0.0/24", "fd00:50::/64"])
        box = host.start("sleep 1000", name="box", network="back", mac_address="02:00:00:00:00:09")
        assert back.attrs["Containers"] == {
            box.id: {
                "Name": "box",
                "MacAddress": "02:00:00:00:00:09",
                "IPv4Address": "10.50.0.2/24",
                "IPv6Address": box.inspect()["NetworkSettings"]["GlobalIPv6Address"] + "/64",
            }
        }
        assert list(back.containers) == ["box"]

    on_host(test)
