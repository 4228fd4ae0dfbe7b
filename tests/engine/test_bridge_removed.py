"""A bridge that somebody else removed while containers are at it, with real packets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.lab import SILENCE, ip, reaches
from support.lives import until
from support.network_host import Host, within
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

SERVE = "while :; do echo hello | nc -l -p 80; done"


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """Calls a test with a host; afterwards nothing of its containers may be left."""
    return lambda test: call_on_host(store_root, test)


def address(box) -> str:
    [place] = box.attrs["NetworkSettings"]["Networks"].values()
    return str(place["IPAddress"])


def test_the_next_start_brings_back_those_who_were_there(on_host):
    """Whoever begins makes the bridge anew; else the others would be alone, and nothing would say so."""

    def test(host):
        back = host.engine.networks.create("back")
        server = host.start(SERVE, network="back", publish=["8080:80"])
        until(lambda: reaches("127.0.0.1", 8080))
        ip("link", "del", back.bridge)
        assert not reaches("127.0.0.1", 8080, SILENCE)
        newcomer = host.start("sleep 1000", network="back")
        until(lambda: reaches("127.0.0.1", 8080))
        with within(host, newcomer):
            until(lambda: reaches(address(server), 80))
        assert host.engine.storage.check().findings == ()

    on_host(test)


@pytest.mark.parametrize("how", ["bridge removed", "link taken away"])
def test_check_finds_who_is_at_no_bridge_and_puts_him_back(on_host, how):
    def test(host):
        back = host.engine.networks.create("back")
        server = host.start(SERVE, name="server", network="back", publish=["8080:80"])
        until(lambda: reaches("127.0.0.1", 8080))
        if how == "bridge removed":
            ip("link", "del", back.bridge)
        else:
            [port] = host.ports()
            ip("link", "set", port, "nomaster")
        found = [one for one in host.engine.storage.check().findings if one.what == "apart server back"]
        assert [(one.kind, one.remedy) for one in found] == [("network", "system check --repair")]
        assert "its link is not at the bridge" in found[0].problem
        host.engine.storage.check(repair=True)
        until(lambda: reaches("127.0.0.1", 8080))
        assert host.engine.storage.check().findings == ()
        server.stop()

    on_host(test)
