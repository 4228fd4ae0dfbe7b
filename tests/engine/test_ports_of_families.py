"""A port of a container of several networks is published, for each family, where the container has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.network_record import attachments_in
from lamina.errors import Conflict, InvalidInput
from support.lab import HOST, HOST6, SILENCE, listen, reaches
from support.lives import until
from support.network_host import Host, within
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

OnHost = Callable[[Callable[[Host], None]], None]
SERVE = "while :; do echo hello | nc -l -p 80; done"
BOTH = {"80/tcp": ["[::]:8080", "0.0.0.0:8080"]}


@pytest.fixture
def on_host(store_root: Path) -> OnHost:
    """`six` has IPv6 alone, `four` IPv4 alone, `dual` both, `dark` leads nowhere."""

    def call(test: Callable[[Host], None]) -> None:
        def inner(host: Host) -> None:
            known = host.engine.networks
            known.create("six", subnets=["fd00:60::/64"], ipv4=False)
            known.create("four", subnets=["10.51.0.0/24"])
            known.create("dual", subnets=["10.52.0.0/24", "fd00:52::/64"])
            known.create("dark", subnets=["10.53.0.0/24"], internal=True)
            test(host)

        call_on_host(store_root, inner)

    return call


def everywhere(host: Host, port: int = 8080, families: tuple[int, ...] = (4, 6)) -> None:
    """It is reached from outside in these families, and in no other."""
    with host.inside(host.world):
        for family, address in ((4, HOST), (6, HOST6)):
            if family in families:
                until(lambda: reaches(address, port))  # noqa: B023
            else:
                assert not reaches(address, port, SILENCE)


def at(box: Any) -> dict[str, list[str]]:
    return {one.network.name: [str(port) for port in one.published] for one in attachments_in(box._home)}


def test_each_family_at_the_first_network_that_has_it(on_host: OnHost) -> None:
    def test(host: Host) -> None:
        box = host.start(SERVE, name="box", network=["dark", "six", "four"], publish=["8080:80"])
        assert box.ports == BOTH
        everywhere(host)
        until(lambda: reaches("127.0.0.1", 8080))
        with closing(listen(8081)), pytest.raises(Conflict, match="listens at"):
            host.run("true", network=["six", "four"], publish=["8081:80"])
        with pytest.raises(Conflict, match="taken by container"):
            host.run("true", network="four", publish=["0.0.0.0:8080:80"])
        box.restart(timeout=0)
        assert box.ports == BOTH
        everywhere(host)
        box.remove(force=True)
        assert host.left() == []

        box = host.start(
            SERVE, network=["four", "dual"], publish=["80", "127.0.0.1:8082:80", f"[{HOST6}]:8083:80"]
        )
        [any_port] = [place.rpartition(":")[2] for place in box.ports["80/tcp"] if place.startswith("[::]")]
        assert f"0.0.0.0:{any_port}" in box.ports["80/tcp"]
        everywhere(host, int(any_port))
        until(lambda: reaches("127.0.0.1", 8082))
        everywhere(host, 8083, families=(6,))
        box.remove(force=True)
        assert host.left() == []

        with pytest.raises(InvalidInput, match="has no addresses of that family"):
            host.run("true", network=["six", "dark"], publish=["127.0.0.1:8082:80"])
        assert host.left() == []

    on_host(test)


def test_networks_that_come_and_go(on_host: OnHost) -> None:
    def test(host: Host) -> None:
        six, four, dual = (host.engine.networks.get(name) for name in ("six", "four", "dual"))
        box = host.start(SERVE, name="box", network="six", publish=["8080:80"])
        everywhere(host, families=(6,))
        four.connect("box")
        assert at(box) == {"six": ["*:8080->80/tcp"], "four": ["0.0.0.0:8080->80/tcp"]}
        assert box.ports == BOTH
        everywhere(host)
        dual.connect("box")
        assert at(box)["dual"] == []
        four.disconnect("box", force=True)
        assert set(box.ports["80/tcp"]) == set(BOTH["80/tcp"])
        everywhere(host)
        six.disconnect("box", force=True)
        assert set(box.ports["80/tcp"]) == set(BOTH["80/tcp"])
        everywhere(host)
        with within(host, box):  # to where it is, and not to where it was
            assert not reaches("fd00:60::2", 80, SILENCE)
        dual.disconnect("box", force=True)
        assert box.ports == {}
        assert [one for one in host.left() if ":" in one] == []
        four.connect("box")
        everywhere(host, families=(4,))
        assert host.engine.storage.check().findings == ()

    on_host(test)
