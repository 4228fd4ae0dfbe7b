"""Whoever makes, starts in, and removes a network is killed at each step: what is left is found, and goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import plugging
from lamina.engine.network_record import Ledger, attachments_in
from lamina.engine.networks import table_of
from lamina.errors import Conflict, KernelError, LaminaError
from lamina.linux.nftables import elements, open_nftables
from lamina.network.subnet import text_of
from lamina.store import trace
from lamina.values import replace
from support.lab import WORLD, ip, reaches
from support.lives import until
from support.network_host import Host, links_by_ip, on_host, responders, within

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

OF_A_START = {
    "network: take addresses", "network: take names", "network: make bridge", "network: add its rules",
    "network: see that names are answered", "network: guard", "network: link", "network: linked", "network: withdraw",
    "network: give names back", "network: give ports back",
}  # fmt: skip
OF_A_NETWORK = {"network.rename", "network.remove", "network: take its rules down", "network: remove bridge"}


def child(call: Callable[[], object], watch: str) -> None:
    """Call it in a process that is watched, and may be killed."""
    if (pid := os.fork()) == 0:
        trace.hook = trace.parse(watch)
        try:
            call()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def steps_of(call: Callable[[], object], log: Path) -> list[tuple[int, str]]:
    """(number, name) of the steps that have to do with networks; each name once."""
    log.unlink(missing_ok=True)
    child(call, f"log:{log}")
    every = log.read_text().splitlines()
    first = {
        name: number for number, name in reversed(list(enumerate(every, 1))) if name.startswith("network")
    }
    return sorted((number, name) for name, number in first.items())


def test_who_starts_a_container_in_a_network_is_killed(store_root: Path, tmp_path: Path) -> None:
    def test(host: Host) -> None:
        def run() -> None:
            host.run(
                "true",
                network="back",
                publish=["8080:80"],
                network_aliases=["x"],
                egress="allow=x,10.0.0.0/8:80",
            )

        def made_anew() -> None:
            for one in host.engine.networks.list():
                one.remove()
            until(lambda: responders() == [])
            host.engine.networks.create("back", ipv6=True)

        made_anew()
        steps = steps_of(run, tmp_path / "steps")
        assert {name for _, name in steps} >= OF_A_START
        for number, name in steps:
            made_anew()
            child(run, f"kill:{number}")
            host.engine.containers()  # any command looks after what was left
            until(lambda: host.engine.containers(all=True) == [])
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == (), name
            assert host.left() == [], name
        run()

    on_host(store_root, test)


def test_who_makes_or_removes_a_network_is_killed(store_root: Path, tmp_path: Path) -> None:
    def test(host: Host) -> None:
        known = host.engine.networks

        def make() -> None:
            known.create("back", subnets=["10.50.0.0/24", "fd00:50::/64"])

        def remove() -> None:
            known.get("back").remove()

        def in_use() -> None:
            make()
            host.run("true", network="back")

        steps = steps_of(make, tmp_path / "steps")
        host.run("true", network="back")
        steps_of_removal = steps_of(remove, tmp_path / "steps")
        assert {name for _, name in (*steps, *steps_of_removal)} >= OF_A_NETWORK
        for number, name in steps:
            child(make, f"kill:{number}")
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == (), name
            if known.list():
                remove()
        for number, name in steps_of_removal:
            in_use()
            child(remove, f"kill:{number}")
            if name.startswith("network: "):
                # made anew before anybody has looked: with another subnet, under the same name
                found = {one.what for one in host.engine.storage.check().findings}
                assert "bridge lam-back" in found, name
                assert known.list() == []
                known.create("back", subnets=["10.60.0.0/24"])
                assert "10.60.0.2" in host.run("cat", "/etc/hosts", network="back")
                remove()
                in_use()
                child(remove, f"kill:{number}")
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == (), name
            for one in known.list():
                one.remove()
            until(lambda: responders() == [])
            # a link goes some time after the last process that lived with its other end
            until(lambda: [one["ifname"] for one in links_by_ip()] == ["lo", "up0"])

    on_host(store_root, test)


OF_A_SUPERVISOR = {
    "start: held", "start: marked", "start: take addresses and ports", "start: furnish", "start: connect",
    "start: launch", "start: launched", "start: write state record", "start: drop exit record", "start: done",
    "end: give addresses and ports back", "end: write exit record", "end: finish",
} | OF_A_START  # fmt: skip


@pytest.mark.slow
def test_a_supervisor_is_killed_at_each_step(
    store_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run -d` of what ends at once, in a network with names, with a port, an alias and a policy."""

    def start(box: Any, watch: str) -> None:
        monkeypatch.setenv(trace.VARIABLE, watch)  # a fresh interpreter reads it
        try:
            box.start()
        except LaminaError as error:
            assert "supervisor ended" in error.message
        finally:
            monkeypatch.delenv(trace.VARIABLE)
        until(lambda: not box._home.is_looked_after())

    def test(host: Host) -> None:
        host.engine.networks.create("back", ipv6=True)
        box = host.engine.create(
            "tiny", ["true"], network="back", publish=["8080:80"], network_aliases=["x"], egress="allow=x"
        )
        log = tmp_path / "steps"
        start(box, f"log:{log}")
        steps = log.read_text().splitlines()
        assert set(steps) >= OF_A_SUPERVISOR
        for number, name in enumerate(steps, 1):
            if name in steps[: number - 1]:  # each once
                continue
            start(box, f"kill:{number}")
            host.engine.containers()  # any command looks after what was left
            until(lambda: host.engine.container(box.id).state in ("created", "exited"))
            until(lambda: not box._home.is_looked_after())
            assert host.left() == [], name
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == (), name
            box.start()
            box.wait()
            until(lambda: not box._home.is_looked_after())
            assert host.left() == [], name

    on_host(store_root, test)


