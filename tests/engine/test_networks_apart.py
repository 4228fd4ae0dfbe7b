"""What others have of this host that a network of ours would have, and what is somebody's by the time it is removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamina import Engine
from lamina.engine import network_check, orphaned_bridges, responder_monitor
from lamina.engine.networks import table_of
from lamina.errors import Conflict
from lamina.linux.fd import ready
from lamina.network import links
from lamina.network.model import port_of
from lamina.network.subnet import packed, read_subnet
from lamina.store import trace
from support.lab import ip, listen, nft, nft_is_there, seen_by
from support.lives import remove_all, until
from support.network_host import Host
from support.network_host import on_host as call_on_host
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """Calls a test with a host; afterwards nothing of its containers may be left."""
    return lambda test: call_on_host(store_root, test)


def shell(box: Any, script: str) -> None:
    box.exec(["sh", "-c", script])


def asks(gateway: str, ask: Callable[[str], object]) -> bool:
    """Whether who is to *ask* comes to this host at its address *gateway*."""
    server = listen(9000, gateway)
    with closing(server), ThreadPoolExecutor(1) as pool:
        seen = pool.submit(seen_by, server)
        ask(f"nc {gateway} 9000 </dev/null")
        return seen.result().rpartition(".")[0] == gateway.rpartition(".")[0]


def test_a_network_whose_bridge_is_another_stores_by_now_gets_another(on_host, tmp_path):
    def test(host):
        other = Engine(tmp_path / "other")
        small_image(tmp_path / "other")
        both = (other, host.engine)
        for engine in both:  # none has a bridge so far, so both have that name
            for name in ("back", "side"):
                engine.networks.create(name, labels={"a": "b"}, options={"dns": "false"})
            engine.networks.create("asked", options={"bridge": "br-asked", "dns": "false"})
            engine.networks.create("placed", subnets=["10.50.0.0/24"], options={"dns": "false"})
        boxes = [
            other.start("tiny", ["sleep", "1000"], network=["back", "side", "asked", "placed"]),
            host.engine.start("tiny", ["sleep", "1000"], network="back"),
        ]
        found = [engine.networks.get("back") for engine in both]
        assert found[0].bridge == "lam-back"
        assert found[1].bridge == f"lam-back-{found[1].id[:6]}"
        assert found[1].labels == {"a": "b"}
        # nor is it the subnet that both had
        assert found[0].subnets == ["10.79.0.0/24"] != found[1].subnets
        # what somebody has asked for is his to change
        theirs = f"that of {table_of(other.store)} network asked"
        with pytest.raises(Conflict, match=f"br-asked that is not it, but {theirs}"):
            host.run("true", network="asked")
        with pytest.raises(Conflict, match="network placed: its subnet is that of lamina"):
            host.run("true", network="placed")
        # a container that is connected while it runs
        host.engine.networks.get("side").connect(boxes[1].id)
        assert host.engine.networks.get("side").bridge.startswith("lam-side-")
        for box, engine in zip(boxes, both, strict=True):
            for name in ("back", "side"):
                gateway = engine.networks.get(name).gateways[0]
                assert asks(gateway, partial(shell, box))
        assert host.engine.storage.check().findings == ()
        remove_all(other)
        for network in other.networks.list():
            network.remove()

    on_host(test)


@pytest.mark.parametrize("name", ["bridge", "back", "anew"])
def test_a_network_that_moves_while_somebody_is_about_to_be_in_it(on_host, tmp_path, name):
    """Who has read where it is, and has no address so far, is in it as it is then."""

    def test(host):
        other = Engine(tmp_path / "other")
        small_image(tmp_path / "other")
        for engine in (host.engine, other):
            if name != "bridge":
                engine.networks.create(name, options={"dns": "false"})
        if name == "bridge":
            host.run("true")  # then it has a subnet
            ip("link", "del", table_of(host.engine.store))  # as after a boot
        begin = host.engine.networks.get(name).subnets[0]
        reader, writer = os.pipe()
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:

            def wait(point: str) -> None:
                if point == "network: take addresses":
                    trace.hook = None
                    os.write(tell, b"x")
                    os.read(reader, 1)

            trace.hook = wait
            try:
                host.run("sleep", "1000", name="late", network=name)
            finally:
                os._exit(1)
        assert ready(100.0, told)
        if name == "anew":  # by somebody who knows nothing of all that
            host.engine.networks.get(name).remove()
            host.engine.networks.create(name, subnets=["10.60.0.0/24"], options={"dns": "false"})
        else:
            other.start("tiny", ["sleep", "1000"], network=name)
        host.run("true", network=name)
        now = host.engine.networks.get(name)
        assert now.subnets[0] != begin
        os.write(writer, b"x")
        until(lambda: [one.name for one in host.engine.containers()] == ["late"])
        late = host.engine.container("late")
        address = late.attrs["NetworkSettings"]["Networks"][name]["IPAddress"]
        assert read_subnet(now.subnets[0]).has(packed(address))
        assert asks(now.gateways[0], partial(shell, late))
        late.remove(force=True)
        os.waitpid(child, 0)
        remove_all(host.engine)
        remove_all(other)
        for engine in (host.engine, other):
            for network in engine.networks.list():
                network.remove()

    on_host(test)


def test_who_moves_a_network_is_killed(on_host, tmp_path):
    def test(host):
        other = Engine(tmp_path / "other")
        small_image(tmp_path / "other")
        for engine in (host.engine, other):
            engine.networks.create("back", options={"dns": "false"})
        other.start("tiny", ["sleep", "1000"], network="back")
        for step in ("network.change", "network.changed"):
            child = os.fork()
            if child == 0:
                trace.hook = lambda point: os._exit(9) if point == step else None  # noqa: B023
                host.run("true", network="back")
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
            place = host.root / "networks/back"
            assert [path.name for path in place.glob("addresses*")] == ["addresses.away"]
            host.run("true", network="back")
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == ()
            [own] = host.engine.networks.get("back").subnets
            assert own != other.networks.get("back").subnets[0]
            # once more, as it was before
            host.engine.networks.get("back").remove()
            ip("addr", "del", "10.79.0.1/24", "dev", "lam-back")
            host.engine.networks.create("back", options={"dns": "false"})
            ip("addr", "add", "10.79.0.1/24", "dev", "lam-back")
        remove_all(other)
        for network in other.networks.list():
            network.remove()

    on_host(test)


def test_two_stores_that_call_their_links_alike_are_told(on_host):
    if not nft_is_there():
        pytest.skip("needs nft")

    def test(host):
        own = table_of(host.engine.store)
        twin = f"lamina-00000{own[-3:]}"
        nft("add", "table", "inet", twin)
        with pytest.raises(
            Conflict, match=f"another store .{twin}. calls the links of its containers lw{own[-3:]}"
        ):
            host.run("true")
        assert host.left() == []
        nft("delete", "table", "inet", twin)
        host.run("true")

    on_host(test)


def test_a_link_of_somebody_elses_with_the_name_of_a_containers_stays(on_host):
    def test(host):
        box = host.engine.create("tiny", ["true"], network="bridge")
        name = port_of(box.id, 0, table_of(host.engine.store))
        ip("link", "add", name, "type", "veth", "peer", "name", "peer")
        ip("link", "set", name, "alias", "a machine's")
        with pytest.raises(Conflict, match="which is somebody else's: a machine's"):
            box.start()
        ip("link", "del", name)
        box.start()

    on_host(test)


def test_what_is_somebodys_by_now_is_not_removed(on_host, monkeypatch):
    """It was left over when it was looked for; a container was started again since."""

    def test(host):
        network = host.engine.networks.create("back")
        box = host.start("sleep 1000", name="box", network="back")
        kinds = {("link", host.ports()[0]), ("bridge", network.bridge)}
        kinds |= {("element", f"bridge macs box {box.id[:12]}")}
        monkeypatch.setattr(network_check, "_found", lambda _: kinds)
        before = (host.ports(), sorted(host.left()))
        assert len(host.engine.storage.check(repair=True).findings) == 3
        assert (host.ports(), sorted(host.left())) == before
        assert asks(network.gateways[0], partial(shell, box))
        monkeypatch.undo()

    on_host(test)


def test_the_link_of_who_begins_meanwhile_stays(monkeypatch):
    """`lamina-rules` looks which links are left of those that have ended."""
    link = SimpleNamespace(alias=f"lamina container box {'ab' * 6} network back")
    addresses: dict[str, str] = {}
    removed = []

    def noted(*_: object) -> list[Any]:
        addresses["10.1.0.2"] = "ab" * 32  # it was taken before there was a link
        return [link]

    @contextmanager
    def opened():
        yield None

    monkeypatch.setattr(responder_monitor, "leased", lambda _: dict(addresses))
    monkeypatch.setattr(links, "noted", noted)
    monkeypatch.setattr(links, "opened", opened)
    monkeypatch.setattr(links, "remove", lambda _, one: removed.append(one))
    network = SimpleNamespace(leases=b"", table="lamina", name="back")
    responder_monitor.Warden._remove_links(SimpleNamespace(network=network, has_gone=True))  # type: ignore[arg-type]
    assert removed == []


def test_a_store_that_cannot_be_looked_at_is_not_gone(monkeypatch, tmp_path):
    alias = f"lamina-01234567 network back of {tmp_path}"
    assert orphaned_bridges._is_gone(alias)

    def refused(_: str) -> None:
        raise PermissionError(13, "a file system of somebody else's")

    monkeypatch.setattr(os, "lstat", refused)
    assert not orphaned_bridges._is_gone(alias)


def test_a_damaged_record_of_one_container_keeps_no_other_from_its_rules(on_host):
    def test(host):
        box = host.start("sleep 1000", name="box", network="bridge")
        record = Path(os.fsdecode(box._home.path)) / "network.json"
        whole = record.read_text()
        record.write_text("{")
        if nft_is_there():
            nft("flush", "ruleset")
        assert asks(host.engine.networks.get("bridge").gateways[0], lambda ask: host.run("sh", "-c", ask))
        record.write_text(whole)

    on_host(test)
