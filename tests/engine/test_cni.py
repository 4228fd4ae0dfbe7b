"""Networks of a CNI configuration, with Debian's plugins and real packets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from errno import EIO
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from lamina.engine import cni, cni_lists, cni_plugins, picture, plugging, session, starting
from lamina.engine.cni_mistakes import is_mistaken
from lamina.errors import InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.runtime.launch import launch
from lamina.store import trace
from lamina.values import replace
from support.lab import HOST, ip, listen, reaches, seen_by
from support.lives import is_gone, until
from support.network_host import Host
from support.network_host import on_host as call_on_host

PLUGINS = next(
    (place for place in ("/usr/lib/cni", "/opt/cni/bin") if Path(place, "host-local").exists()), ""
)
pytestmark = [
    pytest.mark.root,
    pytest.mark.peer("ip", "busybox"),
    pytest.mark.skipif(not PLUGINS, reason="needs the plugins of CNI (containernetworking-plugins)"),
]
SERVE = "while :; do echo hello | nc -l -p 80; done"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where configurations are; host-local's leases are beside them."""
    found = tmp_path / "net.d"
    found.mkdir()
    monkeypatch.setenv("NETCONFPATH", str(found))
    monkeypatch.setenv("CNI_PATH", f"{tmp_path}/plugins:{PLUGINS}")
    return found


def configure(
    place: Path, name: str = "front", *further: dict[str, Any], version: str = "1.0.0", **rest: Any
) -> None:
    bridge = {
        "type": "bridge", "bridge": "cni-lamina", "isGateway": True,
        "capabilities": {"ips": True, "mac": True},
        "ipam": {"type": "host-local", "dataDir": str(place.parent / "leases"), "routes": [{"dst": "0.0.0.0/0"}],
                 "ranges": [[{"subnet": "10.44.0.0/24"}]]},
        "dns": {"nameservers": ["192.0.2.53"], "search": ["example.org"], "options": ["ndots:3"]},
    }  # fmt: skip
    plugins = [bridge, *further]
    content = {"cniVersion": version, "name": name, "plugins": plugins, **rest}
    (place / f"10-{name}.conflist").write_text(json.dumps(content))


def leases(place: Path) -> list[str]:
    return sorted(path.name for path in place.parent.glob("leases/*/10.*"))


def plugin(place: Path, name: str, script: str) -> None:
    """A plugin of the test's own, which notes what it is told."""
    directory = place.parent / "plugins"
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(
        f"#!/bin/sh\ncat >{directory}/{name}.$CNI_COMMAND.in; env >{directory}/{name}.$CNI_COMMAND.env\n{script}"
    )
    path.chmod(0o755)


def of_a_shell(place: Path, script: str) -> None:
    """The network `told` has one plugin, of a shell."""
    plugin(place, "tell", script)
    content = {"cniVersion": "1.0.0", "name": "told", "plugins": [{"type": "tell"}]}
    (place / "1.conflist").write_text(json.dumps(content))


