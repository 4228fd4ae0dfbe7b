"""Containers in several networks, connected and disconnected while they run, and what is left of who was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lamina.engine.network_record import attachments_in
from lamina.engine.networks import table_of
from lamina.errors import Conflict, ContainerFailed, InvalidInput, NotFound
from lamina.network.model import port_of
from lamina.store import trace
from support.lab import HOST, SILENCE, WORLD, listen, reaches, seen_by
from support.lives import is_gone, supervisor_of, until
from support.network_host import Host
from support.network_host import on_host as call_on_host

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

SERVE = "while :; do echo hello | nc -l -p 80; done"


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """As in test_networks."""
    return lambda test: call_on_host(store_root, test)


def two(host: Host) -> None:
    host.engine.networks.create("front", subnets=["10.50.0.0/24"])
    host.engine.networks.create("back", subnets=["10.51.0.0/24", "fd00:51::/64"])


def facts(box: Any) -> dict[str, tuple[str, str, str]]:
    """What `inspect` says: {network: (device, address, default gateway)}."""
    found = box.attrs["NetworkSettings"]["Networks"]
    return {name: (one["InterfaceName"], one["IPAddress"], one["Gateway"]) for name, one in found.items()}


def inside(box: Any, *words: str) -> str:
    done = box.exec(list(words), capture_output=True, text=True)
    return str(done.stdout)


def default_route(box: Any) -> str:
    """The device of the default route, "" without one."""
    rows = [line.split() for line in inside(box, "cat", "/proc/net/route").splitlines()]
    return next((row[0] for row in rows if row[1] == "00000000"), "")


def test_a_container_in_two_networks(on_host):
    def test(host):
        two(host)
        web = host.start(SERVE, name="db", network="back")
        words = ["front", "name=back,ip=10.51.0.77,ip6=fd00:51::77,mac-address=02:00:00:00:00:77,alias=x"]
        box = host.start("sleep 1000", name="box", network=words, publish=["127.0.0.1:8080:80"])
        assert facts(box) == {
            "front": ("eth0", "10.50.0.2", "10.50.0.1"), "back": ("eth1", "10.51.0.77", "10.51.0.1"),
        }  # fmt: skip
        assert box.networks == ["front", "back"]
        assert default_route(box) == "eth0"
        assert inside(box, "cat", "/sys/class/net/eth1/address") == "02:00:00:00:00:77\n"
        address = web.attrs["NetworkSettings"]["IPAddress"]
        until(
            lambda: "hello" in inside(box, "nc", address, "80")
        )  # it has just begun to listen, or begins again
        assert {"10.50.0.2", "10.51.0.77", "fd00:51::77"} < {
            line.split()[0] for line in inside(box, "cat", "/etc/hosts").splitlines()
        }
        box.restart()
        assert facts(box)["back"] == ("eth1", "10.51.0.77", "10.51.0.1")
        assert box.ports == {"80/tcp": ["127.0.0.1:8080"]}
        with pytest.raises(Conflict, match=r"in use by (box, db|db, box)"):
            host.engine.networks.get("back").remove()
        for wrong in (["front", "front"], ["front", "host"], ["none", "front"], [], ["name=front,ip=x"],
                      ["ip=10.50.0.9"], ["name=front,nosuch=1"], ["name=none,alias=x"]):  # fmt: skip
            with pytest.raises(InvalidInput):
                host.run("true", network=wrong)
        with pytest.raises(InvalidInput, match="said by options and by"):
            host.run("true", network=["name=front,ip=10.50.0.9"], ip="10.50.0.8")
        with pytest.raises(NotFound):
            host.run("true", network=["front", "nosuch"])

    on_host(test)


def test_connected_and_disconnected_while_it_runs(on_host):
    def test(host):
        two(host)
        front, back = (host.engine.networks.get(name) for name in ("front", "back"))
        host.start(SERVE, name="db", network="back", network_aliases=["store"])
        box = host.start("sleep 1000", name="box", network="front")
        before = inside(box, "cat", "/etc/resolv.conf")
        with pytest.raises(ContainerFailed):
            box.exec(["nc", "-w", "1", "10.51.0.2", "80"], check=True)
        back.connect(box.id, ip="10.51.0.9", aliases=["guest"])
        assert facts(box)["back"] == ("eth1", "10.51.0.9", "10.51.0.1")
        until(lambda: "hello" in inside(box, "nc", "10.51.0.2", "80"))
        assert "10.51.0.2" in inside(box, "busybox", "nslookup", "store")  # asked at the first network's
        assert "10.51.0.9\t" in inside(box, "cat", "/etc/hosts")
        assert (inside(box, "cat", "/etc/resolv.conf"), default_route(box)) == (before, "eth0")
        with pytest.raises(Conflict, match="it is in network back already"):
            back.connect(box.id)
        front.disconnect("box")
        assert facts(box).keys() == {"back"}
        assert default_route(box) == "eth1"
        assert "10.50.0" not in inside(box, "cat", "/etc/hosts")
        assert inside(box, "cat", "/etc/resolv.conf").startswith("nameserver 10.51.0.1\n")
        box.restart()  # its only network now, with what was asked of it
        assert facts(box) == {"back": ("eth0", "10.51.0.9", "10.51.0.1")}
        assert box.attrs["NetworkSettings"]["Networks"]["back"]["Aliases"] == ["guest"]
        back.disconnect(box.id)
        assert (facts(box), box.networks, default_route(box)) == ({}, ["none"], "")
        with pytest.raises(Conflict, match="it is not in network back"):
            back.disconnect(box.id)
        front.connect(box.id)
        with host.inside(host.world):
            server = listen(80)
        assert default_route(box) == "eth0"
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(seen_by, server)
            inside(box, "sh", "-c", f"nc {WORLD} 80 </dev/null")
            assert seen.result() == HOST
        server.close()
        published = host.start(SERVE, network="front", publish=["8080:80"])
        with pytest.raises(Conflict, match="its ports are published in network front"):
            front.disconnect(published.id)
        until(lambda: reaches(HOST, 8080))
        shared = host.start("sleep 1000", network="host")
        with pytest.raises(Conflict, match="its network is host, and not its own"):
            front.connect(shared.id)

    on_host(test)


def test_what_is_no_network_by_itself_cannot_be_connected_to(on_host):
    """Docker: "container cannot be disconnected from host network or connected to host network"."""

    def test(host):
        box = host.start("sleep 1000", network="bridge")
        for word in ("host", "pasta", f"container:{box.id}", "ns:/x", "cni:y"):
            with pytest.raises(NotFound, match="it is no network by itself") as caught:
                host.engine.networks.get(word).connect(box.id)
            assert f"'lamina run --network {word} ...'" in caught.value.remedy
        with pytest.raises(NotFound, match="network none: it is no network at all") as caught:
            host.engine.networks.get("none")
        assert "lamina network disconnect" in caught.value.remedy
        with pytest.raises(NotFound, match="network nosuch: no such network"):
            host.engine.networks.get("nosuch")

    on_host(test)


def test_connected_while_it_does_not_run(on_host):
    def test(host):
        two(host)
        back = host.engine.networks.get("back")
        box = host.engine.create("tiny", ["sleep", "1000"], network="front")
        back.connect(box.id, aliases=["x"])
        assert host.left() == []
        assert box.networks == ["front", "back"]
        box.start()
        assert facts(box).keys() == {"front", "back"}
        box.stop(timeout=0)
        back.disconnect(box.id)
        box.start()
        assert facts(box).keys() == {"front"}
        with pytest.raises(Conflict):
            back.disconnect(box.id)

    on_host(test)


def test_ports_are_the_containers_and_come_back_with_a_network(on_host):
    def test(host):
        two(host)
        host.engine.networks.create("dark", subnets=["10.52.0.0/24"], internal=True)
        front, back, dark = (host.engine.networks.get(name) for name in ("front", "back", "dark"))
        box = host.start(SERVE, name="box", network="front", publish=["8080:80", "127.0.0.1:8081:80"])
        box.stop(timeout=0)
        front.disconnect("box")
        [warning] = box.start()
        assert warning.startswith("its ports are not published, for it is in no network")
        assert box.ports == {}
        dark.connect("box")  # which leads nowhere
        assert (box.ports, host.ports()) == ({}, [port_of(box.id, 0, table_of(host.engine.store))])
        back.connect("box")
        published = ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:8081"]
        assert box.ports == {"80/tcp": published}
        until(lambda: reaches("127.0.0.1", 8081))
        with host.inside(host.world):
            until(lambda: reaches(HOST, 8080))
        front.connect("box")  # where they stay until it begins again
        assert [one.network.name for one in attachments_in(box._home) if one.published] == ["back"]
        box.stop(timeout=0)
        for network in (front, back, dark):
            network.disconnect("box")
        back.connect("box")
        assert box.start() == []
        assert box.ports == {"80/tcp": published}
        until(lambda: reaches("127.0.0.1", 8081))

    on_host(test)


def test_one_that_is_left_with_networks_that_lead_nowhere_starts_without_ports(on_host):
    """As in docker; whoever asks for ports in such a network when he makes it is told at once that it has none."""

    def test(host):
        two(host)
        host.engine.networks.create("dark", subnets=["10.52.0.0/24"], internal=True)
        front = host.engine.networks.get("front")
        with pytest.raises(InvalidInput, match="network dark is internal"):
            host.run("true", network="dark", publish=["8080:80"])
        box = host.start(SERVE, name="box", network=["front", "dark"], publish=["8080:80"])
        box.stop(timeout=0)
        front.disconnect("box")
        [warning] = box.start()
        assert warning == (
            "its ports are not published, for none of its networks leads out: 'lamina network connect' publishes them"
        )
        assert box.ports == {}
        assert facts(box).keys() == {"dark"}
        [listed] = host.engine.containers()
        assert listed.ports == {}
        host.run("true", network="front", publish=["8080:80"])  # which is free
        front.connect("box")
        assert box.ports == {"80/tcp": ["0.0.0.0:8080"]}
        until(lambda: reaches("127.0.0.1", 8080))
        box.stop(timeout=0)
        assert box.start() == []
        assert box.ports == {"80/tcp": ["0.0.0.0:8080"]}

    on_host(test)


def test_a_network_with_published_ports_is_left_by_force(on_host):
    def test(host):
        two(host)
        front, back = (host.engine.networks.get(name) for name in ("front", "back"))
        box = host.start(SERVE, name="box", network="front", publish=["8080:80", "127.0.0.1:8081:80"])
        back.connect("box")
        with pytest.raises(Conflict, match="its ports are published in network front"):
            front.disconnect("box")
        front.disconnect("box", force=True)
        assert facts(box).keys() == {"back"}
        assert box.ports == {"80/tcp": ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:8081"]}
        until(lambda: reaches(HOST, 8080) and reaches("127.0.0.1", 8081))
        back.disconnect("box", force=True)
        assert (facts(box), box.ports, host.left()) == ({}, {}, [])
        assert not reaches("127.0.0.1", 8081, SILENCE)
        host.run("true", publish=["8080:80"])  # which is free
        front.connect("box")
        assert box.ports == {"80/tcp": ["0.0.0.0:8080", "127.0.0.1:8081"]}
        until(lambda: reaches("127.0.0.1", 8081))

    on_host(test)


def test_ports_that_are_taken_when_a_container_is_connected(on_host):
    def test(host):
        two(host)
        front = host.engine.networks.get("front")
        box = host.start(SERVE, name="box", network="front", publish=["8079:79", "8080:80"])
        box.stop(timeout=0)
        front.disconnect("box")
        box.start()
        other = host.start("sleep 1000", name="other", network="back", publish=["8080:80"])
        left = sorted(host.left())
        with pytest.raises(Conflict, match="the port is taken by container"):
            front.connect("box")
        assert (facts(box), box.ports, sorted(host.left())) == ({}, {}, left)
        other.remove(force=True)
        front.connect("box")
        assert box.ports == {"79/tcp": ["0.0.0.0:8079"], "80/tcp": ["0.0.0.0:8080"]}

    on_host(test)


def test_a_container_on_the_wire_of_a_link_of_this_host(on_host):
    """macvlan: no bridge, no rule, an address that others on the wire see."""

    def test(host):
        known = host.engine.networks
        wire = known.create(
            "wire", driver="macvlan", subnets=["192.0.2.0/24", "2001:db8::/64"], gateways=[WORLD],
            ranges=["192.0.2.128/25"], options={"parent": "up0"},
        )  # fmt: skip
        assert (wire.driver, wire.bridge, wire.attrs["Driver"]) == ("macvlan", "", "macvlan")
        known.create("back", subnets=["10.51.0.0/24"])
        web = host.start(SERVE, name="web", network="wire", ip6="2001:db8::77")
        four = web.attrs["NetworkSettings"]["IPAddress"]
        assert four == "192.0.2.128"
        box = host.start("sleep 1000", name="box", network=["back", "wire"])
        with host.inside(host.world):
            server = listen(80)
            until(lambda: reaches(four, 80))
            until(lambda: reaches("2001:db8::77", 80))
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(seen_by, server)
            inside(box, "sh", "-c", f"nc {WORLD} 80 </dev/null")
            assert seen.result() == "192.0.2.129", "under its own address"
        server.close()
        until(lambda: "hello" in inside(box, "nc", four, "80"))
        assert default_route(box) == "eth0"
        wire.disconnect("box")
        assert facts(box).keys() == {"back"}
        wire.connect("box", ip="192.0.2.200")
        until(lambda: "hello" in inside(box, "nc", four, "80"))
        assert host.engine.storage.check().findings == ()
        for asked in ({"publish": ["80"]}, {"egress": "deny"}, {"network_aliases": ["x"]}):
            with pytest.raises(InvalidInput):
                host.run("true", network="wire", **asked)
        for wrong in (
            {}, {"subnets": ["198.51.100.0/24"]}, {"options": {"parent": "up0"}},
            {"subnets": ["198.51.100.0/24"], "options": {"parent": "up0"}, "internal": True},
        ):  # fmt: skip
            with pytest.raises(InvalidInput):
                known.create("other", driver="macvlan", **wrong)
        with pytest.raises(InvalidInput, match="a bridge has no parent"):
            known.create("other", options={"parent": "up0"})
        with pytest.raises(Conflict, match="overlaps"):
            known.create("other", driver="macvlan", subnets=["192.0.2.0/25"], options={"parent": "up0"})
        known.create("nowhere", driver="macvlan", subnets=["198.51.100.0/24"], options={"parent": "nosuch"})
        with pytest.raises(Conflict, match="its parent nosuch is not there"):
            host.run("true", network="nowhere")

    on_host(test)


POINTS = (
    "connect: take addresses",
    "connect: publish",
    "connect: plug",
    "connect: write container record",
    "disconnect: withdraw",
)


def killed(host: Host, box: Any, verb: str, watch: str) -> None:
    child = os.fork()
    if child == 0:
        try:
            trace.hook = trace.parse(watch)
            getattr(host.engine.networks.get("back"), verb)(box.id)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_who_connects_one_with_ports_is_killed_at_a_step(on_host, tmp_path):
    """Of several ports, some at any that is free: whatever of them was claimed, all are published at last."""

    def test(host):
        two(host)
        box = host.start(SERVE, name="box", network="front", publish=["8080:80", "81", "8082:82"])
        box.stop(timeout=0)
        host.engine.networks.get("front").disconnect("box")
        box.start()
        back = host.engine.networks.get("back")
        killed(host, box, "connect", f"log:{tmp_path}/steps")
        steps = (tmp_path / "steps").read_text().splitlines()
        for number, step in enumerate(steps):
            box.restart(timeout=0)
            if back.name in box.networks:
                box.stop(timeout=0)
                back.disconnect("box")
                box.start()
            # the link of the start before ends with its namespace, which the kernel clears away when it has the time,
            # and has the name of the one that is to come
            until(lambda: not host.ports())
            killed(host, box, "connect", f"kill:{number + 1}")
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == (), step
            if back.name not in facts(box):
                back.connect("box")
            assert box.ports.keys() == {"80/tcp", "81/tcp", "82/tcp"}, step
            assert len([one for one in host.left() if one.startswith("tcp:")]) == 3, step
            until(lambda: reaches("127.0.0.1", 8080))

    on_host(test)


def test_who_connects_is_killed_at_a_step(on_host, tmp_path):
    """What is left is a place without a link, or with one; `system check` finds the former, and all goes at the end."""

    def test(host):
        two(host)
        box = host.start("sleep 1000", name="box", network="front")
        back = host.engine.networks.get("back")
        killed(host, box, "connect", f"log:{tmp_path}/steps")
        killed(host, box, "disconnect", f"log:{tmp_path}/steps")
        assert facts(box).keys() == {"front"}
        steps = (tmp_path / "steps").read_text().splitlines()
        undone = steps.index("disconnect: withdraw")
        for number, step in enumerate(steps):
            if number < undone:
                killed(host, box, "connect", f"kill:{number + 1}")
            else:
                back.connect(box.id)
                killed(host, box, "disconnect", f"kill:{number - undone + 1}")
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == (), step
            if "back" in facts(box):
                assert "10.51.0" in inside(box, "cat", "/proc/net/fib_trie"), step
                back.disconnect(box.id)
            assert facts(box).keys() == {"front"}, step
            assert "eth1" not in os.listdir(f"/proc/{box.attrs['State']['Pid']}/root/sys/class/net"), step
        assert set(POINTS) <= set(steps)
        back.connect(box.id)
        box.kill(signal.SIGKILL)
        until(lambda: host.left() == [])

    on_host(test)


def test_a_link_of_the_start_before_is_not_that_of_this_one(on_host, tmp_path):
    """Somebody holds the network namespace of a start that has ended, so that its links are still there, which have the
    names of those that are to come: `system check` finds that the container of this start lacks one.
    """

    def test(host):
        two(host)
        box = host.start("sleep 1000", name="box", network="front")
        back = host.engine.networks.get("back")
        killed(host, box, "connect", f"log:{tmp_path}/steps")
        plugged = (tmp_path / "steps").read_text().splitlines().index("connect: plug") + 1
        held = os.open(f"/proc/{box.attrs['State']['Pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            box.stop(timeout=0)
            back.disconnect("box")
            box.start()
            assert host.engine.storage.check().findings == ()
            killed(host, box, "connect", f"kill:{plugged}")
            assert port_of(box.id, 1, table_of(host.engine.store)) in host.ports()
            found = [one.what for one in host.engine.storage.check().findings]
            assert found == ["unlinked box back 1"]
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == ()
            assert "10.51.0" in inside(box, "cat", "/proc/net/fib_trie")
        finally:
            os.close(held)
        box.restart(timeout=0)
        assert host.engine.storage.check().findings == ()

    on_host(test)


def test_events_tell_who_is_in_a_network_and_since_when(on_host):
    """Docker's words: what a start connects is told as what a verb connects, and its end as well."""

    def test(host):
        two(host)
        since = time.time()
        box = host.start("sleep 1000", name="box", network="front")
        back = host.engine.networks.get("back")
        back.connect(box.id)
        back.disconnect(box.id)
        back.connect(box.id)
        box.restart(timeout=0)
        supervisor = supervisor_of(box)
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: is_gone(supervisor))
        os.kill(box.attrs["State"]["Pid"], signal.SIGKILL)
        box.wait()  # whoever comes next finds out that it has ended
        box.remove(force=True)
        host.run("true", network="front")
        back.remove()
        found = list(host.engine.events(since=since, until=time.time(), filters={"type": ["network"]}))
        assert {one.attributes["type"] for one in found} == {"bridge"}
        front = [one for one in found if one.attributes["name"] == "front"]
        assert [one.action for one in front] == ["connect", "disconnect"] * 3
        assert {one.attributes["container"] for one in front[:4]} == {box.id}
        assert {one.id for one in front} == {host.engine.networks.get("front").id}
        own = host.engine.events(since=since, until=time.time(), filters={"network": ["back"]})
        assert [one.action for one in own] == ["connect", "disconnect"] * 3 + ["destroy"]
        every = host.engine.events(since=since, until=time.time(), filters={"event": ["connect", "start"]})
        assert [one.type for one in every][:2] == ["network", "container"]

    on_host(test)
