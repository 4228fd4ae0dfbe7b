"""`--expose`: a port that is exposed as if the image had said so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput
from support.lab import HOST, reaches
from support.lives import until
from support.network_host import Host
from support.network_host import on_host as call_on_host
from support.small_images import busybox_tree
from support.terminal import lamina

pytestmark = [pytest.mark.root, pytest.mark.peer("ip", "busybox")]

SERVE = "while :; do echo hello | nc -l -p 80; done"


@pytest.fixture
def on_host(store_root: Path) -> Callable[[Callable[[Host], None]], None]:
    """Calls a test with a host; afterwards nothing of its containers may be left."""
    return lambda test: call_on_host(store_root, test)


def exposed(box) -> list[str]:
    return sorted(box.attrs["Config"]["ExposedPorts"] or ())


def test_it_is_shown_and_published_by_P_alone(on_host):
    def test(host):
        shown = host.start("sleep 1000", expose=["80-81", "53/udp"], publish=["7000:7"])
        assert exposed(shown) == ["53/udp", "7/tcp", "80/tcp", "81/tcp"]
        assert shown.ports == {"7/tcp": ["0.0.0.0:7000"]}
        assert shown.attrs["NetworkSettings"]["Ports"] == {
            "7/tcp": [{"HostIp": "0.0.0.0", "HostPort": "7000"}],
            **dict.fromkeys(("53/udp", "80/tcp", "81/tcp")),
        }

        box = host.start(SERVE, expose=["80", "81", "53/udp"], publish=["8081:81"], publish_all=True)
        assert set(box.ports) == {"80/tcp", "81/tcp", "53/udp"}
        assert box.ports["81/tcp"] == ["0.0.0.0:8081"]
        with host.inside(host.world):
            [place] = box.ports["80/tcp"]
            until(lambda: reaches(HOST, int(place.rpartition(":")[2])))
        box.restart()
        assert set(box.ports) == {"80/tcp", "81/tcp", "53/udp"}

    on_host(test)


def test_it_goes_on_into_the_image_and_what_is_forked(on_host, tmp_path):
    def test(host):
        tree = tmp_path / "tree"
        tree.mkdir()
        busybox_tree(tree)
        host.engine.from_directory(tree, "real", changes=["EXPOSE 7"])
        box = host.engine.start("real", ["sleep", "1000"], network="bridge", expose=["80", "53/udp"])
        box.commit("made")
        described = host.engine.inspect_image("made")["Config"]["ExposedPorts"]
        assert described == {"7/tcp": {}, "80/tcp": {}, "53/udp": {}}
        again = host.engine.start(
            "made", ["sleep", "1000"], network="bridge", expose=["90"], publish_all=True
        )
        assert set(again.ports) == {"7/tcp", "80/tcp", "53/udp", "90/tcp"}
        [fork] = box.fork(start=True, publish_all=True)
        assert exposed(fork) == ["53/udp", "7/tcp", "80/tcp"] == sorted(fork.ports)
        with host.engine.popen("tiny", ["sleep", "600"], rm=True, network="bridge", expose=["80"]) as process:
            gone = host.engine.container(process.container)
            assert exposed(gone) == ["80/tcp"]
            process.kill()
        for one in (fork, again, box):
            one.remove(force=True)
        host.engine.remove_image("made")
        host.engine.remove_image("real")
        host.engine.storage.collect()

    on_host(test)


def test_by_the_command_line_of_any_network(store_root: Path) -> None:
    def test(host: Host) -> None:
        def call(*words: str) -> subprocess.CompletedProcess[str]:
            line = lamina("--root", str(host.root), *words)
            return subprocess.run(line, capture_output=True, text=True)

        def ok(*words: str) -> str:
            done = call(*words)
            assert done.returncode == 0, done.stderr
            return done.stdout

        for network in ("none", "host", "bridge"):
            ok(
                "create",
                "--name",
                network,
                "--network",
                network,
                "--expose",
                "80",
                "--expose=90-91/udp",
                "tiny",
            )
            config = json.loads(ok("inspect", network))[0]["Config"]
            assert set(config["ExposedPorts"]) == {"80/tcp", "90/udp", "91/udp"}
        ok("create", "--name", "other", "--expose", "81", "--network", "none", "tiny")
        names = ok("ps", "-a", "--filter", "expose=80", "--format", "{{.Names}}")
        assert set(names.split()) == {"none", "host", "bridge"}
        ok("run", "-d", "--name", "bare", "--network", "none", "--expose=80", "--expose=90-91/udp", "tiny",
           "sleep", "1000")  # fmt: skip
        form = ("--format", "{{.Names}} {{.Ports}}")
        for change, shown in (
            ((), "80/tcp, 90-91/udp"),
            (("pause",), "80/tcp, 90-91/udp"),
            (("kill",), ""),
        ):
            if change:
                ok(*change, "bare")
            if not shown:
                ok("wait", "bare")
            assert ok("ps", "-a", "--filter", "name=bare", *form) == f"bare {shown}\n"
        assert ok("ps", "-a", "--filter", "name=^none$", *form) == "none \n"  # was never started
        ok("run", "-d", "--name", "open", "--network", "bridge", "-p", "8080:80", "tiny", "sleep", "1000")
        for wanted, there in (
            ("8000-8090", True), ("8081-8090", False), ("79-81/tcp", False), ("8080/udp", False),
        ):  # fmt: skip
            found = ok("ps", "--filter", f"publish={wanted}", "--format", "{{.Names}}")
            assert bool(found) == there, wanted
        done = call("run", "--expose", "8080:80", "tiny")
        assert done.returncode == 125 and "expose 8080:80" in done.stderr and "-p" in done.stderr
        many = call("run", "--network", "bridge", "-P", "--expose", "1-2000", "tiny", "true")
        assert many.returncode == 125 and "more than 1000 ports are exposed" in many.stderr

    call_on_host(store_root, test)


def test_what_is_exposed_is_a_list(on_host):
    def test(host):
        wrongs: tuple[Any, ...] = ("80", {"80/tcp": {}})
        for wrong in wrongs:
            with pytest.raises(InvalidInput):
                host.start("true", expose=wrong)

    on_host(test)