def test_a_container_is_in_the_network_of_a_configuration(store_root: Path, place: Path) -> None:
    mapped = shutil.which("iptables") is not None  # which the plugin takes
    further = [{"type": "portmap", "capabilities": {"portMappings": True}}] if mapped else []
    configure(place, "front", *further)
    publish = [f"{HOST}:8080:80"] if mapped else []

    def test(host: Host) -> None:
        box = host.start(
            "sleep 1000", name="web", network="cni:front", ip="10.44.0.7",
            mac_address="02:00:00:00:00:07", publish=publish,
        )  # fmt: skip
        found = box.inspect()["NetworkSettings"]["Networks"]["cni:front"]
        assert (found["IPAddress"], found["Gateway"], found["Maker"]) == ("10.44.0.7", "10.44.0.1", "cni")
        assert found["MacAddress"] == "02:00:00:00:00:07"
        assert box.networks == ["cni:front"]
        read = box.exec(["cat", "/etc/resolv.conf", "/etc/hosts"], capture_output=True, text=True).stdout
        assert str(read).startswith("nameserver 192.0.2.53\nsearch example.org\noptions ndots:3\n")
        assert "10.44.0.7\t" in str(read)
        server = listen(9000, "10.44.0.1")
        with ThreadPoolExecutor(1) as pool:
            seen = pool.submit(seen_by, server)
            box.exec(["sh", "-c", "nc 10.44.0.1 9000 </dev/null"])
            assert seen.result() == "10.44.0.7"
        server.close()
        if mapped:
            box.exec(["sh", "-c", "while :; do echo hello | nc -l -p 80; done &"])
            with host.inside(host.world):
                until(lambda: reaches(HOST, 8080))
        # portmap 1.1 also looks for rules of IPv6, which it has not made
        assert host.engine.storage.check().findings == ()
        if mapped:
            subprocess.run(["iptables", "-t", "nat", "-F"], check=True)
            [broken] = host.engine.storage.check().findings
            assert "could not check ipv4 dnat" in broken.problem
        box.restart(timeout=0)
        assert leases(place) == ["10.44.0.7"]
        # the supervisor is killed, then the container: it is given back by the next who looks
        state = json.loads((store_root / "containers" / box.id / "state.json").read_text())
        (place / "10-front.conflist").unlink()  # what it was made by is kept
        os.kill(state["supervisor"]["pid"], signal.SIGKILL)
        os.kill(state["pid"], signal.SIGKILL)
        until(lambda: host.engine.container("web").status == "exited")
        until(lambda: leases(place) == [])
        assert host.engine.storage.check().findings == ()
        with pytest.raises(NotFound, match="no such CNI configuration") as missing:
            box.start()
        assert "NETCONFPATH" in missing.value.remedy
        box.remove()
        ip("link", "del", "cni-lamina")

    call_on_host(store_root, test)


def test_plugins_are_called_in_order_and_told_what_was_asked(store_root: Path, place: Path) -> None:
    noted = place.parent / "plugins"
    configure(place, "front", {"type": "late", "capabilities": {"portMappings": True, "aliases": True}})
    plugin(
        place,
        "late",
        f"""python3 -c "import json; print(json.dumps(json.load(open('{noted}/late.ADD.in'))['prevResult']))" """,
    )

    def test(host: Host) -> None:
        box = host.start("sleep 1000", network="cni:front", publish=["8080:80/tcp"], network_aliases=["w"])
        told = json.loads((noted / "late.ADD.in").read_text())
        assert told["runtimeConfig"] == {
            "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
            "aliases": ["w"],
        }
        assert (told["name"], told["cniVersion"], "capabilities" in told) == ("front", "1.0.0", False)
        assert told["prevResult"]["ips"][0]["address"] == "10.44.0.2/24"
        environment = (noted / "late.ADD.env").read_text()
        assert f"CNI_CONTAINERID={box.id}\n" in environment
        assert "CNI_IFNAME=eth0\n" in environment
        assert "LAMINA" not in environment
        assert box.ports == {"80/tcp": ["0.0.0.0:8080"]}
        assert host.engine.storage.check().findings == ()
        assert (noted / "late.CHECK.in").exists()
        plugin(place, "late", """echo '{"code": 7, "msg": "no way"}'; exit 1""")
        [found] = host.engine.storage.check(repair=True).findings
        assert (found.problem, found.repaired) == (
            "network cni:front: plugin late: CHECK: no way (code 7)",
            False,
        )
        # a plugin that fails: the container goes, what it has stays written down, and is given back later
        plugin(
            place, "late", 'test $CNI_COMMAND = CHECK || { echo \'{"code": 7, "msg": "no way"}\'; exit 1; }'
        )
        box.remove(force=True)
        assert leases(place) == ["10.44.0.2"]
        assert any("cni:front" in one.what for one in host.engine.storage.check().findings)
        plugin(place, "late", "")
        host.engine.storage.check(repair=True)
        told = json.loads((noted / "late.DEL.in").read_text())
        assert told["prevResult"]["ips"][0]["address"] == "10.44.0.2/24"
        assert leases(place) == []
        # one that says no while it is added: what others have made is given back
        plugin(
            place,
            "late",
            'test $CNI_COMMAND != ADD || { echo \'{"code": 7, "msg": "no way", "details": "at all"}\'; exit 1; }',
        )
        with pytest.raises(LaminaError, match=r"plugin late: ADD: no way; at all \(code 7\)"):
            host.run("true", network="cni:front")
        assert leases(place) == []
        ip("link", "del", "cni-lamina")

    call_on_host(store_root, test)


