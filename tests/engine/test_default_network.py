"""The network of containers for which none is named: `bridge` for root's of images, one of its own for each store."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import EPROTONOSUPPORT
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lamina import AsyncEngine, Engine
from lamina.engine.checking import VARIABLE, with_default
from lamina.engine.info import facts
from lamina.engine.networks import default_bridge, place_of, table_of
from lamina.errors import Conflict, InvalidInput, KernelError, NotFound, Unsupported
from lamina.linux.nftables import open_nftables, tables
from lamina.network import firewall, links
from lamina.network.model import PORTS_OF_OTHERS, Network, place_in_note
from lamina.network.subnet import packed, read_subnet
from lamina.pytest_plugin import Containers
from lamina.store import networks
from lamina.store.root import Store
from lamina.values import replace
from support.lab import HOST, WORLD, ip, listen, nft, nft_is_there, reaches, seen_by
from support.lives import remove_all, until
from support.namespaces import in_user_namespace
from support.network_host import Host, links_by_ip
from support.network_host import on_host as call_on_host
from support.small_images import small_image
from support.terminal import lamina
from support.workers import FULL

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]
DEVICES = ("ls", "/sys/class/net")


@pytest.fixture(autouse=True)
def _as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """Calls a test with a host; afterwards nothing of its containers may be left."""
    return lambda test: call_on_host(store_root, test)


def devices(engine: Engine, image: str = "tiny", **options: Any) -> list[str]:
    done = engine.run(image, DEVICES, rm=True, capture_output=True, text=True, check=True, **options)
    return sorted(str(done.stdout).split())


def names_of_links() -> set[str]:
    """But for those of containers, which go a moment after them."""
    there = {str(one["ifname"]) for one in links_by_ip()} - {"lo", "up0"}
    return {name for name in there if not name.startswith(PORTS_OF_OTHERS)}


def tables_here() -> set[str]:
    with open_nftables() as channel:
        return {name for _, name in tables(channel)}


# -- what is usual, and what is said instead


def seen_in_the_world(host: Host) -> str:
    """Where a container of the default network comes from, as whom it reaches outside sees it."""
    with host.inside(host.world):
        server = listen(80)
    with ThreadPoolExecutor(1) as pool:
        seen = pool.submit(seen_by, server)
        host.engine.run("tiny", ["sh", "-c", f"nc {WORLD} 80 </dev/null"], rm=True, check=True)
        return seen.result()


def test_roots_containers_of_images_are_in_bridge_however_they_are_started(on_host, store_root):
    def test(host):
        engine = host.engine
        assert seen_in_the_world(host) == HOST
        assert devices(engine) == ["eth0", "lo"]
        assert devices(engine, "host") == ["lo"]
        assert devices(engine, network="none") == ["lo"]
        box = engine.start("tiny", ["sleep", "1000"], name="box", publish=["8080:80"])  # which takes a link
        assert box.networks == ["bridge"]
        assert box.inspect()["HostConfig"]["NetworkMode"] == "bridge"
        assert box.exec(DEVICES, capture_output=True, text=True).stdout.split() == ["eth0", "lo"]
        [fork] = box.fork(start=True)
        assert fork.networks == ["bridge"]
        with engine.popen("tiny", DEVICES, stdout=-1, text=True, rm=True) as process:
            assert sorted(process.communicate()[0].split()) == ["eth0", "lo"]
        # the fixture of tests
        containers = Containers(engine, "test")
        assert containers.start("tiny", ["sleep", "1000"]).networks == ["bridge"]
        containers.remove()

        async def loops() -> tuple[str, list[str]]:
            loops = AsyncEngine(store_root)
            done = await loops.run("tiny", DEVICES, rm=True, capture_output=True, text=True)
            async with loops.start("tiny", ["sleep", "1000"]) as other:
                return str(done.stdout), await other.networks

        assert asyncio.run(loops()) == ("eth0\nlo\n", ["bridge"])
        shell = [*lamina("--root", str(host.root), "run", "--rm", "-d", "tiny", "sleep", "1000")]
        named = subprocess.run(shell, check=True, capture_output=True, text=True)
        assert named.stderr == ""
        assert engine.container(named.stdout.strip()).networks == ["bridge"]
        remove_all(engine)
        engine.storage.collect()  # the fork's state was the last to need its layer

    on_host(test)


def test_what_is_set_counts_where_none_is_named(on_host, monkeypatch):
    def test(host):
        root = host.root
        assert devices(Engine(root, network="none")) == ["lo"]
        assert devices(pickle.loads(pickle.dumps(Engine(root, network="none")))) == ["lo"]
        assert devices(Engine(root, network="none"), network="bridge") == ["eth0", "lo"]
        monkeypatch.setenv(VARIABLE, "none")
        assert devices(host.engine) == ["lo"]
        assert devices(Engine(root, network="")) == ["eth0", "lo"]  # what is usual
        with pytest.raises(InvalidInput, match="-p and --network none contradict each other"):
            devices(host.engine, publish=["8080:80"])
        words = lamina("--root", str(root), "run", "-d", "--rm", "tiny", "sleep", "1000")
        named = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        box = host.engine.container(named)
        assert box.networks == ["none"]
        assert (
            "--network=none" in box._home.asked()["made_by"]["words"]
        )  # for units, whose environment is another
        box.remove(force=True)
        monkeypatch.setenv(VARIABLE, "back")
        host.engine.networks.create("back")
        box = host.engine.start("tiny", ["sleep", "1000"])
        assert box.networks == ["back"]
        assert devices(host.engine, "host") == ["lo"]
        monkeypatch.setenv(VARIABLE, "nosuch")
        with pytest.raises(NotFound, match="network nosuch: no such network"):
            devices(host.engine)
        assert len(host.engine.containers(all=True)) == 1

    on_host(test)


def test_an_ordinary_users_containers_are_not_in_it(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv(VARIABLE, "none")
    assert with_default(None, "tiny", {}, None).network == "none"  # type: ignore[arg-type]


def test_a_plan_makes_nothing(on_host):
    def test(host):
        plan = host.engine.plan("tiny", ["true"])
        assert "make its links" in str(plan) or any("netlink" in str(step) for step in plan.steps)
        assert names_of_links() == set()
        assert host.engine.networks.list() == []

    on_host(test)


@pytest.mark.skipif(not nft_is_there(), reason="needs nft")
def test_who_drops_what_is_passed_on_is_told(on_host):
    """As docker does on its hosts: an accepted packet of ours is dropped there."""

    def test(host):
        def answer() -> str:
            [found] = [one.answer for one in facts() if one.name == "forward_policy"]
            return found

        devices(host.engine)
        assert answer() == "none of nf_tables"
        for family, name, policy in (
            ("ip", "FORWARD", "drop"),
            ("inet", "kind", "accept"),
            ("bridge", "x", "drop"),
        ):
            nft("add", "table", family, "filter")
            hook = f"{{ type filter hook forward priority 0; policy {policy}; }}"
            nft("add", "chain", family, "filter", name, hook)
        nft("add", "chain", "ip", "filter", "in", "{ type filter hook input priority 0; policy drop; }")
        assert answer() == "ip filter FORWARD"

    on_host(test)


# -- where this host cannot have it


@pytest.mark.userns
def test_without_the_right_to_make_links_there_is_none_and_a_warning(store_root):
    """Root of a user namespace, in this machine's network namespace."""

    def test() -> tuple[str, tuple[str, ...]]:
        found = with_default(lambda: Store(store_root), "tiny", {}, None)
        [fact] = [one.answer for one in facts() if one.name == "default"]
        assert fact == "none: make the rules of a network: only root of this network namespace may"
        return found.network, found.warnings

    assert in_user_namespace(test) == ("none", (said_of("only root of this network namespace may"),))


