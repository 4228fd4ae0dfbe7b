"""What a container that may not reach everything tries in order to reach it: with real packets, in both families."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.checking import check_options
from lamina.engine.egress import read_allowed, read_egress, written
from lamina.engine.network_record import attachments_in
from lamina.errors import InvalidInput
from lamina.linux.nftables import commit, elements, open_nftables
from lamina.network import dns, egress, firewall
from lamina.network.subnet import packed
from lamina.values import replace
from support.frames import IPV4, frame, udp4
from support.lab import (
    HOST,
    HOST6,
    PATIENCE,
    SILENCE,
    WORLD,
    WORLD6,
    Lab,
    heard,
    hears,
    in_lab,
    ip,
    listen,
    raw,
    reaches,
)
from support.lives import until
from support.name_servers import NameServer, lookup
from support.network_host import Host, responder
from support.network_host import on_host as call_on_host

root = pytest.mark.root
peers = pytest.mark.peer("ip", "busybox")


# -- what is asked


def test_what_can_be_allowed() -> None:
    for text in ("10.0.0.0/8", "10.0.0.0/8:5432", "192.0.2.7/32:443", "fd00::/8", "[fd00::/8]:443", "a.example",
                 "*.example.org:443"):  # fmt: skip
        assert written(read_allowed(text)) == text
    assert written(read_allowed("[fd00::1]")) == "fd00::1/128"
    assert written(read_allowed("Example.ORG.:80")) == "example.org:80"
    assert read_egress("deny") == ()
    assert read_egress(None) is None
    assert len(read_egress(["allow=a,b", "allow=b,10.0.0.0/8"]) or ()) == 3
    for wrong in ("", "x", "allow=", "allow=a b", "allow=a:0", "allow=a:x", "allow=[::1", "allow=10.0.0.1/8", "allow=*",
                  "allow=a.*.b", "allow=10.0.0.0.1", "allow=" + ",".join(f"a{n}" for n in range(300))):  # fmt: skip
        with pytest.raises(InvalidInput):
            read_egress([wrong])
    for mapped, meant in (("[::ffff:10.0.0.1]:80", "10.0.0.1/32"), ("::ffff:a00:0/104", "10.0.0.0/8")):
        with pytest.raises(InvalidInput, match="no packet has such an address") as caught:
            read_allowed(mapped)
        assert caught.value.remedy == f"write {meant}"
    assert written(read_allowed("::/0")) == "::/0"
    for network in ("none", "host", "container:x"):
        with pytest.raises(InvalidInput, match="contradict"):
            check_options({"network": network, "egress": "deny"})


# -- on the lab's bridge: frames


@root
@pytest.mark.peer("ip")
def test_what_is_denied_is_denied_at_every_way_out() -> None:
    """Routed, to this host, to neighbours, by link-local addresses, by raw frames; what comes in is answered."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6="fd00:88::/64")
        free = lab.container(network, "free")
        box = lab.container(network, "box", egress="allow=192.0.2.2:80,10.88.0.99,[2001:db8::2]:81")
        servers = [listen(81)]
        with lab.inside(lab.world):
            servers += [listen(80), listen(443), listen(81, WORLD6), listen(82, WORLD6)]
        with lab.inside(free):
            servers += [listen(80), listen(81, "::")]
            link_local = ip("-6", "-br", "addr", "show", "eth0").split("fe80::")[1].split("/")[0]
        with lab.inside(box):
            assert reaches(WORLD, 80)
            assert not reaches(WORLD, 443, SILENCE)
            ip("-6", "neigh", "flush", "dev", "eth0")
            assert reaches(WORLD6, 81)
            assert not reaches(WORLD6, 82, SILENCE)
            assert not reaches(HOST, 81, SILENCE)
            assert not reaches("10.88.0.1", 81, SILENCE)
            assert not reaches(free.v4, 80, SILENCE)
            assert not reaches(free.v6, 81, SILENCE)
            assert not reaches(f"fe80::{link_local}%eth0", 81, SILENCE)
            servers.append(listen(82))
        with lab.inside(free):
            assert reaches(box.v4, 82)  # who asks is answered
        assert reaches(box.v4, 82)
        with closing(hears(lab, free)) as at_free, closing(hears(lab, None)) as at_host, lab.inside(box):
            for target in (free.v4, "10.88.255.255", "255.255.255.255", "224.0.0.1"):
                for mac in (free.mac, b"\xff" * 6):
                    raw(frame(mac, box.mac, IPV4, udp4(box.v4, target)))
            assert not heard(at_free)
            assert not heard(at_host)
        for one in servers:
            one.close()

    in_lab(test)