def test_an_attempt_that_fails_is_given_back_before_the_next(
    store_root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over this system one more is made where mounts have come or gone: ADD is never said twice without a DEL."""
    calls = place.parent / "calls"
    of_a_shell(place, f"""echo $CNI_COMMAND >>{calls}; test $CNI_COMMAND != ADD || echo '{{}}'""")
    attempts = []

    def failing_once(bundle: Any, **how: Any) -> Any:
        def connect(pid: int, inside: Any) -> None:
            bundle.connect(pid, inside)
            attempts.append(pid)
            if len(attempts) % 2:
                raise KernelError("mount", EIO)

        return launch(replace(bundle, connect=connect), **how)

    monkeypatch.setattr(session, "launch", failing_once)
    monkeypatch.setattr(starting, "launch", failing_once)
    monkeypatch.setattr(picture, "mounts_changed", lambda: True)

    def test(host: Host) -> None:
        host.engine.run("host", ["true"], network="cni:told", rm=True, check=True)
        assert calls.read_text().split() == ["ADD", "DEL"] * 2
        box = host.engine.create("host", ["true"], network="cni:told")
        assert box._home.hold()
        with open(os.devnull, "rb") as null:
            start = starting.Start(box._home, box._home.asked(), (null.fileno(),) * 3, dependent=True)
            running = start.run({})
        running.wait()
        running.close()
        plugging.release(box._home)
        box._home.release()
        assert calls.read_text().split() == ["ADD", "DEL"] * 4
        box.remove(force=True)

    call_on_host(store_root, test)


def test_a_plugin_that_outlives_who_called_it_is_waited_for(
    store_root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ADD goes on while the engine is killed: a DEL beside it would leave what ADD makes."""
    gate, lease = place.parent / "gate", place.parent / "lease"
    os.mkfifo(gate)
    of_a_shell(
        place,
        f"""case $CNI_COMMAND in
        ADD) trap '' PIPE; cat {gate}; touch {lease} {lease}.made;;
        DEL) rm -f {lease};;
    esac; echo '{{}}'; exit 0""",
    )

    def test(host: Host) -> None:
        if (engine := os.fork()) == 0:
            host.run("true", network="cni:told")
            os._exit(0)
        begun = os.open(gate, os.O_WRONLY)
        os.kill(engine, signal.SIGKILL)
        os.waitpid(engine, 0)
        waited = Event()

        def hook(name: str) -> None:
            if name == "cni: wait for a plugin":
                waited.set()

        monkeypatch.setattr(trace, "hook", hook)
        with ThreadPoolExecutor(1) as pool:
            recovered = pool.submit(host.engine.containers)
            until(lambda: waited.is_set() or recovered.done())
            os.close(begun)  # then it goes on
            until(lambda: Path(f"{lease}.made").exists())
        recovered.result()
        until(lambda: host.engine.containers(all=True) == [])
        assert not lease.exists()
        assert list((store_root / "networks/.cni").iterdir()) == []

    call_on_host(store_root, test)


def test_a_plugin_that_takes_too_long_is_ended_with_whom_it_has_begun(
    store_root: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = place.parent / "begun"
    of_a_shell(place, f"""test $CNI_COMMAND != ADD || {{ sleep 1000 & echo $! >{begun}; wait; }}""")

    def test(host: Host) -> None:
        for seconds in (0.5, 5.0, 30.0):  # on a busy machine it may not have begun
            monkeypatch.setattr(cni_plugins, "PATIENCE", seconds)
            with pytest.raises(LaminaError, match="plugin tell: ADD: not done within"):
                host.run("true", network="cni:told")
            if begun.exists() and begun.read_text():
                break
        until(lambda: is_gone(int(begun.read_text())))

    call_on_host(store_root, test)


def test_what_a_plugin_did_not_give_back_is_found_also_of_a_container_that_rests(
    store_root: Path, place: Path
) -> None:
    of_a_shell(
        place, """test $CNI_COMMAND != DEL || { echo '{"code": 7, "msg": "not now"}'; exit 1; }; echo '{}'"""
    )

    def test(host: Host) -> None:
        box = host.start("true", network="cni:told")
        until(lambda: box.state == "exited" and not box._home.is_looked_after())
        [found] = host.engine.storage.check().findings
        assert (found.what, found.problem) == (
            "cni cni:told", "its plugins were not told that the container has ended",
        )  # fmt: skip
        [found] = host.engine.storage.check(repair=True).findings
        assert "plugin tell: DEL: not now (code 7)" in found.problem
        assert not found.repaired
        of_a_shell(place, "echo '{}'")
        [found] = host.engine.storage.check(repair=True).findings
        assert found.repaired
        assert host.engine.storage.check().findings == ()
        box.remove()
        # what was noted is damaged: that is said, and nothing else is kept from being looked at
        note = store_root / "networks/.cni" / f"{'ab' * 32}.json"
        note.write_text("{")
        [found] = host.engine.storage.check(repair=True).findings
        assert "is damaged" in found.problem
        assert str(note) in found.remedy
        note.unlink()

    call_on_host(store_root, test)


def test_a_newer_configuration_is_asked_whether_it_can(store_root: Path, place: Path) -> None:
    noted = place.parent / "plugins"
    plugin(place, "fresh", """test $CNI_COMMAND != ADD || echo '{"cniVersion": "1.1.0"}'""")
    content = {
        "cniVersion": "1.0.0",
        "cniVersions": ["1.1.0", "9.0.0"],
        "name": "new",
        "plugins": [{"type": "fresh"}],
    }
    (place / "1.conflist").write_text(json.dumps(content))

    def test(host: Host) -> None:
        assert host.run("ls", "/sys/class/net", network="cni:new") == "lo\n"
        asked = ["ADD", "DEL", "STATUS"]
        assert sorted(path.name.split(".")[1] for path in noted.glob("fresh.*.in")) == asked
        assert json.loads((noted / "fresh.ADD.in").read_text())["cniVersion"] == "1.1.0"
        plugin(place, "fresh", """echo '{"code": 50, "msg": "not yet"}'; exit 1""")
        with pytest.raises(LaminaError, match="STATUS: not yet"):
            host.run("true", network="cni:new")
        assert os.listdir(os.fsencode(store_root / "networks") + cni.PLACE) == []

    call_on_host(store_root, test)


def test_what_no_plugin_can_do_is_said_before_anything_is_made(store_root: Path, place: Path) -> None:
    configure(place)
    configure(place, "old", version="0.1.0")
    configure(place, "lost", {"type": "nosuch"})
    (place / "05-broken.conflist").write_text("{")
    (place / "06-odd.conflist").write_text(
        json.dumps({"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": "../x"}]})
    )

    def test(host: Host) -> None:
        for words, error, match in (
            ({"network": "cni:nosuch"}, NotFound, "05-broken.conflist is no configuration"),
            ({"network": "cni:front", "publish": ["80"]}, InvalidInput, "-p: none of its plugins has the capability"),
            ({"network": "cni:front", "network_aliases": ["w"]}, InvalidInput, "--network-alias"),
            ({"network": "cni:front", "egress": "deny"}, InvalidInput, "--egress"),
            ({"network": ["cni:front", "bridge"]}, InvalidInput, "contradict"),
            ({"network": "cni:nosuch"}, NotFound, "there is front"),
            ({"network": "cni:odd"}, InvalidInput, "no name of a plugin"),
            ({"network": "cni:old"}, Unsupported, "cniVersion '0.1.0'"),
            ({"network": "cni:lost"}, NotFound, "its plugin nosuch is not in"),
        ):  # fmt: skip
            with pytest.raises(error, match=match):
                host.run("true", **words)
        assert leases(place) == []

    call_on_host(store_root, test)


