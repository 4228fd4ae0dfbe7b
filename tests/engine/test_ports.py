"""At which addresses of this host a port is published, with real packets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine import plugging
from lamina.engine.holding import Held
from lamina.engine.keeping import options_of
from lamina.errors import Conflict, InvalidInput
from lamina.network import claims
from support.lab import HOST, HOST6, SILENCE, listen, reaches
from support.lives import until
from support.network_host import Host
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

SERVE = "while :; do echo hello | nc -l -p 80; done"


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """Calls a test with a host; afterwards nothing of its containers may be left."""
    return lambda test: call_on_host(store_root, test)


def test_every_address_of_one_family_is_none_of_the_other(on_host):
    """As in docker: who writes 0.0.0.0 has opened nothing in IPv6, where firewalls are often forgotten."""

    def test(host):
        host.engine.networks.create("both", ipv6=True)
        four = host.start(SERVE, network="both", publish=["0.0.0.0:8080:80", "0.0.0.0:8081:80"])
        six = host.start(SERVE, network="both", publish=["[::]:8080:80"])
        assert four.ports == {"80/tcp": ["0.0.0.0:8080", "0.0.0.0:8081"]}
        assert six.ports == {"80/tcp": ["[::]:8080"]}
        assert six.attrs["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "::", "HostPort": "8080"}]}
        until(lambda: reaches("127.0.0.1", 8080))
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8081) and reaches(HOST6, 8080))
            assert not reaches(HOST6, 8081, SILENCE)
        six.restart()
        four.stop()
        with host.inside(host.world):
            until(lambda: reaches(HOST6, 8080))
            assert not reaches(HOST, 8080, SILENCE)
        both = host.start(SERVE, network="both", publish=["0.0.0.0:8082:80", "[::]:8082:80"])
        assert both.ports == {"80/tcp": ["0.0.0.0:8082", "[::]:8082"]}
        with pytest.raises(InvalidInput, match="no addresses of that family"):
            host.start(SERVE, network="bridge", publish=["[::]:8083:80"])

    on_host(test)


def test_a_range_for_one_port_is_any_of_it_that_is_free(on_host):
    """As in docker: several containers that are started alike each have one."""

    def test(host):
        server = listen(8081, "::1")
        host.engine.networks.create("both", ipv6=True)
        boxes = [host.start(SERVE, network="both", publish=["8080-8082:80"]) for _ in range(2)]
        assert [box.ports["80/tcp"] for box in boxes] == [
            ["0.0.0.0:8080", "[::]:8080"], ["0.0.0.0:8082", "[::]:8082"],
        ]  # fmt: skip
        with pytest.raises(Conflict, match=r"\*:8080-8082->80/tcp: every port of that range is taken"):
            host.start(SERVE, network="both", publish=["8080-8082:80"])
        server.close()
        [fork] = boxes[0].fork(start=True)
        assert fork.ports == {"80/tcp": ["0.0.0.0:8081", "[::]:8081"]}
        assert fork.attrs["HostConfig"]["PortBindings"] == {
            "80/tcp": [{"HostIp": "", "HostPort": "8080-8082"}]
        }
        assert list(fork.attrs["Config"]["ExposedPorts"]) == ["80/tcp"]
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8081) and reaches(HOST6, 8082))
        boxes[1].restart()
        assert boxes[1].ports == {"80/tcp": ["0.0.0.0:8082", "[::]:8082"]}
        for one in (fork, *boxes):
            one.remove(force=True)
        host.engine.storage.collect()  # their state was the last to need its layer

    on_host(test)


def test_a_range_is_not_what_the_same_container_has_besides(on_host):
    """Whatever was written first: who takes any port leaves those alone that are taken by their number."""

    def test(host):
        box = host.start(
            SERVE, network="bridge", publish=["8080-8083:80", "8080-8083:81", "8080:82", "127.0.0.1:8081:83"]
        )
        assert box.ports == {
            "80/tcp": ["0.0.0.0:8082"],
            "81/tcp": ["0.0.0.0:8083"],
            "82/tcp": ["0.0.0.0:8080"],
            "83/tcp": ["127.0.0.1:8081"],
        }
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8082))
        box.remove(force=True)

    on_host(test)


def test_any_port_at_several_addresses_is_one_port(on_host):
    """As in docker: who publishes a port in both families, with any port of the host, has the same one in both."""

    def test(host):
        host.engine.networks.create("both", ipv6=True)
        asked = ["0.0.0.0::80", "[::]::80", "0.0.0.0::81"]
        box = host.start(SERVE, network="both", publish=asked)
        four, six = (int(place.rpartition(":")[2]) for place in box.ports["80/tcp"])
        assert four == six
        assert box.ports["81/tcp"] != [f"0.0.0.0:{four}"]
        with host.inside(host.world):
            until(lambda: reaches(HOST, four) and reaches(HOST6, six))
        box.remove(force=True)

    on_host(test)


def test_one_port_at_several_addresses_is_free_at_each(on_host):
    """Whatever takes it at one of them: somebody who listens, another container, one of the same."""

    def test(host):
        host.engine.networks.create("both", ipv6=True)
        server = listen(8080, "::1")
        other = host.start(SERVE, network="both", publish=["127.0.0.1:8081:80"])
        box = host.start(
            SERVE,
            network="both",
            publish=["[::]:8080-8083:80", "0.0.0.0:8080-8083:80", "127.0.0.1:8082:81"],
        )
        assert box.ports == {"80/tcp": ["[::]:8083", "0.0.0.0:8083"], "81/tcp": ["127.0.0.1:8082"]}
        left = sorted(host.left())
        with pytest.raises(Conflict, match="no port is free at each of 2 addresses"):
            host.start(SERVE, network="both", publish=["[::]:8080-8083:80", "0.0.0.0:8080-8083:80"])
        assert sorted(host.left()) == left
        server.close()
        for one in (box, other):
            one.remove(force=True)

    on_host(test)


def test_any_port_is_tried_again_where_one_of_its_addresses_has_none(on_host, monkeypatch):
    """What the kernel offers for IPv4 may be taken in IPv6."""
    bind = claims._bind
    refused: list[int] = []

    def taken_once(wanted, family, host, port):
        if family == 16 and not refused:
            refused.append(port)
            raise Conflict("somebody listens there")
        return bind(wanted, family, host, port)

    def test(host):
        host.engine.networks.create("both", ipv6=True)
        box = host.engine.create("tiny", ["true"], network="both", publish=["0.0.0.0::80", "[::]::80"])
        with Held(box._home, "try"), monkeypatch.context() as patched:
            patched.setattr(claims, "_bind", taken_once)
            options = options_of(box._home.asked())
            [place] = plugging.take(box._home, "box", options)
            four, six = place.published
            assert four.host_port == six.host_port
            assert refused != [six.host_port]
            assert sorted(host.root.glob("networks/.ports/*")) == sorted(
                host.root / f"networks/.ports/tcp:{four.host_port}:{text}" for text in ("0.0.0.0", "::")
            )
            plugging.release(box._home)
        box.remove()

    on_host(test)
