"""Containers find each other by name: real questions, from within, to who answers for their network."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.networks import table_of
from lamina.errors import Conflict, InvalidInput
from lamina.network import dns
from support.lab import HOST, SILENCE, WORLD, ip
from support.lives import is_gone, until
from support.name_servers import NameServer, ask, is_cut, lookup, outside
from support.network_host import Host, responder, responders, within
from support.network_host import on_host as call_on_host
from support.peers import hierarchies, make_group, remove_group

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

GATEWAY = "10.50.0.1"
FOUR, SIX = "10.50.0.0/24", "fd00:50::/64"


@pytest.fixture
def on_host(store_root: Path, tmp_path: Path) -> Callable[[Callable[[Host], None]], None]:
    """As in test_networks; the host asks a server in the world."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(
        f"nameserver {HOST}\nnameserver {WORLD}\nsearch example.org\n"
    )  # nobody answers at the first

    def call(test: Callable[[Host], None]) -> None:
        def inner(host: Host) -> None:
            subprocess.run(["mount", "--bind", str(resolv), os.path.realpath("/etc/resolv.conf")], check=True)
            test(host)

        call_on_host(store_root, inner)

    return call


def test_containers_find_each_other_and_the_world_by_name(on_host):
    """One scenario: by name, alias and id, forwards and backwards, over UDP and TCP, renamed, gone, and shared."""

    def test(host):
        host.engine.networks.create("back", subnets=[FOUR, SIX])
        first = host.start("sleep 1000", name="db", network="back", network_aliases=["store", "Both"])
        asker = host.start("sleep 1000", name="web", network=["name=back,alias=both,ip=10.50.0.9"])
        four, six = "10.50.0.2", "fd00:50::2"
        inside = [line.split() for line in (host.run("cat", "/etc/resolv.conf", network="back")).splitlines()]
        assert inside == [["nameserver", GATEWAY], ["search", "example.org"], ["options", "ndots:0"]]
        assert asker.attrs["NetworkSettings"]["Networks"]["back"]["DNSNames"] == [
            "web",
            asker.id[:12],
            "both",
        ]
        # a client of its own, by its own resolv.conf
        said = host.run("sh", "-c", "busybox nslookup db. 2>&1; cat /etc/resolv.conf", network="back")
        assert four in said
        with within(host, asker):
            for name in ("db", "DB", "store", first.id[:12]):
                assert lookup(GATEWAY, name) == (0, [four])
            assert lookup(GATEWAY, "db", tcp=True) == (0, [four])
            assert lookup(GATEWAY, "db", dns.AAAA) == (0, [six])
            assert lookup(GATEWAY, "db", dns.SOA) == (0, [])  # it is there, and has nothing of that kind
            assert sorted(lookup(GATEWAY, "both")[1]) == sorted([four, "10.50.0.9"])
            assert len({tuple(lookup(GATEWAY, "both")[1]) for _ in range(4)}) == 2, "each comes first in turn"
            assert lookup(GATEWAY, "2.0.50.10.in-addr.arpa", dns.PTR) == (0, ["db"])
            nibbles = ".".join(reversed("fd000050" + "0" * 23 + "2"))
            assert lookup(GATEWAY, f"{nibbles}.ip6.arpa", dns.PTR) == (0, ["db"])
            assert lookup(GATEWAY, "77.0.50.10.in-addr.arpa", dns.PTR) == (dns.NXDOMAIN, [])
        first.rename("postgres")
        with within(host, asker):
            assert lookup(GATEWAY, "postgres") == (0, [four])
        many = [bytes([192, 0, 2, number]) for number in range(100, 160)]
        zone = {
            ("a.example", dns.A): [b"\xc0\0\x02\x63"],
            ("many.example", dns.A): many,
            ("db", dns.A): [bytes(4)],
        }
        with outside(host, zone) as served, within(host, asker):
            assert lookup(GATEWAY, "a.example") == (0, ["192.0.2.99"])
            assert lookup(GATEWAY, "nosuch.example") == (dns.NXDOMAIN, [])
            assert lookup(GATEWAY, "a.example", dns.AAAA) == (0, [])
            assert lookup(GATEWAY, "db") == (0, ["0.0.0.0"])  # it is called otherwise now
            assert is_cut(ask(GATEWAY, "many.example"))
            assert len(lookup(GATEWAY, "many.example", tcp=True)[1]) == 60
            assert len(lookup(GATEWAY, "many.example", room=1232)[1]) == 60  # EDNS goes through
            before = len(served.asked)
            assert lookup(GATEWAY, "postgres") == (0, [four])
            assert len(served.asked) == before, "what is the network's own nobody else hears of"
        first.restart()
        with within(host, asker):
            [address] = lookup(GATEWAY, "postgres")[1]
            assert address != four  # the next one
        first.remove(force=True)
        with within(host, asker):
            assert lookup(GATEWAY, "store") == (dns.SERVFAIL, []), (
                "nobody has it, and nobody outside answers now"
            )

    on_host(test)


