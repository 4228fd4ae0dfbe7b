"""Containers in networks, with real packets: the engine, its host and the world in network namespaces of the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import plugging
from lamina.engine.committed_image import run_of
from lamina.engine.networks import network_of, table_of
from lamina.engine.supervising import Supervisor
from lamina.errors import (
    CommandNotFound,
    Conflict,
    ContainerFailed,
    InvalidInput,
    KernelError,
    LaminaError,
    NotFound,
    Unsupported,
)
from lamina.network import firewall, leases, names, rules
from lamina.network.model import Attachment, Published, mac_of
from lamina.network.subnet import packed
from lamina.store import networks, trace
from support.lab import HOST, SILENCE, WORLD, ip, listen, nft, nft_is_there, reaches, seen_by
from support.lives import said, until
from support.network_host import Host, links_by_ip
from support.network_host import on_host as call_on_host
from support.terminal import lamina

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

SERVE = "while :; do echo hello | nc -l -p 80; done"
# as long as nobody listens: it has just begun, or has just answered somebody
HEAR = "until nc {} 80 2>/dev/null; do sleep 0.1; done"


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """Calls a test with a host; afterwards nothing of its containers may be left."""
    return lambda test: call_on_host(store_root, test)


# -- a start


def test_a_container_has_an_address_and_reaches_the_world(on_host):
    def test(host):
        with host.inside(host.world):
            server = listen(80)
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(seen_by, server)
            said_ = host.run("sh", "-c", f"nc {WORLD} 80 </dev/null; cat /etc/hosts")
            assert seen.result() == HOST
        assert said_.splitlines()[-1].startswith("10.87.0.2\t")

    on_host(test)


def test_everything_is_given_back_when_it_ends_and_the_next_gets_another_address(on_host):
    def test(host):
        show = ["sh", "-c", "tail -n 1 /etc/hosts | cut -f 1"]
        assert [host.run(*show).strip() for _ in range(3)] == ["10.87.0.2", "10.87.0.3", "10.87.0.4"]
        assert host.left() == []

    on_host(test)


def test_a_command_that_is_not_there_leaves_nothing(on_host):
    def test(host):
        with pytest.raises(CommandNotFound):
            host.run("nosuch", publish=["8080:80"])
        assert host.left() == []

    on_host(test)


def test_who_it_is_can_be_read_in_the_links_and_the_rules(on_host):
    def test(host):
        host.start("sleep 1000", name="web", publish=["8080:80"])
        [port] = host.ports()
        [found] = [one for one in links_by_ip() if one["ifname"] == port]
        assert " container web " in found["ifalias"]
        if nft_is_there():
            assert 'comment "web ' in nft("list", "ruleset")

    on_host(test)


# -- ports


def test_a_port_is_published_until_the_container_ends(on_host):
    def test(host):
        box = host.start(SERVE, publish=["8080:80", "127.0.0.1:8081:80"])
        assert box.ports == {"80/tcp": ["0.0.0.0:8080", "127.0.0.1:8081"]}
        until(lambda: reaches("127.0.0.1", 8081))
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8080))
            assert not reaches(HOST, 8081, SILENCE)
        box.restart()
        until(lambda: reaches("127.0.0.1", 8081))
        box.stop()
        assert host.left() == []
        assert box.ports == {}
        assert not reaches("127.0.0.1", 8081, SILENCE)
        box.start()
        until(lambda: reaches("127.0.0.1", 8081))

    on_host(test)


def test_a_port_published_by_one_that_is_removed_at_its_end_is_exposed_by_its_image(on_host):
    def test(host):
        words = {"rm": True, "network": "bridge", "publish": ["127.0.0.1:7001:80"]}
        with host.engine.popen("tiny", ["sleep", "600"], **words) as process:
            _, made = run_of(host.engine.container(process.container)._home.asked(), {})
            process.kill()
        assert made["exposed_ports"] == ["80/tcp"]

    on_host(test)


def test_a_port_that_is_taken_is_an_error_before_anything_runs(on_host, tmp_path):
    def test(host):
        server = listen(8080, "127.0.0.1")
        for taken in ("8080:80", "127.0.0.1:8080:80"):
            with pytest.raises(Conflict, match="a process of this host listens at"):
                host.run("touch", "/mark/ran", publish=[taken], volumes=[f"{tmp_path}:/mark"])
        server.close()
        host.start(SERVE, publish=["8080:80"])
        before = sorted(host.left())
        for start in (host.run, host.engine.start):
            words = ("touch", "/mark/ran") if start == host.run else ("tiny", ["touch", "/mark/ran"])
            with pytest.raises(Conflict, match="the port is taken by container"):
                start(*words, network="bridge", publish=["8080:80"], volumes=[f"{tmp_path}:/mark"])
            assert sorted(host.left()) == before  # and is still that container's
        until(lambda: reaches("127.0.0.1", 8080))
        assert not (tmp_path / "ran").exists()

    on_host(test)


def test_forks_have_addresses_and_ports_of_their_own(on_host):
    def test(host):
        box = host.start(SERVE, publish=["8080:80", "81"])
        told: list[str] = []
        forks = box.fork(2, start=True, on_warning=told.append)
        assert told == ["published on this host by its parent alone: *:8080->80/tcp; -p publishes others"]
        addresses, ports = set(), set()
        for one in (box, *forks):
            [network] = one.inspect()["NetworkSettings"]["Networks"].values()
            addresses.add(network["IPAddress"])
            [place] = one.ports["81/tcp"]
            ports.add(place)
            assert ("80/tcp" in one.ports) == (one == box)
        assert len(addresses) == len(ports) == 3
        [other] = box.fork(start=True, publish=["8081:80"])
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8080) and reaches(HOST, 8081))
        for one in (box, other, *forks):
            one.remove(force=True)
        host.engine.storage.collect()  # their state was the last to need its layer

    on_host(test)


def test_random_ports_and_those_of_the_image(on_host):
    def test(host):
        first, second = (host.start("sleep 1000", publish=["80", "53/udp"]) for _ in range(2))
        places = [place for box in (first, second) for at in box.ports.values() for place in at]
        assert len(set(places)) == 4
        assert set(first.ports) == {"80/tcp", "53/udp"}
        assert first.attrs["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == "10.87.0.2"

    on_host(test)


# -- networks


def test_the_default_network_made_by_hand_is_as_it_is_by_itself(on_host):
    def test(host):
        made = host.engine.networks.create("bridge")
        assert (made.bridge, made.subnets) == (table_of(host.engine.store), ["10.87.0.0/16"])
        assert made == host.engine.networks.get("bridge")

    on_host(test)


def test_networks_are_apart_and_those_of_one_are_together(on_host):
    def test(host):
        host.engine.networks.create("back", ipv6=True)
        web = host.start(SERVE, network="back")
        address = web.attrs["NetworkSettings"]["IPAddress"]
        assert "hello" in host.run("sh", "-c", HEAR.format(address), network="back")
        with pytest.raises(ContainerFailed):
            host.run("nc", "-w", "1", address, "80")
        with pytest.raises(Conflict, match="in use by"):
            host.engine.networks.get("back").remove()

    on_host(test)


def test_what_was_asked_of_address_mac_and_names(on_host):
    def test(host):
        host.engine.networks.create(
            "back", subnets=["10.50.0.0/24", "fd00:50::/64"], ranges=["10.50.0.128/25"]
        )
        said_ = host.run(
            "sh", "-c", "cat /etc/hosts /etc/resolv.conf /sys/class/net/eth0/address", network="back", ip="10.50.0.9",
            ip6="fd00:50::9", mac_address="02:00:00:00:00:09", add_hosts=["up:host-gateway", "db=10.9.9.9"],
            dns=["192.0.2.53"], dns_search=["example.org"], dns_options=["ndots:2"], hostname="box",
        ).splitlines()  # fmt: skip
        assert said_[6:] == [
            "10.50.0.1\tup", "fd00:50::1\tup", "10.9.9.9\tdb", *said_[9:11], "nameserver 10.50.0.1",
            "search example.org", "options ndots:2", "02:00:00:00:00:09",
        ]  # fmt: skip
        assert [line.split()[:2] for line in said_[9:11]] == [["10.50.0.9", "box"], ["fd00:50::9", "box"]]
        assert host.run("sh", "-c", "tail -n 2 /etc/hosts", network="back").startswith("10.50.0.128\t")
        # of one that is made first and begins later, too
        box = host.start("sleep 1000", network="back", add_hosts=["up:host-gateway"])
        assert "10.50.0.1\tup\n" in str(
            box.exec(["cat", "/etc/hosts"], capture_output=True, text=True).stdout
        )

    on_host(test)


def test_the_network_of_another_container_and_a_path(on_host):
    def test(host):
        web = host.start(SERVE, name="web")
        hear = ["sh", "-c", HEAR.format("127.0.0.1")]
        assert "hello" in host.run(*hear, network="container:web")
        pid = web.attrs["State"]["Pid"]
        assert "hello" in host.run(*hear, network=f"ns:/proc/{pid}/ns/net")
        with pytest.raises(InvalidInput, match="no network namespace"):
            host.run("true", network="ns:/proc/self/ns/uts")
        with pytest.raises(KernelError, match="No such file") as missing:
            host.run("true", network="ns:/nosuch")
        assert "ip netns list" in missing.value.remedy
        web.stop()
        with pytest.raises(Conflict, match="does not run"):
            host.run("true", network="container:web")

    on_host(test)


# -- bad input


def test_networks_that_cannot_be_meant(on_host):
    def test(host):
        known = host.engine.networks
        known.create("back", subnets=["10.50.0.0/24"])
        for wrong, why in (
            ({"subnets": ["10.50.0.128/25"]}, "overlaps 10.50.0.0/24 of network back"),
            ({"subnets": ["192.0.2.0/25"]}, "overlaps 192.0.2.0/24"),
        ):
            with pytest.raises(Conflict, match=why):
                known.create("other", **wrong)
        asked: tuple[dict[str, Any], ...] = (
            {"subnets": ["10.50.1.1/24"]}, {"subnets": ["10.51.0.0/24", "10.52.0.0/24"]}, {"subnets": ["10.51.0.0/31"]},
            {"subnets": ["10.51.0.0/24"], "gateways": ["10.52.0.1"]}, {"options": {"mtu": "9"}},
            {"options": {"x": "y"}},
            {"subnets": ["10.51.0.0/24"], "ranges": ["10.52.0.0/25"]}, {"options": {"bridge": "a/b"}},
            {"subnets": ["10.51.0.0/24"], "gateways": ["10.51.0.255"]},
        )  # fmt: skip
        for unfit in asked:
            with pytest.raises(InvalidInput):
                known.create("other", **unfit)
        for name in ("host", "none", "-x", "a/b", "container"):
            with pytest.raises(InvalidInput):
                known.create(name)
        with pytest.raises(Conflict, match="there is one of that name"):
            known.create("back")
        assert [one.name for one in known.list()] == ["back"]
        with pytest.raises(NotFound, match="network nosuch: no such network"):
            host.run("true", network="nosuch")
        with pytest.raises(NotFound):
            host.engine.create("tiny", ["true"], network="nosuch")
        assert host.engine.containers(all=True) == []

    on_host(test)


def test_a_subnet_that_is_exhausted(on_host):
    def test(host):
        host.engine.networks.create("small", subnets=["10.50.0.0/30"])
        box = host.start("sleep 1000", network="small")
        with pytest.raises(Conflict, match=r"take an address of 10.50.0.0/30: every one is taken"):
            host.run("true", network="small")
        box.remove(force=True)
        host.run("true", network="small")

    on_host(test)


def test_a_range_and_subnets_that_are_exhausted(on_host, monkeypatch):
    """Of a part of a subnet, which others may have by --ip; and of what is given to those who name none."""

    def test(host):
        known = host.engine.networks
        known.create("part", subnets=["10.50.0.0/24"], ranges=["10.50.0.128/31"])
        boxes = [host.start("sleep 1000", network="part") for _ in range(2)]
        with pytest.raises(
            Conflict, match=r"take an address of 10.50.0.128/31 of 10.50.0.0/24: every one is taken"
        ):
            host.run("true", network="part")
        host.run("true", network="part", ip="10.50.0.9")
        with pytest.raises(Conflict, match=r"network part: in use by"):
            known.get("part").remove()
        with pytest.raises(Conflict, match=r"10.50.0.128: taken by container"):
            host.run("true", network="part", ip="10.50.0.128")
        monkeypatch.setattr("lamina.engine.network_drawing._OF_OTHERS", ("10.50.0.0/24", "192.0.2.0/24"))
        with pytest.raises(Conflict, match="make network more: no subnet is free") as caught:
            known.create("more")
        assert "--subnet" in caught.value.remedy
        for box in boxes:
            box.remove(force=True)
        with pytest.raises(NotFound):
            known.get("nosuch")
        with pytest.raises(NotFound, match="network nosuch: no such network"):
            host.run("true", network=["part", "nosuch"])

    on_host(test)


def test_addresses_and_ports_that_no_container_can_have(on_host):
    def test(host):
        for wrong in (
            {"ip": "10.99.0.5"},
            {"ip": "10.87.0.1"},
            {"ip6": "fd00::5"},
            {"publish": ["192.0.2.77:80:80"]},
        ):
            with pytest.raises((InvalidInput, Conflict)):
                host.run("true", **wrong)
        host.engine.networks.create("inner", internal=True)
        with pytest.raises(InvalidInput, match="internal"):
            host.run("true", network="inner", publish=["80:80"])
        assert host.left() == []

    on_host(test)


def test_a_host_without_nftables(on_host, monkeypatch):
    def refuse() -> None:
        raise KernelError("netlink socket", 93, "nf_tables")

    def test(host):
        with monkeypatch.context() as patched:
            patched.setattr(firewall, "open_nftables", refuse)
            with pytest.raises(Unsupported, match="this kernel has no nf_tables") as caught:
                host.run("true")
            assert "--network none" in caught.value.remedy

    on_host(test)


def test_a_host_without_ipv6(on_host, monkeypatch):
    from lamina.network import forwarding

    def test(host):
        with monkeypatch.context() as patched:
            patched.setattr(forwarding, "has_ipv6", lambda: False)
            with pytest.raises(Unsupported, match="this host has no IPv6"):
                host.engine.networks.create("six", ipv6=True)
            host.run("true")

    on_host(test)


def test_a_link_of_somebody_else_has_the_bridges_name(on_host):
    def test(host):
        name = table_of(host.engine.store)
        ip("link", "add", name, "type", "veth", "peer", "name", "other")
        with pytest.raises(Conflict, match=f"there is a link {name} that is not it"):
            host.run("true")
        assert host.left() == []
        ip("link", "del", name)

    on_host(test)


# -- others interfere


@pytest.mark.skipif(not nft_is_there(), reason="needs nft")
def test_a_firewall_that_begins_again(on_host):
    """The next start makes the rules anew, with those of the containers that run."""

    def test(host):
        host.start(SERVE, publish=["8080:80"])
        until(lambda: reaches(HOST, 8080))
        nft("flush", "ruleset")
        assert not reaches(HOST, 8080, SILENCE)
        host.run("true")
        until(lambda: reaches(HOST, 8080))
        nft("flush", "ruleset")
        host.engine.networks.reload()
        until(lambda: reaches("127.0.0.1", 8080))

    on_host(test)


def test_a_bridge_that_somebody_removed_is_made_anew(on_host):
    def test(host):
        host.start(SERVE, publish=["8080:80"])
        until(lambda: reaches("127.0.0.1", 8080))
        ip("link", "del", table_of(host.engine.store))
        host.run("true")  # its own link works again at once
        host.engine.networks.reload()
        until(lambda: reaches("127.0.0.1", 8080))

    on_host(test)


def test_networks_whose_bridge_somebody_removed(on_host):
    """With containers in them and without: the next start, connecting, disconnecting and removal all go on."""

    def test(host):
        known = host.engine.networks
        back = known.create("back", subnets=["10.50.0.0/24"])
        front = known.create("front", subnets=["10.51.0.0/24"])
        box = host.start("sleep 1000", name="box", network="back")
        second = host.start("sleep 1000", name="second", network="front")
        for bridge in (back.bridge, front.bridge):
            ip("link", "del", bridge)
        front.connect(box.id)
        assert "10.51.0" in str(box.exec(["cat", "/etc/hosts"], capture_output=True, text=True).stdout)
        back.disconnect(box.id)
        host.run("true", network="back")
        ip("link", "del", back.bridge)
        back.remove()
        assert [one.name for one in known.list()] == ["front"]
        for one in (box, second):
            one.remove(force=True)

    on_host(test)


@pytest.mark.skipif(not os.path.exists("/proc/sys/net/ipv6"), reason="needs IPv6, to switch it off")
def test_a_host_whose_ipv6_is_switched_off(on_host):
    """By its setting, as root does: networks of IPv4 are as always, others say why."""

    def test(host):
        known = host.engine.networks
        six = known.create("six", subnets=["10.50.0.0/24", "fd00:50::/64"])
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        with pytest.raises(Unsupported, match="this host has no IPv6"):
            known.create("other", ipv6=True)
        assert host.run("sh", "-c", "tail -n 1 /etc/hosts | cut -f 1", network="bridge").count(".") == 3
        with pytest.raises(LaminaError) as caught:
            host.run("true", network="six")
        assert "IPv6" in str(caught.value)
        assert host.left() == []
        six.remove()

    on_host(test)


def test_an_engine_that_is_killed_leaves_nothing_for_long(on_host):
    def test(host):
        words = lamina(
            "--root", str(host.root), "run", "--network", "bridge", "-p", "8080:80", "tiny", "sleep", "1000"
        )
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: "tcp:8080:*" in host.left())
        until(lambda: any(one.startswith("ports4 ") for one in host.left()))
        process.kill()
        process.wait()
        host.engine.containers()  # any command looks after it
        until(lambda: host.engine.containers() == [])
        assert host.left() == []

    on_host(test)


POINTS = ("start: take addresses and ports", "start: connect", "start: launch", "start: launched",
          "end: give addresses and ports back", "end: write exit record")  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_supervisor_that_is_killed_at_a_step(on_host, point, tmp_path):
    def started(host, box, watch):
        os.environ[trace.VARIABLE] = watch
        try:
            box.start()
        except LaminaError as error:
            assert "supervisor ended" in error.message
        finally:
            del os.environ[trace.VARIABLE]
        until(lambda: not box._home.is_looked_after())
        until(lambda: host.engine.container(box.id).state != "running")

    def test(host):
        box = host.engine.create("tiny", ["true"], network="bridge", publish=["8080:80"])
        started(host, box, f"log:{tmp_path}/steps")
        assert host.left() == []
        steps = (tmp_path / "steps").read_text().splitlines()
        started(host, box, f"kill:{steps.index(point) + 1}")
        host.engine.containers()
        assert host.left() == []
        box.start()
        until(lambda: box.state == "exited" and not box._home.is_looked_after())
        assert host.left() == []

    on_host(test)


# -- many


def test_a_start_that_fails_at_its_last_step_gives_everything_back(on_host):
    """The disk is full when the command runs already."""

    def test(host):
        def full(_: object) -> None:
            raise KernelError("write record", ENOSPC)

        box = host.engine.create("tiny", ["sleep", "600"], network="bridge")
        child = os.fork()
        if child == 0:
            try:
                Supervisor._begin_health = full  # type: ignore[method-assign, assignment]
                supervisor = Supervisor(box.store, box.id)
                try:
                    supervisor.start()
                except KernelError as failure:
                    assert supervisor.process is None
                    supervisor.abandon(failure)
                    os._exit(len(getattr(failure, "__notes__", ())))
            finally:
                os._exit(100)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert host.left() == []
        assert box.state == "exited"
        assert box.wait() == 137
        box.start()
        assert box.state == "running"

    on_host(test)


def test_a_clean_up_that_fails_does_not_hide_what_failed_first(on_host, monkeypatch):
    release, calls = plugging.release, []

    def failing(home):
        calls.append(home.id)
        if len(calls) == 2:
            raise KernelError("netlink", ENOSPC)
        release(home)

    def test(host):
        host.start("sleep 600", publish=["7002:80"])
        monkeypatch.setattr(plugging, "release", failing)
        with pytest.raises(Conflict, match="7002") as raised:
            host.run("true", publish=["7002:80"])
        assert "netlink" in str(raised.value.__notes__)
        monkeypatch.undo()

    on_host(test)


def test_many_starts_at_once(on_host):
    """Sixty-four, eight at once: each has another address while it runs, none fails, nothing is left."""

    def test(host):
        def one(_: int) -> str:
            return str(host.run("sh", "-c", "tail -n 1 /etc/hosts | cut -f 1; sleep 0.1")).strip()

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(one, range(64)))
        assert len(found) == 64
        assert set(found) <= {f"10.87.0.{number}" for number in range(2, 255)}
        assert host.left() == []

    on_host(test)


def test_many_connections_through_a_published_port(on_host):
    def test(host):
        box = host.start("sleep 1000", publish=["8080:80"])
        pid = box.attrs["State"]["Pid"]
        with open(f"/proc/{pid}/ns/net") as namespace:
            from lamina.linux.namespaces import setns

            setns(namespace.fileno(), 0x40000000)
            server = socket.create_server(("0.0.0.0", 80), backlog=1024)
            setns(host.here, 0x40000000)
        server.setblocking(False)
        with host.inside(host.world):
            done = 0
            for _ in range(1000):
                client = socket.create_connection((HOST, 8080), timeout=200)
                accepted = None
                while accepted is None:
                    try:
                        accepted, _address = server.accept()
                    except BlockingIOError:
                        time.sleep(0.001)
                accepted.sendall(b"x")
                done += client.recv(1) == b"x"
                client.close()
                accepted.close()
        assert done == 1000

    on_host(test)


def test_a_container_that_lives_says_what_it_said(on_host):
    def test(host):
        box = host.start("echo up; exec sleep 1000")
        until(lambda: said(box) == b"up\n")
        box.kill("KILL")
        until(lambda: box.state == "exited")
        assert box.exit_code == 128 + signal.SIGKILL

    on_host(test)


# -- system check


def test_check_finds_what_was_left_over_and_removes_it(on_host):
    def test(host):
        store = host.engine.store
        host.start("sleep 1000", publish=["8080:80"], name="alive")
        record = networks.find(store, "bridge")
        assert record is not None
        network = network_of(store, record)
        dead = Attachment("d" * 64, "dead", network, 0, (packed("10.87.9.9"),), mac_of(packed("10.87.9.9")), "eth0",
                          (Published("tcp", b"", 9090, 90),))  # fmt: skip
        leases.take_this(network.leases, network.subnets[0], dead.addresses[0], (), dead.owner)
        (host.root / "networks/.ports/tcp:9090:*").symlink_to(dead.owner)
        names.take(networks.names_of(store, "bridge"), "ghost", dead.owner, dead.addresses)
        firewall.add(network.table, rules.of_attachment(dead), lambda: ([], []))
        ip("link", "add", dead.port, "type", "veth", "peer", "name", "x0")
        ip("link", "set", dead.port, "alias", dead.alias)
        ip("link", "add", "lam-gone", "type", "bridge")
        ip("link", "set", "lam-gone", "alias", f"{network.table} network gone")

        found = host.engine.storage.check().findings
        assert sorted(one.what for one in found) == sorted([
            "address bridge 10.87.9.9", "name bridge ghost", "port tcp:9090:*", f"link {dead.port}", "bridge lam-gone",
            f"element bridge macs dead {'d' * 12}", f"element bridge addresses4 dead {'d' * 12}",
            f"element inet ports4 dead {'d' * 12}",
        ])  # fmt: skip
        assert {(one.severity, one.kind, one.repaired) for one in found} == {("left over", "network", False)}
        assert all(one.repaired for one in host.engine.storage.check(repair=True).findings)
        assert host.engine.storage.check().findings == ()
        assert any("tcp:8080:*" in one for one in host.left())  # what lives is not touched
        firewall.delete(network.table)
        assert [one.what for one in host.engine.storage.check(repair=True).findings] == [
            f"rules {network.table}"
        ]
        assert host.engine.storage.check().findings == ()

    on_host(test)
