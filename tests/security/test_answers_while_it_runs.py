"""Servers of names that lie, wait and change their minds while containers run: with real packets."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.networks import table_of
from lamina.network import dns, firewall
from lamina.network.responder import MOST_ASKED_BY_ONE
from lamina.network.subnet import packed
from support.lab import HOST, HOST6, SILENCE, WORLD, WORLD6, ip, listen, reaches
from support.lives import until
from support.name_servers import NameServer, lookup_as_clients_do, outside
from support.network_host import Host, responder, within
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

GATEWAY = "10.50.0.1"
OTHER = "192.0.2.99"  # of the world as well

OnHost = Callable[[Callable[[Host, Path], None]], None]


@pytest.fixture
def on_host(store_root: Path, tmp_path: Path) -> OnHost:
    """`back` is a network with names; the host asks whom the file says."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {WORLD}\n")

    def call(test: Callable[[Host, Path], None]) -> None:
        def inner(host: Host) -> None:
            subprocess.run(
                ["mount", "--bind", str(resolv), str(Path("/etc/resolv.conf").resolve())], check=True
            )
            host.engine.networks.create("back", subnets=["10.50.0.0/24", "fd00:50::/64"])
            with host.inside(host.world):
                ip("addr", "add", f"{OTHER}/24", "dev", "eth0")
            test(host, resolv)

        call_on_host(store_root, inner)

    return call


def asks(host: Host, box: Any, name: str, kind: int = dns.A) -> tuple[int, list[str]]:
    with within(host, box):
        return lookup_as_clients_do(GATEWAY, name, kind)


def test_a_name_that_means_something_else_each_time_opens_no_way_in(on_host: OnHost) -> None:
    """DNS rebinding: whoever owns the name answers with this host, its loopback, its links, and containers."""

    def test(host: Host, _: Path) -> None:
        ip("addr", "add", "169.254.169.254/32", "dev", "lo")
        ip("addr", "add", "192.168.9.1/32", "dev", "lo")
        ip("-6", "addr", "add", "fd00:99::1/128", "dev", "lo")
        other = host.engine.networks.create(
            "other", subnets=["10.51.0.0/24", "fd00:51::/64"], options={"dns": "false"}
        )
        victim = host.start("sleep 1000", network="other", publish=["8080:80"])
        neighbour = host.start("sleep 1000", name="neighbour", network="back")
        servers = [listen(80, "::")]  # also of IPv4
        for box in (victim, neighbour):
            with within(host, box):
                servers.append(listen(80, "::"))
        with host.inside(host.world):
            servers.append(listen(80))
        zone: dict[tuple[str, int], list[bytes]] = {("evil.example", dns.A): [packed(WORLD)]}
        [local] = [
            line.split()[3].partition("/")[0]
            for line in ip("-6", "-o", "addr", "show", "dev", "lam-back", "scope", "link").splitlines()
        ]
        forbidden = [HOST, GATEWAY, "127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "192.168.9.1", "10.51.0.1",
                     "10.51.0.2", "10.50.0.2", HOST6, "fd00:50::1", "fd00:51::2", "fd00:50::2", "fd00:99::1", "::1",
                     "::ffff:127.0.0.1", f"::ffff:{HOST}", local]  # fmt: skip
        with outside(host, zone):
            box = host.start("sleep 1000", name="box", network="back", egress="allow=evil.example")
            who = responder()
            assert asks(host, box, "evil.example") == (0, [WORLD])
            with within(host, box):
                assert reaches(WORLD, 80)
            for address in forbidden:
                kind = dns.AAAA if ":" in address else dns.A
                zone["evil.example", kind] = [packed(address), packed(WORLD6 if kind == dns.AAAA else OTHER)]
                assert asks(host, box, "evil.example", kind)[0] == 0
                ports = (80, 8080) if address in (HOST, HOST6) else (80,)
                with within(host, box):
                    target = f"{address}%eth0" if address == local else address
                    for port in ports:
                        if not address.startswith(("127", "0", "::")):  # which are its own
                            assert not reaches(target, port, SILENCE), address
            with within(host, box):
                assert reaches(WORLD, 80), "and what it meant before is open as long as that was said"
            assert responder() == who
        for one in servers:
            one.close()
        victim.remove(force=True)
        other.remove()

    on_host(test)


