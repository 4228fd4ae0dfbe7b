"""The root that other engines run in: what is seen from inside, and that nothing of it outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.leaks import Leaks
from support.peers import GROUP, PeerRoot, hierarchies, lamina_runtime, remove_dead_groups
from support.sources import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.peer("unshare", "nsenter", "mount")]
HOLD = """
import os, sys, time
from pathlib import Path
from support.peers import PeerRoot
root = PeerRoot(Path(sys.argv[1]))
daemon = root.start_daemon(["sleep", "1000"], ready=lambda: True, log=Path(sys.argv[2]))
print(root.pid, flush=True)
time.sleep(1000)
"""


def test_what_is_inside(peer_root: PeerRoot, tmp_path: Path) -> None:
    versions = {
        "podman": "5.", "docker": "26.", "containerd": "1.7", "crun": "1.2", "runc": "1.", "umoci": "0.4",
        "skopeo": "1.", "buildah": "1.", "conmon": "2.1",
    }  # fmt: skip
    for program, version in versions.items():
        assert version in peer_root.run([program, "--version"], check=True).stdout, program
    assert "docker" in peer_root.run(["docker-registry", "--version"], check=True).stdout
    done = peer_root.run([lamina_runtime(tmp_path), "--version"], check=True)
    assert done.stdout.startswith("lamina-runtime")
    assert peer_root.run(["cat"], input="through", check=True).stdout == "through"


def test_what_is_the_machines_cannot_be_changed_and_what_is_the_tests_can(
    peer_root: PeerRoot, tmp_path: Path
) -> None:
    peer_root.run(["sh", "-c", f"echo one >{tmp_path}/file; echo two >/etc/two"], check=True)
    assert (tmp_path / "file").read_text() == "one\n"
    assert peer_root.run(["cat", "/etc/two"]).stdout == "two\n"
    assert not Path("/etc/two").exists()
    refused = peer_root.run(["touch", REPOSITORY / "file"])
    assert "Read-only file system" in refused.stderr
    assert peer_root.run(["ls", "/sys/class/net"]).stdout.split() == ["lo"]


def test_groups_and_processes_are_its_own(peer_root: PeerRoot) -> None:
    assert peer_root.groups() == [] and peer_root.processes() == []
    script = "cat /proc/self/cgroup; for h in /sys/fs/cgroup/*/; do mkdir -p $h/here; done"
    lines = peer_root.run(["sh", "-c", script], check=True).stdout.splitlines()
    assert {line.rpartition(":")[2] for line in lines} <= {"/", "/init"}
    assert "here" in peer_root.groups()
    daemon = peer_root.start_daemon(
        ["sleep", "1000"],
        ready=lambda: (
            peer_root.processes() == [["sleep", "1000"]]
        ),  # what enters is something else until then
        log=peer_root.place.parent / "log",
    )
    assert daemon.poll() is None
    peer_root.run(["sh", "-c", "for h in /sys/fs/cgroup/*/; do rmdir $h/here; done"], check=True)


@pytest.mark.cgroup_v1("pids")
def test_what_another_suite_does_in_its_root_is_no_leak_of_ours(peer_root: PeerRoot) -> None:
    peer_root.run(["mkdir", "/sys/fs/cgroup/pids/empty"], check=True)
    (place,) = (place for place, options in hierarchies() if options == "pids")
    ours = f"{place}/{peer_root.group}/empty"
    assert ours in Leaks(()).cgroups()
    ask = "from support.leaks import Leaks; print(*Leaks(()).cgroups(), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")}
    seen = subprocess.run(
        [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
    )
    assert ours not in seen.stdout.splitlines()
    peer_root.run(["rmdir", "/sys/fs/cgroup/pids/empty"], check=True)


def test_v2_can_be_hidden(make_peer_root: Callable[..., PeerRoot]) -> None:
    kinds = make_peer_root(hide_v2=True).run(["cat", "/proc/self/mounts"]).stdout
    assert "cgroup2" not in kinds


def command_of(pid: int) -> str:
    """Its command line, nothing when it is gone; which may happen while one reads."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_suite_that_is_killed_leaves_nothing(
    tmp_path: Path, make_peer_root: Callable[..., PeerRoot]
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "place", tmp_path / "log"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "tests")},
        text=True,
    )
    assert holder.stdout is not None
    with holder.stdout:
        first = int(holder.stdout.readline())
    before = Path(f"/proc/{first}/cmdline").read_text()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    end = time.monotonic() + 100
    while command_of(first) == before:
        assert time.monotonic() < end
        time.sleep(0.02)
    remove_dead_groups()
    left = [group for place, _ in hierarchies() for group in place.glob(f"{GROUP}{holder.pid}-*")]
    assert left == []