def said_of(why: str) -> str:
    return (
        f"no network but the loopback device: make the rules of a network: {why} "
        "(--network none asks for that, as LAMINA_NETWORK=none does)"
    )


def test_without_nf_tables_there_is_none_and_a_warning(on_host, monkeypatch):
    def test(host):
        told: list[str] = []
        with monkeypatch.context() as patched:

            def refuse() -> None:
                raise KernelError("netlink socket", EPROTONOSUPPORT, "nf_tables")

            patched.setattr(firewall, "open_nftables", refuse)
            found = with_default(lambda: host.engine.store, "tiny", {}, None)
            assert (found.network, names_of_links(), host.engine.networks.list()) == ("none", set(), [])
            done = host.engine.run("tiny", ["true"], rm=True, on_warning=told.append)
            box = host.engine.start("tiny", ["sleep", "1000"], on_warning=told.append)
            box.restart()  # once for each container
            assert told == [said_of("this kernel has no nf_tables")] * 2 == [*done.warnings] * 2
            assert box.networks == ["none"]
            for asked in ({"network": "none"}, {"network": "host"}):
                host.engine.run("tiny", ["true"], rm=True, on_warning=told.append, **asked)
            assert len(told) == 2
            with pytest.raises(Unsupported, match="this kernel has no nf_tables"):
                host.engine.run("tiny", ["true"], rm=True, publish=["80"])
        assert devices(host.engine) == ["eth0", "lo"]

    on_host(test)