class Liar:
    """A server that says the truth at last: before that others do, under other numbers and for other names."""

    def __init__(self) -> None:
        self.own, self.elsewhere = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.own.bind((WORLD, 53))
        self.elsewhere.bind((OTHER, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        lie, truth = dns.Answer(dns.A, 300, packed(OTHER)), dns.Answer(dns.A, 300, packed(WORLD))
        try:
            while True:
                data, where = self.own.recvfrom(4096)
                query = dns.read_query(data)
                if query is None or query.name.startswith("slow"):
                    continue
                lies = dns.reply(query, dns.NOERROR, [lie])
                self.elsewhere.sendto(lies, where)
                for number in range(query.identity + 1, query.identity + 200):
                    self.own.sendto(struct.pack("!H", number & 0xFFFF) + lies[2:], where)
                another = dns.read_query(dns.ask("another.example", dns.A, query.identity))
                assert another is not None
                self.own.sendto(dns.reply(another, dns.NOERROR, [lie]), where)
                self.own.sendto(data, where)  # a question is no answer
                self.own.sendto(dns.reply(query, dns.NOERROR, [truth]), where)
        except OSError:
            return

    def close(self) -> None:
        for one in (self.own, self.elsewhere):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()


def test_who_answers_in_anothers_place_or_not_at_all(on_host: OnHost) -> None:
    def test(host: Host, _: Path) -> None:
        with host.inside(host.world):
            liar = Liar()
            servers = [listen(80)]
        box = host.start("sleep 1000", name="box", network="back", egress="allow=*.example")
        free = host.start("sleep 1000", name="free", network="back")
        who = responder()
        assert asks(host, box, "good.example") == (0, [WORLD])
        with within(host, box):
            assert not reaches(OTHER, 80, SILENCE)
            assert reaches(WORLD, 80)
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.connect((GATEWAY, 53))
            for number in range(2 * MOST_ASKED_BY_ONE):
                asking.send(dns.ask(f"slow{number}.example", dns.A, number))
        with closing(asking):
            asking.settimeout(100)
            assert dns.code_of(asking.recv(4096)) == dns.SERVFAIL  # there is no room for more of his
            assert asks(host, free, "quick.example") == (0, [WORLD])
            assert asks(host, free, "box")[0] == 0
        assert responder() == who
        liar.close()
        for one in servers:
            one.close()

    on_host(test)


def test_the_hosts_servers_change_while_it_runs(on_host: OnHost) -> None:
    """Also to systemd-resolved's, which listens at an address of the loopback; and to none."""

    def test(host: Host, resolv: Path) -> None:
        def says(address: str) -> Any:
            return {("a.example", dns.A): [packed(address)]}

        first, second = outside(host, says("198.51.100.1")), outside(host, says("198.51.100.2"), OTHER)
        with first, second, closing(NameServer("127.0.0.53", says("198.51.100.3"))):
            boxes = [host.start("sleep 1000", name="free", network="back"),
                     host.start("sleep 1000", name="box", network="back", egress="allow=a.example")]  # fmt: skip
            who = responder()
            for text, meant in (
                (f"nameserver {WORLD}\n", "198.51.100.1"),
                (f"# another\nnameserver {OTHER}\noptions edns0\n", "198.51.100.2"),
                ("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n", "198.51.100.3"),
                (f"nameserver {WORLD}\n", "198.51.100.1"),
            ):
                resolv.write_text(text)
                for box in boxes:
                    until(lambda: asks(host, box, "a.example") == (0, [meant]))  # noqa: B023
            for text in ("", "\0\xff" * 1000, "nameserver\nnameserver x\nnameserver fe80::1%nosuch\n"):
                resolv.write_text(text)
                until(lambda: asks(host, boxes[0], "a.example")[0] != 0)
                assert asks(host, boxes[0], "box")[0] == 0
            resolv.write_text(f"nameserver {OTHER}\n")
            until(lambda: asks(host, boxes[1], "a.example") == (0, ["198.51.100.2"]))
            assert responder() == who

    on_host(test)


def test_after_a_flush_who_is_limited_asks_anew(on_host: OnHost) -> None:
    """A firewall begins again: nobody with a policy is told what the rules do not know; after a reload they stand."""

    def test(host: Host, _: Path) -> None:
        zone = {("good.example", dns.A): [packed(WORLD)]}
        with host.inside(host.world):
            server = listen(80)
        with outside(host, zone):
            box = host.start("sleep 1000", name="box", network="back", egress="allow=good.example")
            free = host.start("sleep 1000", name="free", network="back")
            who = responder()

            def tries() -> bool:
                with within(host, box):
                    return reaches(WORLD, 80, SILENCE)

            assert asks(host, box, "good.example") == (0, [WORLD])
            assert tries()
            host.engine.networks.reload()
            assert tries(), "rules made anew know what was told"
            firewall.delete(table_of(host.engine.store))
            until(lambda: asks(host, box, "good.example") == (dns.SERVFAIL, []))
            assert asks(host, free, "good.example") == (0, [WORLD])
            assert asks(host, free, "box")[0] == 0
            assert host.engine.storage.check().findings != ()
            host.engine.networks.reload()
            assert host.engine.storage.check().findings == ()
            assert not tries()
            until(lambda: asks(host, box, "good.example") == (0, [WORLD]) and tries())
            with within(host, box):
                assert not reaches(OTHER, 80, SILENCE)
            assert responder() == who
        server.close()

    on_host(test)