def test_a_single_configuration_is_a_list_of_one(place: Path) -> None:
    (place / "9.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "one", "type": "loopback"}))
    found = cni_lists.find("one")
    assert (found["cniVersion"], [one["type"] for one in found["plugins"]]) == ("0.4.0", ["loopback"])


def test_files_are_looked_at_in_the_order_of_libcni(place: Path) -> None:
    """Lists first, by name, then single ones, also where their names come before."""

    def put(name: str, kind: str, **more: Any) -> None:
        single = {"cniVersion": "1.0.0", "name": "net", "type": kind}
        content = {**single, "plugins": [{"type": kind}], **more} if name.endswith(".conflist") else single
        (place / name).write_text(json.dumps(content))

    def kinds() -> list[str]:
        return [one["type"] for one in cni_lists.find("net")["plugins"]]

    for name, kind in (
        ("20-b.conf", "second"), ("10-a.json", "first"), ("40-d.conflist", "fourth"), ("30-c.conflist", "third"),
    ):  # fmt: skip
        put(name, kind)
    (place / "00-old.conflist.bak").write_text("{")
    (place / "00-dir.conflist").mkdir()
    assert kinds() == ["third"]
    (place / "30-c.conflist").unlink()
    assert kinds() == ["fourth"]
    (place / "40-d.conflist").unlink()
    assert kinds() == ["first"]
    (place / "10-a.json").unlink()
    assert kinds() == ["second"]
    # plugins of a list that are files of their own come after its own
    (place / "net").mkdir()
    (place / "net/2.conf").write_text(json.dumps({"type": "further"}))
    (place / "net/1.conf").write_text(json.dumps({"type": "other"}))
    (place / "net/0.conflist").write_text("{")
    assert kinds() == ["second"]
    put("30-c.conflist", "third")
    assert kinds() == ["third", "other", "further"]
    put("30-c.conflist", "third", loadOnlyInlinedPlugins="false")
    assert kinds() == ["third", "other", "further"]
    for said in (True, "TRUE"):
        put("30-c.conflist", "third", loadOnlyInlinedPlugins=said)
        assert kinds() == ["third"]
    put("30-c.conflist", "third", plugins=[])
    assert kinds() == ["other", "further"]
    (place / "net/1.conf").write_text("{")
    with pytest.raises(InvalidInput, match=r"net/1\.conf"):
        kinds()
    put("30-c.conflist", "third", disableCheck="maybe")
    (place / "net/1.conf").unlink()
    with pytest.raises(InvalidInput, match="disableCheck"):
        kinds()
    put("30-c.conflist", "third", disableCheck="false")
    assert cni_lists.find("net")["disableCheck"] is False


def test_only_what_a_plugin_has_not_made_is_no_complaint() -> None:
    four = {"ips": [{"address": "10.44.0.7/24"}]}
    both = {"ips": [*four["ips"], {"address": "fd00::7/64"}]}
    portmap = {"type": "portmap"}
    assert is_mistaken(portmap, four, "portmap: CHECK: could not check ipv6 dnat: chain X not found")
    assert not is_mistaken(portmap, four, "portmap: CHECK: could not check ipv4 dnat: chain X not found")
    assert not is_mistaken(portmap, both, "portmap: CHECK: could not check ipv6 dnat: chain X not found")
    assert not is_mistaken({"type": "bridge"}, four, "bridge: CHECK: could not check ipv6 dnat: no")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"plugins": [{"type": "bridge", "capabilities": "ips"}]}, "capabilities of bridge are no object"),
        ({"plugins": {"type": "bridge"}}, "no list of plugins"),
        ({"cniVersion": [], "cniVersions": 1}, "cniVersion"),
    ],
)
def test_a_configuration_that_is_made_otherwise_is_said(place: Path, made: dict[str, Any], said: str) -> None:
    content = {"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": "bridge"}], **made}
    (place / "odd.conflist").write_text(json.dumps(content))
    with pytest.raises((InvalidInput, Unsupported), match=said):
        cni_lists.find("odd")