def test_where_settings_cannot_be_changed_there_is_none_and_no_link_left(on_host):
    def test(host):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for words in (["--bind", "/proc/sys", "/proc/sys"], ["-o", "remount,bind,ro", "/proc/sys"]):
            subprocess.run(["mount", *words], check=True)
        told: list[str] = []
        done = host.engine.run(
            "tiny", DEVICES, rm=True, capture_output=True, text=True, on_warning=told.append
        )
        assert (done.stdout, len(told), names_of_links()) == ("lo\n", 1, set())
        assert "Read-only file system" in told[0]
        subprocess.run(["umount", "/proc/sys"], check=True)
        assert devices(host.engine) == ["eth0", "lo"]

    on_host(test)


def test_what_is_wrong_with_it_is_an_error_and_not_another_network(on_host):
    def test(host):
        name = table_of(host.engine.store)
        ip("link", "add", name, "type", "veth", "peer", "name", "other")
        with pytest.raises(Conflict, match="there is a link"):
            host.engine.run("tiny", ["true"], rm=True)
        assert host.left() == []
        ip("link", "del", name)

    on_host(test)


def test_a_bridge_whose_maker_was_killed_is_finished(on_host):
    def test(host):
        engine = host.engine
        record = networks.find(engine.store, engine.networks.get("bridge").name)
        assert record is not None
        ip("link", "add", record.bridge, "address", "02:42:0a:57:00:01", "type", "bridge")
        assert with_default(lambda: engine.store, "tiny", {}, None).network == "bridge"
        assert seen_in_the_world(host) == HOST

    on_host(test)


# -- several stores


def test_each_store_has_a_bridge_and_a_subnet_of_its_own(on_host, tmp_path):
    def test(host):
        other = Engine(tmp_path / "other")
        small_image(tmp_path / "other")
        for engine in (host.engine, other):
            engine.networks.create("back")
            engine.start("tiny", ["sh", "-c", "while :; do echo hello | nc -l -p 80; done"], name="web")
            engine.start("tiny", ["sleep", "1000"], network="back")
        bridges = [
            one.networks.get(name).bridge for one in (host.engine, other) for name in ("bridge", "back")
        ]
        assert bridges[:2] == [table_of(host.engine.store), "lam-back"]
        assert bridges[2] == table_of(other.store)
        assert bridges[3].startswith("lam-back-")
        subnets = [one.networks.get("bridge").subnets for one in (host.engine, other)]
        assert subnets == [["10.87.0.0/16"], ["10.86.0.0/16"]]
        for engine in (host.engine, other):
            address = engine.container("web").attrs["NetworkSettings"]["IPAddress"]
            until(partial(reaches, address, 80))
            ask = partial(engine.run, "tiny", ["nc", address, "80"], rm=True, capture_output=True, text=True)
            until(partial(_is_told_hello, ask))  # who was reached begins to listen again after that
        # neither can be reached by the other's containers
        box = other.container("web")
        there = host.engine.container("web").attrs["NetworkSettings"]["IPAddress"]
        assert box.exec(["nc", "-w", "1", there, "80"], capture_output=True).returncode != 0
        remove_all(other)
        for network in other.networks.list():
            network.remove()

    on_host(test)


def _is_told_hello(ask: Callable[[], Any]) -> bool:
    return "hello" in str(ask().stdout)