@root
@pytest.mark.peer("ip")
def test_what_a_name_means_is_never_this_host() -> None:
    """Whoever owns a name that is allowed may answer with any address of this host; and may change his mind."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6="fd00:88::/64")
        box = lab.container(network, "box", egress="allow=evil.example")
        assert box.attachment is not None
        servers = [listen(81), listen(81, HOST6)]
        with lab.inside(lab.world):
            servers.append(listen(81))
        answered = [(60, packed(text)) for text in (HOST, HOST6, WORLD)]
        for ports in ([0], [81]):
            firewall.tell(network.table, egress.told([box.attachment], ports, answered))
            with lab.inside(box):
                assert reaches(WORLD, 81)
                assert not reaches(HOST, 81, SILENCE)
                assert not reaches(HOST6, 81, SILENCE)
        for one in servers:
            one.close()

    in_lab(test)


@root
@pytest.mark.peer("ip")
def test_only_who_answers_for_names_is_asked_for_them() -> None:
    """Not the host's own server, which may listen on every address of IPv6, and answers whatever it is asked."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6="fd00:88::/64", names=b"/nowhere")
        box = lab.container(network, "box", egress="deny")
        servers = [listen(53, "10.88.0.1"), listen(53, "fd00:88::1")]
        with lab.inside(box):
            assert reaches("10.88.0.1", 53)
            assert not reaches("fd00:88::1", 53, SILENCE)
        for one in servers:
            one.close()

    in_lab(test)


@root
@pytest.mark.peer("ip")
def test_an_answer_with_many_addresses_is_few_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a grace period of the kernel's, for which everybody waits who asks for a name in that network."""

    def test(lab: Lab) -> None:
        network = lab.network("one", subnet6="fd00:88::/64")
        box = lab.container(network, "box" * 21, egress="allow=evil.example")
        assert box.attachment is not None
        done: list[int] = []

        def counted(*what: Any) -> None:
            done.append(1)
            commit(*what)

        monkeypatch.setattr(firewall, "commit", counted)
        four = [(60, packed(f"198.51.{number // 250}.{number % 250}")) for number in range(1000)]
        six = [(60, packed(f"2001:db8::{number:x}")) for number in range(400)]
        few = [(60, packed(WORLD)), (60, packed(WORLD6))]
        for found in (four, six, few, [*few, *few], [*four[:600], *few]):
            before = len(done)
            wanted = egress.told([box.attachment], [81], found)
            firewall.tell(network.table, wanted)
            assert len(done) - before <= 1 + len(wanted) // 200
        assert len(told_in(network.table, "told4_at")) == 1001
        with lab.inside(lab.world):
            servers = [listen(81), listen(81, WORLD6)]
        with lab.inside(box):
            assert reaches(WORLD, 81)
            assert reaches(WORLD6, 81)
        # rules that are made anew leave what names mean as it is, of those who are there
        firewall.tell(network.table, egress.told([replace(box.attachment, owner="0" * 64)], [9], few))
        firewall.make(network.table, lab.everything, anew=True)
        with lab.inside(box):
            assert reaches(WORLD, 81)
            assert reaches(WORLD6, 81)
        with open_nftables() as channel:
            kept = elements(channel, "inet", network.table, "told4_at")
        assert len(kept) == 1001
        assert all(0 < one.seconds <= 60 for one in kept)
        before = len(done)
        firewall.untell(network.table, egress.told([box.attachment], [81], [*four, *few]))
        assert len(done) - before <= 1 + 2 * 1003 // 200
        assert len(told_in(network.table, "told4_at")) == 0
        with lab.inside(box):
            assert not reaches(WORLD, 81, SILENCE)
        firewall.untell(network.table, egress.told([box.attachment], [81], few))  # nothing is there any more
        for one in servers:
            one.close()

    in_lab(test)


def told_in(table: str, name: str) -> list[bytes]:
    with open_nftables() as channel:
        return [one.key for one in elements(channel, "inet", table, name)]


# -- with an engine: names


