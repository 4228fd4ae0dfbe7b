"""One container of a network cannot take the names of the others away: with real packets, while they run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamina.network import dns
from lamina.network.subnet import packed
from support.lab import WORLD
from support.lives import until
from support.name_servers import NameServer, lookup
from support.network_host import Host, responder, within
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

GATEWAY = "10.50.0.1"


@pytest.fixture
def on_host(store_root: Path, tmp_path: Path) -> Callable[[Callable[[Host], None]], None]:
    """The host asks a server in the world; `back` is a network with names."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {WORLD}\n")

    def call(test: Callable[[Host], None]) -> None:
        def inner(host: Host) -> None:
            subprocess.run(["mount", "--bind", str(resolv), os.path.realpath("/etc/resolv.conf")], check=True)
            host.engine.networks.create("back", subnets=["10.50.0.0/24"])
            test(host)

        call_on_host(store_root, inner)

    return call


@contextmanager
def outside(host: Host, zone: Any) -> Iterator[NameServer]:
    with host.inside(host.world):
        found = NameServer(WORLD, zone)
    try:
        yield found
    finally:
        found.close()


def rules_half() -> int:
    """The process that changes rules for who answers."""
    status = Path(f"/proc/{responder()}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def asks(host: Host, box: Any, name: str, **how: Any) -> tuple[int, list[str]]:
    with within(host, box):
        return lookup(GATEWAY, name, **how)


def test_while_the_rules_wait_the_others_have_their_names(on_host: Callable[..., None]) -> None:
    """The half that changes rules is stopped: who is limited fails, everybody else does not even notice."""

    def test(host: Host) -> None:
        zone = {("good.example", dns.A): [packed("192.0.2.99")]}
        with outside(host, zone):
            free = host.start("sleep 1000", name="free", network="back")
            box = host.start("sleep 1000", name="box", network="back", egress="allow=good.example,free")
            assert asks(host, box, "good.example") == (0, ["192.0.2.99"])
            assert asks(host, free, "good.example") == (0, ["192.0.2.99"])
            who, rules = responder(), rules_half()
            os.kill(rules, signal.SIGSTOP)
            try:
                assert asks(host, box, "good.example") == (dns.SERVFAIL, [])
                assert asks(host, box, "free") == (dns.SERVFAIL, [])
                assert asks(host, free, "good.example") == (0, ["192.0.2.99"])
                assert asks(host, free, "box")[0] == 0
                assert responder() == who
            finally:
                os.kill(rules, signal.SIGCONT)
            until(lambda: asks(host, box, "good.example") == (0, ["192.0.2.99"]))
            until(lambda: asks(host, box, "free")[0] == 0)
            assert (responder(), rules_half()) == (who, rules)

    on_host(test)