def test_a_subnet_that_another_store_has_meanwhile_is_left_to_that(on_host, tmp_path):
    def test(host):
        assert devices(host.engine) == ["eth0", "lo"]
        ip("link", "del", table_of(host.engine.store))  # as after a boot
        other = Engine(tmp_path / "other")
        small_image(tmp_path / "other")
        other.start("tiny", ["sleep", "1000"])
        assert other.networks.get("bridge").subnets == ["10.87.0.0/16"]
        assert devices(host.engine) == ["eth0", "lo"]
        assert host.engine.networks.get("bridge").subnets == ["10.86.0.0/16"]
        # one that somebody made stays as he made it
        host.engine.networks.get("bridge").remove()
        host.engine.networks.create("bridge", subnets=["10.99.0.0/16"])
        ip("addr", "add", "10.99.0.1/16", "dev", "up0")
        assert host.engine.networks.get("bridge").subnets == ["10.99.0.0/16"]
        ip("addr", "del", "10.99.0.1/16", "dev", "up0")
        remove_all(other)
        other.storage.prune([])

    on_host(test)


# -- what stays, and how it goes


def test_the_bridge_stays_and_is_removed_by_prune_and_rm(on_host):
    def test(host):
        engine, name = host.engine, table_of(host.engine.store)
        ways: list[Callable[[], Any]] = [
            engine.networks.prune, lambda: engine.storage.prune([]), lambda: engine.networks.get("bridge").remove(),
        ]  # fmt: skip
        for way in ways:
            devices(engine)
            until(lambda: host.ports() == [])
            assert (names_of_links(), tables_here()) == ({name}, {name})
            way()
            assert (names_of_links(), tables_here(), engine.networks.list()) == (set(), set(), [])
        box = engine.start("tiny", ["sleep", "1000"])
        engine.networks.prune()
        engine.storage.prune([])
        assert name in names_of_links()
        assert box.networks == ["bridge"]
        box.remove(force=True)
        # what somebody has made of it is not lost
        engine.networks.prune()
        engine.networks.create("bridge", subnets=["10.50.0.0/24"])
        engine.networks.prune()
        engine.storage.prune([])
        assert engine.networks.get("bridge").subnets == ["10.50.0.0/24"]

    on_host(test)