@root
@peers
def test_names_open_what_they_mean_and_nothing_else(store_root: Path, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {WORLD}\n")

    def test(host: Host) -> None:
        subprocess.run(["mount", "--bind", str(resolv), str(Path("/etc/resolv.conf").resolve())], check=True)
        engine = host.engine
        engine.networks.create("back", subnets=["10.50.0.0/24"])
        with host.inside(host.world):
            ip("addr", "add", "192.0.2.99/24", "dev", "eth0")
            servers = [listen(80), listen(443)]
            zone = {
                ("good.example", dns.A): [b"\xc0\0\x02\x63"], ("sub.good.example", dns.A): [b"\xc0\0\x02\x63"],
                ("rebound.example", dns.A): [b"\x0a\x32\0\x01", b"\xa9\xfe\xa9\xfe", b"\x7f\0\0\x01"],
                ("bad.example", dns.A): [b"\xc0\0\x02\x02"],
            }  # fmt: skip
            outside = NameServer(WORLD, zone)
        db = host.start("while :; do echo hello | nc -l -p 80; done", name="db", network="back")
        allow = "allow=good.example:80,db,rebound.example"
        box = host.start("sleep 1000", name="box", network="back", egress=allow)
        address = db.attrs["NetworkSettings"]["IPAddress"]

        def tries(host_: str, port: int, patience: float = SILENCE) -> bool:
            return bool(within(host, box, lambda: reaches(host_, port, patience)))

        def asks(name: str) -> Any:
            return within(host, box, lambda: lookup("10.50.0.1", name))

        assert not tries("192.0.2.99", 80), "before anybody said what the name means"
        assert asks("good.example") == (0, ["192.0.2.99"])
        assert tries("192.0.2.99", 80, PATIENCE)
        assert not tries("192.0.2.99", 443)
        assert asks("bad.example") == (dns.REFUSED, [])
        assert asks("sub.good.example") == (dns.REFUSED, [])
        assert asks("secret.bad.example") == (dns.REFUSED, [])
        assert {name for name, _ in outside.asked} == {"good.example"}, (
            "what is refused is not told outside either"
        )
        assert not tries(WORLD, 80)
        assert asks("rebound.example")[0] == 0
        for forbidden in ("10.50.0.1", "169.254.169.254"):
            assert not tries(forbidden, 80), "a name of the world does not open this host"
        assert not tries(address, 80)
        assert asks("db") == (0, [address])
        until(lambda: tries(address, 80))  # it listens anew for each
        with pytest.raises(TimeoutError):  # another server is no way round
            within(host, box, lambda: lookup(WORLD, "good.example", patience=SILENCE))
        # what was dropped is told, by its destination
        told: list[Any] = []

        def all_are_told() -> bool:
            told[:] = drops(engine)
            places = {(one.id, one.attributes["destination"], one.attributes.get("port")) for one in told}
            return (box.id, "192.0.2.99", "443") in places and any(place[1] == WORLD for place in places)

        until(all_are_told)
        assert all(one.attributes["name"] == "box" and int(one.attributes["packets"]) > 0 for one in told)
        # who gets its address next has nothing of it
        box.remove(force=True)
        engine.run("tiny", ["true"], network="back", ip="10.50.0.9", rm=True)
        second = host.start("sleep 1000", name="second", network="back", ip="10.50.0.3", egress="deny")
        assert not within(host, second, lambda: reaches("192.0.2.99", 80, SILENCE))
        second.remove(force=True)
        back = engine.networks.get("back")
        for rm in (True, False):  # it stays limited, whatever it is taken out of and put into
            with engine.popen("tiny", ["sleep", "600"], network="back", egress="deny", rm=rm) as process:
                back.disconnect(process.container)
                back.connect(process.container)
                [place] = attachments_in(engine.container(process.container)._home)
                assert place.egress == ()
                process.kill()
        with pytest.raises(InvalidInput, match="nobody who answers for names"):
            host.run("true", egress="allow=a.example")
        assert host.run("sh", "-c", "nc -w 1 192.0.2.99 80 </dev/null || echo no", egress="deny") == "no\n"
        for one in servers:
            one.close()
        outside.close()

    call_on_host(store_root, test)


@root
@peers
def test_an_answer_with_many_addresses_takes_names_away_from_nobody(store_root: Path, tmp_path: Path) -> None:
    """Who answers waits until they are all in the rules; where that takes too long he leaves, for everybody."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {WORLD}\n")

    def test(host: Host) -> None:
        subprocess.run(["mount", "--bind", str(resolv), str(Path("/etc/resolv.conf").resolve())], check=True)
        host.engine.networks.create("back", subnets=["10.50.0.0/24"])
        many = [packed(f"198.51.{number // 250}.{number % 250}") for number in range(500)]
        with host.inside(host.world):
            outside = NameServer(WORLD, {("evil.example", dns.A): [*many, packed(WORLD)]})
            server = listen(80)
        db = host.start("sleep 1000", name="db", network="back")
        box = host.start("sleep 1000", network="back", egress="allow=evil.example")
        who = responder()
        code, found = within(host, box, lambda: lookup("10.50.0.1", "evil.example", tcp=True))
        assert (code, len(found)) == (0, 501)
        assert within(host, box, lambda: reaches(WORLD, 80))
        assert within(host, db, lambda: lookup("10.50.0.1", "db"))[0] == 0
        assert responder() == who
        for one in (server, outside):
            one.close()

    call_on_host(store_root, test)


@root
@peers
def test_an_answer_opens_no_container_of_another_network(store_root: Path, tmp_path: Path) -> None:
    """Not by its published port either, which leads to the address that the answer names."""
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(f"nameserver {WORLD}\n")

    def test(host: Host) -> None:
        subprocess.run(["mount", "--bind", str(resolv), str(Path("/etc/resolv.conf").resolve())], check=True)
        known = host.engine.networks
        known.create("back", subnets=["10.50.0.0/24"])
        known.create("front", subnets=["10.51.0.0/24"])
        victim = host.start("sleep 1000", network="front", publish=["8080:80"])
        with host.inside(found := host.adopt(victim.attrs["State"]["Pid"])):
            server = listen(80)
        found.release()
        zone = {("evil.example", dns.A): [packed("10.51.0.2"), packed(HOST), packed("10.50.0.1")],
                ("later.example", dns.A): [packed("10.52.0.2")]}  # fmt: skip
        with host.inside(host.world):
            outside = NameServer(WORLD, zone)
            assert reaches(HOST, 8080)
        box = host.start("sleep 1000", network="back", egress="allow=evil.example,later.example")
        assert within(host, box, lambda: lookup("10.50.0.1", "evil.example"))[0] == 0
        for place, port in ((HOST, 8080), ("10.51.0.2", 80), (HOST, 53)):
            assert not within(host, box, lambda: reaches(place, port, SILENCE)), place  # noqa: B023
        # a network that is made, and a container that comes, after the answer was given
        assert within(host, box, lambda: lookup("10.50.0.1", "later.example"))[0] == 0
        known.create("late", subnets=["10.52.0.0/24"])
        late = host.start("sleep 1000", network="late", publish=["8081:80"])
        with host.inside(found := host.adopt(late.attrs["State"]["Pid"])):
            other = listen(80)
        found.release()
        with host.inside(host.world):
            assert reaches(HOST, 8081)
        assert not within(host, box, lambda: reaches(HOST, 8081, SILENCE))
        # who is in both networks, and allowed by the name, is reached
        allowed = host.start("sleep 1000", network=["back", "front"], egress="allow=" + victim.id[:12])
        assert within(host, allowed, lambda: lookup("10.50.0.1", victim.id[:12])) == (0, ["10.51.0.2"])
        assert within(host, allowed, lambda: reaches("10.51.0.2", 80))
        for one in (server, other):
            one.close()
        outside.close()

    call_on_host(store_root, test)


@root
@peers
def test_what_somebody_began_under_the_same_address_does_not_go_on(store_root: Path) -> None:
    """The kernel knows connections by addresses and ports, and not by containers; and answers pass."""

    def test(host: Host) -> None:
        host.engine.networks.create("back", subnets=["10.50.0.0/24"], options={"dns": "false"})
        with host.inside(host.world):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind((WORLD, 9))

        def arrives(box: Any, patience: float) -> bool:
            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                    sending.bind(("10.50.0.9", 7777))
                    sending.sendto(b"x", (WORLD, 9))

            within(host, box, send)
            server.settimeout(patience)
            try:
                _, where = server.recvfrom(64)
            except TimeoutError:
                return False
            server.sendto(b"y", where)  # now it is a connection
            return True

        before = host.start("sleep 1000", network="back", ip="10.50.0.9")
        assert arrives(before, PATIENCE)
        before.remove(force=True)
        after = host.start("sleep 1000", network="back", ip="10.50.0.9", egress="deny")
        assert not arrives(after, SILENCE)
        server.close()

    call_on_host(store_root, test)


def within(host: Host, box: Any, call: Callable[[], Any]) -> Any:
    found = host.adopt(box.attrs["State"]["Pid"])
    try:
        with host.inside(found):
            return call()
    finally:
        found.release()


def drops(engine: Any) -> list[Any]:
    return [one for one in engine.events(since=0, until=time.time()) if one.action == "egress-drop"]
