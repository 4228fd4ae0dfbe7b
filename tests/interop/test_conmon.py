"""conmon with `lamina-runtime`, on the command line that CRI-O gives it (which no Debian has a package of)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.busybox import layer
from support.oci import BASE
from support.peers import PATIENCE, PeerRoot, lamina_runtime

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("unshare", "nsenter", "mount", "busybox")]
SPEAK = "echo out; echo err >&2; exit 7"


class Crio:
    """What CRI-O does with conmon and the runtime (internal/oci/runtime_oci.go), for containers of busybox."""

    def __init__(self, root: PeerRoot, place: Path) -> None:
        self.root, self.place = root, place
        self.runtime = lamina_runtime(place)
        for name in ("exits", "attach", "persist", "state"):
            (place / name).mkdir()
        self.state = f"--root={place / 'state'}"

    def bundle(self, identity: str, script: str, terminal: bool = False) -> Path:
        """A bundle that runs a shell script."""
        place = self.place / identity
        (place / "rootfs").mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", place / "rootfs"], input=layer(), check=True)
        config: dict[str, Any] = json.loads(json.dumps(BASE))
        config["process"].update({"args": ["sh", "-c", script], "terminal": terminal, "env": ["PATH=/bin"]})
        config["linux"]["cgroupsPath"] = f"/crio/{identity}"
        (place / "config.json").write_text(json.dumps(config))
        return place

    def create(self, identity: str, script: str, *words: str, terminal: bool = False) -> dict[str, Any]:
        """As `CreateContainer`; what conmon says over its pipe."""
        bundle = self.bundle(identity, script, terminal)
        return self._conmon(
            "-b", str(bundle), "-c", identity, "--exit-dir", str(self.place / "exits"),
            "-l", str(self.place / f"{identity}.log"), "--log-level", "info", "-n", f"k8s_{identity}",
            "-P", str(bundle / "conmon.pid"), "-p", str(bundle / "pidfile"), "--persist-dir",
            str(self.place / "persist"), "-r", str(self.runtime), "--runtime-arg", self.state,
            "--socket-dir-path", str(self.place / "attach"), "-u", identity,
            *(["-t"] if terminal else []), *words,
        )[0]  # fmt: skip

    def execute(self, identity: str, script: str) -> list[dict[str, Any]]:
        """As `ExecSyncContainer`: conmon stays until the command has ended, and says with what."""
        config = json.loads((self.place / identity / "config.json").read_text())
        process = {**config["process"], "args": ["sh", "-c", script], "terminal": False}
        (self.place / "process.json").write_text(json.dumps(process))
        return self._conmon(
            "-c", identity, "-n", f"k8s_{identity}", "-r", str(self.runtime), "-p", str(self.place / "exec.pid"),
            "-e", "-l", str(self.place / "exec.log"), "--log-level", "info", "--socket-dir-path",
            str(self.place / "attach"), "-u", f"{identity}-exec", "--runtime-arg", self.state,
            "--exec-process-spec", str(self.place / "process.json"),
        )  # fmt: skip

    def _conmon(self, *words: str) -> list[dict[str, Any]]:
        """Run it; the documents that it says over its pipe."""
        start, begin = os.pipe()
        reader, writer = os.pipe()
        env = {"_OCI_STARTPIPE": str(start), "_OCI_SYNCPIPE": str(writer)}
        conmon = self.root.popen(["conmon", *words], env=env, pass_fds=(start, writer))
        os.close(start)
        os.close(writer)
        os.write(begin, b"\0")  # it is in its control groups now: go on
        os.close(begin)
        with open(reader) as pipe:
            one_is_enough = "-e" not in words
            said = [pipe.readline()] if one_is_enough else pipe.readlines()
        _, complaint = conmon.communicate(timeout=PATIENCE)
        assert all(said), complaint
        return [json.loads(line) for line in said]

    def __call__(self, *words: str, check: bool = True) -> str:
        """As CRI-O calls the runtime itself."""
        return self.root.run([self.runtime, self.state, *words], check=check).stdout

    def exit_status(self, identity: str) -> int:
        """What conmon leaves of a container that has ended."""
        end = time.monotonic() + PATIENCE
        while not (file := self.place / "exits" / identity).exists() or not file.read_text():
            assert time.monotonic() < end, f"{identity} does not end"
            time.sleep(0.05)
        return int(file.read_text())

    def log(self, name: str) -> list[tuple[str, str]]:
        """(stream, text) of each line of the log: its form is the kubelet's."""
        lines = (self.place / f"{name}.log").read_text().splitlines()
        return [(line.split(" ", 3)[1], line.split(" ", 3)[3].strip()) for line in lines]


@pytest.fixture
def crio(peer_root: PeerRoot, tmp_path: Path) -> Crio:
    return Crio(peer_root, tmp_path)


def test_a_life_under_conmon(crio: Crio) -> None:
    said = crio.create("one", SPEAK)
    assert said["data" if "data" in said else "pid"] > 0, said
    assert json.loads(crio("state", "one"))["status"] == "created"
    crio("start", "one")
    assert crio.exit_status("one") == 7
    assert sorted(crio.log("one")) == [("stderr", "err"), ("stdout", "out")]
    assert json.loads(crio("state", "one"))["status"] == "stopped"
    crio("delete", "one")
    assert crio("list", "-q") == ""


def test_a_further_process_and_its_end(crio: Crio) -> None:
    crio.create("one", "exec sleep 1000")
    crio("start", "one")
    said = crio.execute("one", SPEAK)
    assert said[-1]["exit_code"] == 7, said
    assert sorted(crio.log("exec")) == [("stderr", "err"), ("stdout", "out")]
    crio("kill", "one", "KILL")
    assert crio.exit_status("one") == 137
    crio("delete", "--force", "one")
    assert crio("list", "-q") == ""
    assert [name for name in crio.root.groups() if "one" in name] == []


def test_a_terminal_and_no_pivot(crio: Crio) -> None:
    crio.create("one", "tty; test -t 0 && test -t 2 && echo all", "--no-pivot", terminal=True)
    crio("start", "one")
    assert crio.exit_status("one") == 0
    assert [text for _, text in crio.log("one")] == ["/dev/pts/0", "all"]
    crio("delete", "one")


def test_what_cannot_be_created_is_said_over_the_pipe(crio: Crio) -> None:
    """conmon takes the reason out of the runtime's log, or from its standard error."""
    bundle = crio.bundle("one", "true")
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["no-such"]
    (bundle / "config.json").write_text(json.dumps(config))
    crio.bundle = lambda *_: bundle  # type: ignore[method-assign]
    said = crio.create("one", "true")
    assert said.get("data", said.get("pid")) == -1
    assert "executable file not found in $PATH" in said["message"]
    assert crio("list", "-q") == ""