def test_whoever_prunes_meanwhile_stops_no_start(on_host):
    def test(host):
        engine, pruned, at_once = host.engine, False, 8
        with ThreadPoolExecutor(4) as pool:
            # that it is nobody's just then is up to chance, and likelier the fewer there are
            while not pruned:
                starts = [pool.submit(devices, engine) for _ in range(at_once)]
                until(lambda: names_of_links() != set())  # else there is nothing to prune yet
                while not all(start.done() for start in starts):
                    engine.networks.prune()
                    pruned = pruned or engine.networks.list() == []
                    time.sleep(0.02)
                assert [start.result() for start in starts] == [["eth0", "lo"]] * at_once
                at_once = max(1, at_once // 2)

    on_host(test)


def test_what_a_store_leaves_whose_directory_is_removed_is_found_and_goes(on_host, tmp_path):
    def test(host):
        def another(name: str) -> str:
            engine = Engine(tmp_path / name)
            small_image(tmp_path / name)
            assert devices(engine) == ["eth0", "lo"]
            engine.networks.create("back", options={"dns": "false"})  # nobody of it lives on for a while
            devices(engine, network="back")
            until(lambda: host.ports() == [])
            shutil.rmtree(tmp_path / name)
            return table_of(engine.store)

        devices(host.engine)
        own = table_of(host.engine.store)
        gone = another("gone")
        found = host.engine.storage.check().findings
        assert sorted(one.what for one in found) == sorted([f"store {gone}", "store lam-back"])
        assert {one.problem for one in found} == {"a bridge of a store that is not there"}
        assert all(one.repaired for one in host.engine.storage.check(repair=True).findings)
        assert (names_of_links(), tables_here()) == ({own}, {own})
        # and by whoever makes a default network
        another("gone")
        third = Engine(tmp_path / "third")
        small_image(tmp_path / "third")
        assert devices(third) == ["eth0", "lo"]
        until(lambda: host.ports() == [])
        assert names_of_links() == tables_here() == {own, table_of(third.store)}
        assert third.networks.get("bridge").subnets == ["10.86.0.0/16"]
        # one that lives is never taken for gone, nor one in which a container is
        host.engine.storage.check(repair=True)
        assert names_of_links() == {own, table_of(third.store)}
        box = third.start("tiny", ["sleep", "1000"])
        shutil.move(tmp_path / "third", tmp_path / "elsewhere")
        assert host.engine.storage.check(repair=True).findings == ()
        assert firewall.delete_idle(table_of(third.store)) is False
        shutil.move(tmp_path / "elsewhere", tmp_path / "third")
        box.remove(force=True)
        third.networks.prune()

    on_host(test)


def test_a_store_that_is_made_anew_at_the_same_place(on_host, store_root):
    def test(host):
        ip("addr", "add", "10.87.0.1/16", "dev", "up0")
        assert devices(host.engine) == ["eth0", "lo"]
        assert host.engine.networks.get("bridge").subnets == ["10.86.0.0/16"]
        ip("addr", "del", "10.87.0.1/16", "dev", "up0")
        until(lambda: host.ports() == [])
        shutil.rmtree(store_root)
        small_image(store_root)
        engine = host.engine = Engine(store_root)
        assert seen_in_the_world(host) == HOST
        assert engine.networks.get("bridge").subnets == ["10.87.0.0/16"]

    on_host(test)


@pytest.mark.parametrize(
    ("path", "bridge", "place"), [(b"/var/lib/lamina", "lamina0", ""), (b"/srv/x", "lamina-", "/srv/x")]
)
def test_the_systems_store_has_the_short_name(path, bridge, place):
    store: Any = SimpleNamespace(path=path)
    assert default_bridge(store).startswith(bridge)
    assert len(default_bridge(store)) <= 15
    assert place_of(store) == place


def test_where_a_bridge_belongs_is_read_from_what_is_written_to_it():
    subnet = read_subnet("10.1.0.0/24")
    network = Network("back", "b", (subnet,), (packed("10.1.0.1"),), (subnet,), b"", table="lamina-0123abcd")
    places = {
        "/srv/a of b": ("/srv/a of b", "back"),
        "": ("", ""),
        "/x\ny": ("", ""),
        "/" + "x" * 300: ("", ""),
    }
    for store, found in places.items():
        note = replace(network, store=store).note
        assert note.startswith("lamina-0123abcd network back")
        assert len(note.encode()) <= 255
        assert place_in_note(note) == found
    for alias in ("", "lamina network back of /x", "somebody network a of /x", "lamina-1 container x of /y"):
        assert place_in_note(alias) == ("", "")


# -- many at once


def test_many_starts_at_once_leave_nothing(on_host):
    """500 with LAMINA_STRESS=full, sixteen at once: no start fails, and afterwards nothing of them is there."""
    count, at_once = (500, 16) if FULL else (24, 8)

    def test(host):
        engine = host.engine

        def one(number: int) -> str:
            script = "cat /sys/class/net/eth0/address"
            if number % 3:
                done = engine.run(
                    "tiny", ["sh", "-c", script], rm=True, capture_output=True, text=True, check=True
                )
                assert done.warnings == ()
                return str(done.stdout)
            with engine.start("tiny", ["sleep", "1000"]) as box:
                return str(box.exec(["sh", "-c", script], capture_output=True, text=True, check=True).stdout)

        with ThreadPoolExecutor(at_once) as pool:
            macs = list(pool.map(one, range(count)))
        assert all(mac.startswith("02:42:0a:57:") for mac in macs)
        assert len(set(macs)) == count  # an address that was given back rests
        assert engine.containers(all=True) == []
        assert host.left() == []
        until(lambda: host.ports() == [])
        assert networks.find(engine.store, "bridge") is not None
        with links.opened() as channel:
            assert {one.name for one in links.every(channel)} == {"lo", "up0", table_of(engine.store)}

    on_host(test)


@pytest.mark.peer("setpriv")
def test_root_without_the_right_to_change_networks_is_told_so(on_host, store_root):
    """Who may make a network namespace, and nothing in it, as root of a container of systemd-nspawn."""

    def run(image: str, network: str) -> subprocess.CompletedProcess[str]:
        words = lamina("--root", str(store_root), "run", "--rm", "--network", network, image, "true")
        less = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", *words]
        env = {**os.environ, "LAMINA_WARM": "0"}
        return subprocess.run(less, capture_output=True, text=True, env=env, check=False)

    def test(host):
        for image in ("host", "tiny"):
            done = run(image, "none")
            assert done.returncode == 125
            assert "loopback device" in done.stderr
            assert "run it with CAP_NET_ADMIN, or with this host's network (--network host)" in done.stderr
            assert run(image, "host").returncode == 0

    on_host(test)