def test_who_answers_comes_back_and_goes_by_itself(on_host):
    def test(host):
        back = host.engine.networks.create("back", subnets=[FOUR])
        box = host.start("sleep 1000", name="web", network="back")
        pid = responder()
        until(lambda: "Seccomp:\t2" in Path(f"/proc/{pid}/status").read_text())
        status = Path(f"/proc/{pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        shown = [
            path for path in Path(f"/proc/{pid}/root").rglob("*") if path.name in ("networks", "containers")
        ]
        assert {path.parent for path in shown} == {Path(f"/proc/{pid}/root{host.root}")}
        assert not Path(f"/proc/{pid}/root/etc").exists()
        os.kill(pid, signal.SIGKILL)
        until(lambda: is_gone(pid))
        [found] = host.engine.storage.check().findings
        assert found.what == "responder back"
        host.run("true", network="back")
        second = responder()
        with within(host, box):
            assert lookup(GATEWAY, "web") == (0, ["10.50.0.2"])
        os.kill(second, signal.SIGKILL)
        until(lambda: is_gone(second))
        assert [one.repaired for one in host.engine.storage.check(repair=True).findings] == [True]
        third = responder()
        ip("link", "del", back.bridge)
        host.engine.networks.reload()
        until(lambda: is_gone(third))
        with within(host, box):
            assert lookup(GATEWAY, "web") == (0, ["10.50.0.2"])
        box.remove(force=True)
        until(lambda: responders() == [])
        assert not list(host.root.glob("networks/back/responder*"))

    on_host(test)


def killed(groups, but):
    """Who is in *groups*, and has just been killed: somebody who was forked meanwhile is there the next time."""
    found = {int(one) for group in groups for one in (group / "cgroup.procs").read_text().split()} - {but}
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    return found


