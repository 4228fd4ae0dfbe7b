"""`lamina-runtime --systemd-cgroup` where systemd manages cgroup v1, alone or beside a v2 tree: the groups of the scope
are in every hierarchy, and go with it (`scripts/test-vm --legacy`, `--hybrid`).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.oci import COMMAND, Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.cgroup_v1("memory", "pids", "cpu", "devices")]
MEBIBYTE = 1 << 20
LIMITS: dict[str, Any] = {
    "pids": {"limit": 50},
    "memory": {"limit": 64 * MEBIBYTE},
    "cpu": {"shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0"},
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ],
}


@pytest.fixture
def under_systemd(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path, [*COMMAND, "--systemd-cgroup"])
    yield runtime
    runtime.close()


class Scope:
    """A container `c` in a scope of its own, and its groups."""

    def __init__(self, runtime: Runtime, script: str, resources: dict[str, Any]) -> None:
        self.name = f"lamina-t{os.urandom(4).hex()}.scope"
        self.bundle: Bundle = runtime.shell(script)
        stem = self.name.removeprefix("lamina-").removesuffix(".scope")
        self.bundle.config["linux"].update(cgroupsPath=f"system.slice:lamina:{stem}", resources=resources)
        runtime.begin("c", self.bundle)
        record = json.loads((runtime.root / "c/state.json").read_text())
        self.paths = {name: Path(place) for name, place in record["cgroup"]["paths"].items()}

    def file(self, controller: str, name: str) -> str:
        (path,) = (p for names, p in self.paths.items() if controller in names.split(","))
        return (path / name).read_text().strip()

    def systemd(self, name: str) -> str:
        done = subprocess.run(
            ["systemctl", "show", "-P", name, self.name], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def directories(self) -> list[Path]:
        """Wherever in /sys/fs/cgroup there is something of the scope."""
        return sorted(Path("/sys/fs/cgroup").glob(f"*/**/{self.name}"))


def test_limits_are_in_the_files_and_systemd_knows_them(under_systemd: Runtime) -> None:
    scope = Scope(under_systemd, "exec sleep 600", LIMITS)
    assert scope.systemd("ActiveState") == "active"
    read = {
        ("pids", "pids.max"): "50",
        ("memory", "memory.limit_in_bytes"): str(64 * MEBIBYTE),
        ("cpu", "cpu.shares"): "512",
        ("cpu", "cpu.cfs_quota_us"): "25000",
        ("cpu", "cpu.cfs_period_us"): "50000",
        ("cpuset", "cpuset.cpus"): "0",
    }
    for _ in range(2):
        for (controller, name), value in read.items():
            assert scope.file(controller, name) == value, name
        assert "c 10:229 rw" in scope.file("devices", "devices.list").splitlines()
        assert "a *:* rwm" not in scope.file("devices", "devices.list").splitlines()
        # systemd writes what it has been told of into the files again
        subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert scope.systemd("TasksMax") == "50"
    assert scope.systemd("MemoryLimit") == str(64 * MEBIBYTE)
    assert scope.systemd("CPUShares") == "512"
    pid = str(under_systemd.state("c")["pid"])
    for path in scope.paths.values():
        assert path.name == scope.name and pid in (path / "cgroup.procs").read_text().split()


def test_limits_hold(under_systemd: Runtime) -> None:
    limits = {**LIMITS, "memory": {"limit": 16 * MEBIBYTE}, "pids": {"limit": 3}}
    hog = "x=a; while :; do x=$x$x; done"
    scope = Scope(
        under_systemd,
        f"sh -c '{hog}'; echo hog $?; (sleep 5 & sleep 5 & sleep 5 & wait); echo bomb; exec sleep 600",
        limits,
    )
    under_systemd.wait_output("c", "bomb\n", patience=100)
    assert "hog 137" in under_systemd.output("c")
    assert int(scope.file("memory", "memory.failcnt")) > 0
    assert "annot fork" in (under_systemd.directory / "c.err").read_text()


def test_a_life_and_nothing_left(under_systemd: Runtime) -> None:
    runtime = under_systemd
    count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
    scope = Scope(runtime, count, LIMITS)
    runtime.wait_output("c", "1\n", patience=60)
    assert scope.directories()
    assert runtime.ask("pause", "c").returncode == 0
    assert runtime.status("c") == "paused"
    said = runtime.output("c")
    assert runtime.ask("resume", "c").returncode == 0
    runtime.wait_output("c", f"{len(said.split()) + 1}\n", patience=60)
    stats = json.loads(runtime.ask("events", "--stats", "c").stdout)["data"]
    assert stats["pids"]["limit"] == 50 and stats["memory"]["usage"]["usage"] > 0
    done = runtime.ask("update", "--pids-limit", "40", "--memory", str(80 * MEBIBYTE), "c")
    assert done.returncode == 0, done.stderr
    assert scope.file("pids", "pids.max") == scope.systemd("TasksMax") == "40"
    assert scope.file("memory", "memory.limit_in_bytes") == scope.systemd("MemoryLimit") == str(80 * MEBIBYTE)
    done = runtime.ask("exec", "c", "cat", "/proc/self/cgroup", timeout=100)
    mine = Path(f"/proc/{runtime.state('c')['pid']}/cgroup").read_text()
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(mine.splitlines())
    assert runtime.ask("kill", "--all", "c", "KILL").returncode == 0
    runtime.wait("c", patience=60)
    assert runtime.ask("delete", "c").returncode == 0
    assert scope.systemd("LoadState") == "not-found"
    assert scope.directories() == []


def test_one_that_ends_by_itself_leaves_nothing_either(under_systemd: Runtime) -> None:
    scope = Scope(under_systemd, "read x", LIMITS)
    under_systemd.wait("c", patience=60)
    assert under_systemd.ask("delete", "c").returncode == 0
    assert scope.systemd("LoadState") == "not-found"
    assert scope.directories() == []


def test_one_that_is_deleted_by_force_leaves_nothing_either(under_systemd: Runtime) -> None:
    scope = Scope(under_systemd, "sleep 600 & sleep 600 & wait", LIMITS)
    assert under_systemd.ask("delete", "--force", "c").returncode == 0
    assert scope.systemd("LoadState") == "not-found"
    assert scope.directories() == []
