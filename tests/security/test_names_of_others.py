"""One container of a network cannot take the names of the others away: with real packets, while they run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.egress_drops import ACTION, MOST, tell
from lamina.engine.network_record import attachments_in
from lamina.engine.networks import table_of
from lamina.linux.nftables import commit
from lamina.network import dns, firewall
from lamina.network.subnet import packed
from support.lab import SILENCE, WORLD, reaches
from support.lives import until
from support.name_servers import lookup_as_clients_do, outside
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


def rules_half() -> int:
    """The process that changes rules for who answers."""
    status = Path(f"/proc/{responder()}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def asks(host: Host, box: Any, name: str) -> tuple[int, list[str]]:
    with within(host, box):
        return lookup_as_clients_do(GATEWAY, name)


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
            with stopped(rules):
                assert asks(host, box, "good.example") == (dns.SERVFAIL, [])
                assert asks(host, box, "free") == (dns.SERVFAIL, [])
                assert asks(host, free, "good.example") == (0, ["192.0.2.99"])
                assert asks(host, free, "box")[0] == 0
                assert responder() == who
            until(lambda: asks(host, box, "good.example") == (0, ["192.0.2.99"]))
            until(lambda: asks(host, box, "free")[0] == 0)
            assert (responder(), rules_half()) == (who, rules)

    on_host(test)


def flood(host: Host, box: Any, count: int) -> None:
    """Send to that many places which *box* may not reach."""
    with within(host, box), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(1, count + 1):
            sender.sendto(b"x", (WORLD, port))


def test_who_sends_to_thousands_of_forbidden_places_is_in_nobodys_way(
    on_host: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them was a transaction when it was counted, for which everybody waited who asked for a name. What is told
    of it has a bound, and another one's is told all the same.
    """

    def test(host: Host) -> None:
        zone = {("good.example", dns.A): [packed("192.0.2.99")]}
        table = table_of(host.engine.store)
        with outside(host, zone):
            quiet = host.start("sleep 1000", name="quiet", network="back", egress="allow=good.example")
            loud = host.start("sleep 1000", name="loud", network="back", egress="deny")
            who = responder()
            with stopped(rules_half()):  # so that all of it is there when it looks again
                with within(host, quiet):
                    assert not reaches(WORLD, 81, SILENCE)
                flood(host, loud, 4500)
                done: list[int] = []

                def counted(*what: Any) -> None:
                    done.append(1)
                    commit(*what)

                places = [one for box in (quiet, loud) for one in attachments_in(box._home)]
                owners = {one.addresses[0]: (one.owner, one.title) for one in places}
                with monkeypatch.context() as patched:
                    patched.setattr(firewall, "commit", counted)
                    tell(host.engine.store, table, owners)
                assert len(done) < 40
                told = [one for one in host.engine.events(since=0, until=time.time()) if one.action == ACTION]
                assert len(told) <= MOST + 2
                by_name = [one.attributes["name"] for one in told]
                assert set(by_name) == {"loud", "quiet"}
                rest = [one for one in told if one.attributes["destination"] == "others"]
                assert [one.attributes["name"] for one in rest] == ["loud"]
                assert sum(int(one.attributes["packets"]) for one in told) <= 4600
            flood(host, loud, 4500)
            until(lambda: asks(host, quiet, "good.example") == (0, ["192.0.2.99"]))
            until(lambda: asks(host, loud, "quiet")[0] == 0)
            loud.remove(force=True)
            until(lambda: asks(host, quiet, "good.example") == (0, ["192.0.2.99"]))
            assert responder() == who

    on_host(test)