def test_what_one_that_rests_could_not_give_back_is_found_and_goes(
    store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk was full at its end, say. Before `system check` it is whoever wants the same who gives it back."""
    release = plugging.release

    def rest(host: Host, **options: Any) -> Any:
        """One that has ended, and has everything still."""
        calls: list[str] = []

        def failing(home: Any, **how: Any) -> bool:
            calls.append(home.id)
            if len(calls) > 1:  # the first one is at its start
                raise KernelError("write record", ENOSPC)
            return release(home, **how)

        with monkeypatch.context() as patched:
            patched.setattr(plugging, "release", failing)
            done = host.engine.run("tiny", ["true"], network="back", **options)
        return host.engine.container(done.container)

    def test(host: Host) -> None:
        host.engine.networks.create("back", subnets=["10.50.0.0/30"])
        host.start("sleep 1000", name="alive")
        before = host.left()
        full = {"publish": ["8080:80"], "network_aliases": ["x"], "egress": "allow=10.0.0.0/8:80"}
        box = rest(host, name="web", **full)
        left = host.left()
        assert {"tcp:8080:*", "10.50.0.2", "x", "web"} < set(left)
        [found] = host.engine.storage.check().findings
        assert (found.severity, found.kind, found.what) == ("left over", "network", "ended web")
        assert "was not given back" in found.problem
        assert host.left() == left

        [found] = host.engine.storage.check(repair=True).findings
        assert found.repaired
        assert host.left() == before
        assert host.engine.storage.check().findings == ()
        assert box.state == "exited"

        # the only address of that network, and the port: for whoever comes next
        rest(host, name="db", **full)
        with monkeypatch.context() as patched:
            patched.setattr(type(box._home), "hold", lambda home: False)
            [found] = host.engine.storage.check(repair=True).findings
            assert "somebody is busy with it" in found.problem
            assert not found.repaired
            with pytest.raises(Conflict, match="every one is taken"):
                host.run("true", network="back")
        host.run("true", network="back")
        assert host.left() == before
        rest(host, name="cache", **full)
        host.run("true", network="bridge", publish=["8080:80"])
        assert host.left() == before
        rest(host, name="last", **full)
        host.run("true", network="name=back,ip=10.50.0.2")
        assert host.left() == before
        # a damaged record says who is to be removed
        rest(host, name="damaged", **full)
        record = host.engine.container("damaged")._home.path + b"/network.json"
        Path(os.fsdecode(record)).write_text("{")
        [found, *others] = host.engine.storage.check(repair=True).findings
        assert "not a record" in found.problem
        assert found.remedy == f"'lamina rm {found.what[6:]}', then 'lamina system check --repair'"
        assert (found.repaired, others) == (False, [])
        host.engine.container("damaged").remove()
        host.engine.storage.check(repair=True)
        assert host.engine.storage.check().findings == ()
        assert host.left() == before

    on_host(store_root, test)


def test_a_port_is_written_down_by_who_was_killed_before_it_was_refused(store_root: Path) -> None:
    """Whoever makes the rules anew meanwhile has the port lead to the container that has it."""

    def test(host: Host) -> None:
        web = host.start("while :; do echo hello | nc -l -p 80; done", publish=["8080:80"])
        other = host.start("sleep 1000")
        [theirs] = attachments_in(web._home)
        ledger = Ledger.of(other._home)
        ledger.note(replace(ledger.attachments[0], published=theirs.published))
        host.engine.networks.reload()
        until(lambda: reaches("127.0.0.1", 8080))
        other.remove(force=True)
        assert reaches("127.0.0.1", 8080)

    on_host(store_root, test)


OF_A_DISCONNECT = [
    "disconnect: move ports", "disconnect: lead ports", "disconnect: withdraw", "disconnect: unlinked",
    "network: give names back", "network: give addresses back", "disconnect: give ports back", "disconnect: forget",
    "connect: write container record", "disconnect: publish elsewhere",
]  # fmt: skip


@pytest.mark.parametrize("mended_by", ["check", "verb"])
def test_who_moves_ports_to_another_network_is_killed(
    store_root: Path, tmp_path: Path, mended_by: str
) -> None:
    """At each step they are the container's, and written down at one of its places: whoever comes next has them lead
    there.
    """

    def test(host: Host) -> None:
        front = host.engine.networks.create("front", subnets=["10.50.0.0/24"])
        host.engine.networks.create("back", subnets=["10.51.0.0/24", "fd00:51::/64"])

        def start() -> Any:
            return host.start(
                "while :; do echo hello | nc -l -p 80; done",
                name="box",
                network=["front", "back"],
                publish=["8080:80", "81"],
            )

        def places(box: Any) -> dict[str, int]:
            """How many ports of this host lead to each; those of IPv6 have led to `back` from the beginning."""
            every = attachments_in(box._home)
            return {one.network.name: len({port.host_port for port in one.published}) for one in every}

        box = start()
        log = tmp_path / "steps"
        child(lambda: front.disconnect("box", force=True), f"log:{log}")
        assert places(box) == {"back": 2}
        every = log.read_text().splitlines()
        assert [name for name in dict.fromkeys(every) if name in OF_A_DISCONNECT] == OF_A_DISCONNECT
        for name in OF_A_DISCONNECT:
            box.remove(force=True)
            box = start()
            ports = sorted(one for one in host.left() if one.startswith("tcp:"))
            child(lambda: front.disconnect("box", force=True), f"kill:{every.index(name) + 1}")
            if mended_by == "check":
                host.engine.storage.check(repair=True)
                assert host.engine.storage.check().findings == (), name
                assert len({port for places_ in box.ports.values() for port in places_}) == 4, name
                until(lambda: reaches("127.0.0.1", 8080))
            if "front" in box.networks:
                front.disconnect("box", force=True)
            assert places(box) == {"back": 2}, name
            assert sorted(one for one in host.left() if one.startswith("tcp:")) == ports, name
            assert {one.rpartition(":")[0] for inside in box.ports.values() for one in inside} == {
                "0.0.0.0",
                "[::]",
            }
            until(lambda: reaches("127.0.0.1", 8080))
        box.remove(force=True)
        assert host.left() == []

    on_host(store_root, test)


OF_THE_WIRE = [
    "disconnect: withdraw", "disconnect: unlinked", "network: give names back", "network: give addresses back",
    "disconnect: give ports back", "disconnect: forget", "connect: write container record",
]  # fmt: skip


def test_who_disconnects_from_the_wire_of_a_link_is_killed(store_root: Path, tmp_path: Path) -> None:
    """Of macvlan nothing is seen here: whether the container has its link is looked up in there."""

    def test(host: Host) -> None:
        wire = host.engine.networks.create(
            "wire", driver="macvlan", subnets=["192.0.2.0/24"], gateways=[WORLD], options={"parent": "up0"}
        )
        host.engine.networks.create("back", subnets=["10.51.0.0/24"])
        box = host.start("sleep 1000", name="box", network=["back", "wire"])

        def devices() -> set[str]:
            done = box.exec(["ls", "/sys/class/net"], capture_output=True, text=True)
            return set(done.stdout.split())

        def agrees() -> bool:
            """Whether what is written down, what is claimed and what is there are the same."""
            written = [text_of(one.addresses[0]) for one in attachments_in(box._home) if one.number == 1]
            claimed = [path.name for path in host.root.glob("networks/wire/addresses/[!.]*")]
            return written == claimed and bool(claimed) == ("eth1" in devices())

        log = tmp_path / "steps"
        child(lambda: wire.disconnect("box"), f"log:{log}")
        every = log.read_text().splitlines()
        assert [name for name in dict.fromkeys(every) if name in OF_THE_WIRE] == OF_THE_WIRE
        assert agrees()
        for name in OF_THE_WIRE:
            wire.connect("box")
            assert agrees(), name
            child(lambda: wire.disconnect("box"), f"kill:{every.index(name) + 1}")
            is_well = agrees()
            found = host.engine.storage.check(repair=True).findings
            assert bool(found) != is_well, name
            assert agrees(), name
            assert host.engine.storage.check().findings == (), name
            if "wire" in box.networks:
                wire.disconnect("box")
            assert devices() == {"lo", "eth0"}, name
        child(lambda: wire.connect("box"), f"log:{log}")
        for number, name in enumerate(log.read_text().splitlines(), 1):
            wire.disconnect("box")
            child(lambda: wire.connect("box"), f"kill:{number}")
            host.engine.storage.check(repair=True)
            assert agrees(), name
            assert host.engine.storage.check().findings == (), name
            if "wire" not in box.networks:
                wire.connect("box")
        # who is in there may call it what he likes
        with within(host, box):
            ip("link", "set", "eth1", "down")
            ip("link", "set", "eth1", "name", "mine")
        assert "mine" in devices()
        assert host.engine.storage.check().findings == ()

    on_host(store_root, test)


@pytest.mark.parametrize("mended_by", ["check", "end"])
def test_an_address_that_was_given_back_is_somebody_elses(
    store_root: Path, tmp_path: Path, mended_by: str
) -> None:
    """Who disconnected a container was killed before he wrote that down: it does not come back to an address that
    another one has by now, and does not take that one's rules away.
    """

    def test(host: Host) -> None:
        front = host.engine.networks.create("front", subnets=["10.50.0.0/24"])
        host.engine.networks.create("back", subnets=["10.51.0.0/24"])

        def limited() -> list[str]:
            with open_nftables() as channel:
                found = elements(channel, "inet", table_of(host.engine.store), "limited4")
            return sorted(str(one.comment) for one in found)

        box = host.start("sleep 1000", name="box", network=["back", "front"], egress="deny")
        log = tmp_path / "steps"
        child(lambda: front.disconnect("box"), f"log:{log}")
        number = log.read_text().splitlines().index("disconnect: forget") + 1
        front.connect("box")
        [address] = [one.addresses[0] for one in attachments_in(box._home) if one.network.name == "front"]
        child(lambda: front.disconnect("box"), f"kill:{number}")
        other = host.start(
            "sleep 1000", name="other", network=f"name=front,ip={text_of(address)}", egress="deny"
        )
        theirs = [one for one in limited() if one.startswith("other")]
        assert len(theirs) == 1
        if mended_by == "check":
            host.engine.storage.check(repair=True)
            assert host.engine.storage.check().findings == ()
            assert [one.network.name for one in attachments_in(box._home)] == ["back"]
        box.remove(force=True)
        assert limited() == theirs
        assert host.engine.storage.check().findings == ()
        other.remove(force=True)

    on_host(store_root, test)


def test_one_that_has_its_address_still_has_its_names_again(store_root: Path, tmp_path: Path) -> None:
    """Who disconnected a container was killed between names and addresses."""

    def test(host: Host) -> None:
        front = host.engine.networks.create("front", subnets=["10.50.0.0/24"])
        host.engine.networks.create("back", subnets=["10.51.0.0/24"])
        box = host.start("sleep 1000", name="box", network=["back", "front"])
        log = tmp_path / "steps"
        child(lambda: front.disconnect("box"), f"log:{log}")
        front.connect("box")
        before = sorted(host.left())
        number = log.read_text().splitlines().index("network: give addresses back") + 1
        child(lambda: front.disconnect("box"), f"kill:{number}")
        assert sorted(host.left()) != before
        host.engine.storage.check(repair=True)
        assert host.engine.storage.check().findings == ()
        assert sorted(host.left()) == before
        box.remove(force=True)

    on_host(store_root, test)