def test_who_answers_is_nobodys_part(on_host):
    """A unit of systemd whose command was the first to need it ends with all that it has started."""

    def test(host):
        host.engine.networks.create("back", subnets=[FOUR])
        unit = f"unit-{os.getpid()}"
        groups = [make_group(place, unit) for place, _ in hierarchies()]
        began = {group: (group.parent / "cgroup.procs") for group in groups}
        for group in groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        box = host.start("sleep 1000", name="web", network="back", egress="allow=web")
        pid = responder()
        for procs in began.values():
            procs.write_text(str(os.getpid()))
        own = int(box.attrs["State"]["Pid"])  # it has no group of its own in every hierarchy
        until(lambda: not killed(groups, but=own))
        assert responders() == [pid]
        places = {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
        [place] = places
        assert place.startswith(f"/lamina/names.{table_of(host.engine.store)}.back.")
        with within(host, box):
            assert lookup(GATEWAY, "web") == (0, ["10.50.0.2"])
        # the half that changes rules: without it the other one leaves, and the next start brings both back
        halves = {int(one) for one in (hierarchies()[0][0] / place[1:] / "cgroup.procs").read_text().split()}
        [other] = halves - {pid}
        os.kill(other, signal.SIGKILL)
        until(lambda: is_gone(pid))
        found = {one.what for one in host.engine.storage.check(repair=True).findings}
        assert f"group {place.rpartition('/')[2]}" in found
        assert "responder back" in found
        with within(host, box):
            until(lambda: patiently("web") == (0, ["10.50.0.2"]))
        box.remove(force=True)
        for group in groups:
            remove_group(group)

    on_host(test)


def test_nobody_else_is_answered(on_host):
    """Not the host, not the world by the host's route, not other networks, not who sends under another's address."""

    def test(host):
        host.engine.networks.create("back", subnets=[FOUR])
        host.engine.networks.create("inner", subnets=["10.51.0.0/24"], internal=True)
        host.start("sleep 1000", name="db", network="back")
        stranger = host.start("sleep 1000", name="spy", network="bridge")
        inner = host.start("sleep 1000", name="inside", network="inner")

        def silent() -> bool:
            try:
                ask(GATEWAY, "db", patience=SILENCE)
            except (TimeoutError, OSError):
                return True
            return False

        assert silent()
        with host.inside(host.world):
            ip("route", "add", FOUR, "via", HOST)
            assert silent()
        with within(host, stranger):
            assert silent()
        with outside(host, {("a.example", dns.A): [b"\xc0\0\x02\x63"]}) as served, within(host, inner):
            assert lookup("10.51.0.1", "inside") == (0, ["10.51.0.2"])
            assert lookup("10.51.0.1", "a.example") == (dns.REFUSED, []), (
                "nor does what is internal ask outside"
            )
            assert served.asked == []
        assert len(host.run("sh", "-c", "busybox nslookup db; true").split("10.50.0.2")) == 1

    on_host(test)


def test_hostile_questions_cost_others_nothing(on_host):
    def test(host):
        host.engine.networks.create("back", subnets=[FOUR])
        host.start("sleep 1000", name="db", network="back")
        attacker = host.start("sleep 1000", name="web", network="back")
        pid = responder()
        question = dns.ask("db", dns.A, 1)
        with within(host, attacker):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.connect((GATEWAY, 53))
            for hostile in (
                b"", b"\0", bytes(11), bytes(12), b"\xff" * 512, question[:-1],
                struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
                struct.pack("!6H", 1, 0, 65535, 65535, 65535, 65535),
                struct.pack("!6H", 1, 0x8000, 1, 0, 0, 0) + question[12:],
                struct.pack("!6H", 1, 0x2800, 1, 0, 0, 0) + question[12:],  # an update
                struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\x0c../../../etc\0\0\1\0\1",
            ):  # fmt: skip
                sender.send(hostile)
            streams = []
            for number in range(40):  # more than one container may have
                one = socket.create_connection((GATEWAY, 53), timeout=200)
                if number % 2:
                    one.sendall(b"\xff\xff")
                streams.append(one)
            for number in range(
                1000
            ):  # for which nobody answers: they wait, or are told at once that it failed
                sender.send(dns.ask(f"x{number}.example", dns.A, number))
            until(lambda: patiently("db") == (0, ["10.50.0.2"]))
            for one in streams:
                one.close()
            until(lambda: patiently("db", tcp=True) == (0, ["10.50.0.2"]))
        assert responders() == [pid]
        assert len(os.listdir(f"/proc/{pid}/fd")) < 400

    on_host(test)


def test_a_container_over_this_system_finds_others_by_name(on_host):
    """Its own resolv.conf and hosts, and nothing of them among what it did."""

    def test(host):
        host.engine.networks.create("back", subnets=[FOUR])
        host.start("sleep 1000", name="db", network="back")
        words = [
            "sh",
            "-c",
            "busybox nslookup db.; cat /etc/resolv.conf; tail -n 1 /etc/hosts; echo x >>/etc/hosts",
        ]
        done = host.engine.run("host", words, network="back", name="own", capture_output=True, text=True)
        assert "10.50.0.2" in done.stdout
        assert f"nameserver {GATEWAY}\n" in done.stdout
        assert done.stdout.splitlines()[-1].startswith("10.50.0.3\t")
        box = host.engine.container("own")
        assert [change for change in box.changes() if "/etc" in str(change.path)] == []

    on_host(test)


def patiently(name: str, **how: bool) -> tuple[int, list[str]]:
    """What is lost in a flood is asked again."""
    try:
        return lookup(GATEWAY, name, patience=10, **how)
    except OSError:
        return -1, []


def test_what_is_in_the_way_is_said(on_host):
    def test(host):
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.bind(("0.0.0.0", 53))
        host.engine.networks.create("back", subnets=[FOUR])
        with pytest.raises(Conflict, match=r"a program of this host has port 53 of 10.50.0.1"):
            host.run("true", network="back")
        host.engine.networks.create("plain", subnets=["10.51.0.0/24"], options={"dns": "false"})
        assert "10.51" not in host.run("cat", "/etc/resolv.conf", network="plain")
        other.close()
        host.run("true", network="back")
        with pytest.raises(InvalidInput, match="containers of network bridge have no names"):
            host.run("true", network_aliases=["x"])

    on_host(test)


def test_port_53_of_every_address_can_be_published_beside_who_answers_for_names(on_host):
    """It listens at the bridge's address alone. What is for it stays its own."""

    def test(host):
        host.engine.networks.create("back", subnets=[FOUR])
        asker = host.start("sleep 1000", name="web", network="back")
        responder()
        box = host.start("sleep 1000", name="server", publish=["53:53/udp", "53:53"])
        zone = {("a.example", dns.A): [b"\xc0\0\x02\x63"]}
        with within(host, box):
            served = NameServer("0.0.0.0", zone)
        with host.inside(host.world):
            assert lookup(HOST, "a.example") == (0, ["192.0.2.99"])
            assert lookup(HOST, "a.example", tcp=True) == (0, ["192.0.2.99"])
        with within(host, asker):
            assert lookup(GATEWAY, "web") == (0, ["10.50.0.2"])
            assert served.asked and {name for name, _ in served.asked} == {"a.example"}
        served.close()
        box.remove(force=True)
        for where in (GATEWAY, HOST, "127.0.0.1"):
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if where != GATEWAY:
                other.bind((where, 53))
            for wanted in (["53:53/udp"] if where != GATEWAY else []) + [f"{where}:53:53/udp"]:
                with pytest.raises(Conflict, match="a process of this host listens at"):
                    host.run("true", publish=[wanted])
            other.close()

    on_host(test)
