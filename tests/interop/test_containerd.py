"""containerd and its runc shim with `lamina-runtime` for runc: the machine's, and a newer one in the peers root.

Each test has a containerd of its own and an image that is made here; there is no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.busybox import IMAGE, ON_TERMINAL, write_archive
from support.peers import (
    PATIENCE,
    PeerRoot,
    at_rest,
    hierarchies,
    in_terminal,
    lamina_runtime,
    remove_group,
    shown_in_terminal,
)

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("containerd", "ctr", "busybox")]

CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{place}/socket"
[ttrpc]
  address = "{place}/socket.ttrpc"
"""
STATE = "/run/containerd/runc"
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


# what containerd 2.2 says of this machine's control groups, each time
ADVICE = re.compile(r"^.*DEPRECATION: .*\r?\n", re.MULTILINE)


def without_advice(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    done.stdout, done.stderr = (text and ADVICE.sub("", text) for text in (done.stdout, done.stderr))
    return done


class Containerd:
    """A containerd of the test's own, on the machine or in the peers *root*."""

    def __init__(self, place: Path, root: PeerRoot | None) -> None:
        self.place, self.root = place, root
        self.namespace = f"test-{os.getpid()}-{os.urandom(3).hex()}"  # /run/containerd is everybody's
        (place / "config.toml").write_text(CONFIG.format(place=place))
        self.binary = lamina_runtime(place)
        self.log = open(place / "log", "w")  # noqa: SIM115  closed in `close`
        self.daemon = subprocess.Popen(
            self.inside(["containerd", "-c", str(place / "config.toml")]), stdout=self.log, stderr=self.log
        )
        try:
            end = time.monotonic() + PATIENCE
            while self("version").returncode:
                assert self.daemon.poll() is None and time.monotonic() < end, (place / "log").read_text()
                time.sleep(0.1)
            write_archive(place / "image.tar")
            # left to the daemon, as ctr of containerd 2 does, it is unpacked for the default snapshotter alone
            here = ["--local"] if "--local" in self("images", "import", "--help").stdout else []
            done = self("images", "import", *here, "--snapshotter", "native", str(place / "image.tar"))
            assert done.returncode == 0, done.stderr
        except BaseException:
            self.stop()
            raise

    def client(self, *words: str) -> list[str]:
        return ["ctr", "-a", str(self.place / "socket"), "-n", self.namespace, *words]

    def inside(self, words: list[str]) -> list[str]:
        """What to execute, to have *words* run where the daemon is."""
        return words if self.root is None else self.root.argv(words)

    def in_terminal(self, *words: str, last: str) -> str:
        """What is shown on a terminal, where a line is typed as soon as *last* is shown."""
        return ADVICE.sub("", shown_in_terminal(self.inside(in_terminal(self.client(*words))), last))

    def words(self, *words: str) -> list[str]:
        return self.inside(self.client(*words))

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {
            "capture_output": True,
            "text": True,
            "timeout": 200,
            "stdin": subprocess.DEVNULL,
            **options,
        }
        return without_advice(subprocess.run(self.words(*words), **options))

    def run_words(self, *words: str) -> list[str]:
        runtime = [
            "--runtime",
            "io.containerd.runc.v2",
            "--runc-binary",
            str(self.binary),
            "--snapshotter",
            "native",
        ]
        return ["run", *runtime, *words]

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self(*self.run_words(*words), **options)

    def status(self, name: str) -> str:
        lines = self("task", "ls").stdout.splitlines()
        return next((line.split()[2] for line in lines if line.split()[0] == name), "")

    def wait(self, name: str, status: str) -> None:
        """Until the container is in that state."""
        end = time.monotonic() + PATIENCE
        while (found := self.status(name)) != status:
            assert time.monotonic() < end, f"{name} is {found}, not {status}"
            time.sleep(0.05)

    def states(self) -> list[str]:
        """The directories of lamina-runtime's containers: the shim's place for its runtime's state."""
        words = [
            "find",
            f"{STATE}/{self.namespace}",
            "-mindepth",
            "1",
            "-maxdepth",
            "1",
            "-not",
            "-name",
            ".*",
        ]
        return subprocess.run(self.inside(words), capture_output=True, text=True).stdout.split()

    @contextmanager
    def events(self) -> Iterator[Callable[..., None]]:
        """A function that waits for an event of a topic; until it comes, it does what it is given over and over.

        A shim that has nothing left to do goes away with the last of its events unsent, under runc as under us:
        containerd 2.2 loses one /tasks/delete in three. Only what is told while the task is there can be relied on.
        """
        told = self.place / "events"
        with open(told, "w") as file:
            client = subprocess.Popen(self.words("events"), stdout=file, stderr=file)

        def until(topic: str, meanwhile: Callable[[], object] = lambda: None) -> None:
            end = time.monotonic() + PATIENCE
            while topic not in told.read_text().split():
                assert time.monotonic() < end, f"no {topic} in {told.read_text()}"
                meanwhile()
                time.sleep(0.05)

        try:
            yield until
        finally:
            client.kill()
            client.wait()

    def close(self) -> None:
        for name in self("task", "ls", "-q").stdout.split():
            self("task", "delete", "--force", name)
        if names := self("container", "ls", "-q").stdout.split():
            self("container", "rm", *names)
        self("images", "rm", "--sync", IMAGE)
        self.stop()

    def stop(self) -> None:
        """End the daemon, if it runs."""
        try:
            if self.root is None:
                self.daemon.terminate()
            else:
                self.root.close()  # `daemon` is only whoever entered the root for it
            self.daemon.wait(PATIENCE)
        finally:
            self.daemon.kill()
            self.daemon.wait()
            if self.root is None:
                self._clear()
            self.log.close()

    def _clear(self) -> None:
        """What its containers' groups were below is the engine's: no runtime removes it."""
        shutil.rmtree(f"{STATE}/{self.namespace}", ignore_errors=True)
        for place, _ in hierarchies():
            if (group := place / self.namespace).exists():
                remove_group(group)


@pytest.fixture(params=["the machine's", "Debian 13's"])
def containerd(
    request: pytest.FixtureRequest, make_peer_root: Callable[..., PeerRoot], tmp_path: Path
) -> Iterator[Containerd]:
    daemon = Containerd(tmp_path, make_peer_root() if request.param == "Debian 13's" else None)
    try:
        yield daemon
    finally:
        daemon.close()


def test_a_life_under_containerd(containerd: Containerd) -> None:
    done = containerd.run("--rm", IMAGE, "a", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    log = containerd.place / "b.log"
    started = containerd.run("-d", "--log-uri", f"file://{log}", IMAGE, "b", "sh", "-c", COUNT)
    assert started.returncode == 0, started.stderr
    assert containerd.status("b") == "RUNNING"
    done = containerd("task", "exec", "--exec-id", "e1", "b", "sh", "-c", "id -u; exit 5")
    assert (done.returncode, done.stdout) == (5, "0\n"), done.stderr
    missing = containerd("task", "exec", "--exec-id", "e3", "b", "no-such")
    assert "executable file not found in $PATH" in missing.stderr

    assert containerd("task", "pause", "b").returncode == 0
    assert containerd.status("b") == "PAUSED"
    count = at_rest(lambda: len(log.read_text()))
    assert containerd("task", "resume", "b").returncode == 0
    end = time.monotonic() + PATIENCE
    while len(log.read_text()) == count:
        assert time.monotonic() < end
        time.sleep(0.05)

    assert containerd("task", "kill", "-s", "SIGKILL", "b").returncode == 0
    containerd.wait("b", "STOPPED")
    assert log.read_text().startswith("1\n2\n")
    containerd("task", "delete", "b")
    assert containerd.status("b") == ""
    assert containerd.states() == []


def test_terminals(containerd: Containerd) -> None:
    script = ("sh", "-c", ON_TERMINAL)
    shown = containerd.in_terminal(*containerd.run_words("-t", "--rm", IMAGE, "a", *script), last="all")
    assert shown.split() == ["/dev/pts/0", "7", "70", "all"], shown
    assert containerd.run("-d", IMAGE, "b", "sleep", "1000").returncode == 0
    shown = containerd.in_terminal("task", "exec", "-t", "--exec-id", "e", "b", *script, last="all")
    assert shown.split() == ["/dev/pts/0", "7", "70", "all"], shown
    containerd("task", "delete", "--force", "b")
    assert containerd.states() == []


def test_limits(containerd: Containerd) -> None:
    with containerd.events() as until:
        until("/images/update", lambda: containerd("images", "label", IMAGE, f"at={time.monotonic()}"))
        limit = str(32 << 20)
        done = containerd.run("-d", "--memory-limit", limit, IMAGE, "limited", "sleep", "1000")
        assert done.returncode == 0, done.stderr
        # not as the first process: shims up to 1.7 begin to watch the group when that may have ended already
        hog = 'x=0123456789abcdef; while :; do x="$x$x"; done'
        done = containerd("task", "exec", "--exec-id", "hog", "limited", "sh", "-c", hog)
        assert done.returncode == 137, done.stderr
        until("/tasks/oom")  # what the shim makes of lamina-runtime's control groups
        containerd("task", "delete", "--force", "limited")
    done = containerd.run("--rm", "--cpus", "0.5", IMAGE, "half", "sh", "-c", "echo half")
    assert (done.returncode, done.stdout) == (0, "half\n"), done.stderr
    assert containerd.states() == []


def test_what_cannot_be_started_is_said(containerd: Containerd) -> None:
    missing = containerd.run("--rm", IMAGE, "a", "no-such")
    assert missing.returncode != 0
    assert "OCI runtime create failed" in missing.stderr
    assert "executable file not found in $PATH" in missing.stderr
    refused = containerd.run("--rm", IMAGE, "b", "/etc")
    assert "Permission denied" in refused.stderr
    assert containerd.states() == []


def test_fifty_at_once(containerd: Containerd) -> None:
    """Fifty live at once; eight clients make them, because more show nothing more on a small machine."""
    names = [f"c{number}" for number in range(50)]

    def run(name: str) -> tuple[int, str]:
        done = containerd.run("-d", "--null-io", IMAGE, name, "sleep", "1000")
        return done.returncode, done.stderr

    def remove(name: str) -> tuple[int, str]:
        done = containerd("task", "delete", "--force", name)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, names)) == [(0, "")] * len(names)
        lines = containerd("task", "ls").stdout.splitlines()[1:]
        assert sorted((line.split()[0], line.split()[2]) for line in lines) == sorted(
            (name, "RUNNING") for name in names
        )
        removed = list(pool.map(remove, names))
    assert containerd("task", "ls", "-q").stdout == "", removed
    assert containerd.states() == []
