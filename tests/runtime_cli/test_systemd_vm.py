"""`lamina-runtime --systemd-cgroup` beside a systemd: each verb that has to do with control groups (`make test-vm`)."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.oci import COMMAND, Bundle, Runtime

pytestmark = [pytest.mark.root, pytest.mark.vm, pytest.mark.cgroup_v2("memory", "pids")]
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"


@pytest.fixture
def under_systemd(tmp_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path, [*COMMAND, "--systemd-cgroup"])
    yield runtime
    runtime.close()


def begun(runtime: Runtime, script: str) -> tuple[Bundle, str]:
    """A container `c` in a scope of its own; its bundle, and the scope's name."""
    bundle, name = runtime.shell(script), f"t{os.urandom(4).hex()}"
    bundle.config["linux"]["cgroupsPath"] = f"system.slice:lamina:{name}"
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}, "memory": {"limit": 64 << 20}}
    runtime.begin("c", bundle)
    return bundle, f"lamina-{name}.scope"


def load_state(unit: str) -> str:
    done = subprocess.run(
        ["systemctl", "show", "-P", "LoadState", unit], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_pausing_counting_and_ending(under_systemd: Runtime) -> None:
    runtime = under_systemd
    _, unit = begun(runtime, COUNT)
    runtime.wait_output("c", "1\n", patience=60)
    assert load_state(unit) == "loaded"
    assert runtime.ask("pause", "c").returncode == 0
    assert runtime.status("c") == "paused"
    said = runtime.output("c")
    time.sleep(0.5)
    assert runtime.output("c") == said
    assert runtime.ask("resume", "c").returncode == 0
    runtime.wait_output("c", f"{len(said.split()) + 1}\n", patience=60)
    stats = json.loads(runtime.ask("events", "--stats", "c").stdout)["data"]
    assert stats["pids"]["limit"] == 50 and stats["memory"]["usage"]["usage"] > 0
    assert str(runtime.state("c")["pid"]) in runtime.ask("ps", "c").stdout
    assert runtime.ask("kill", "--all", "c", "KILL").returncode == 0
    runtime.wait("c", patience=60)
    assert runtime.ask("delete", "c").returncode == 0
    assert load_state(unit) == "not-found"


def test_a_further_process_below_the_scope(under_systemd: Runtime) -> None:
    runtime = under_systemd
    begun(runtime, "exec sleep 600")
    record = json.loads((runtime.root / "c/state.json").read_text())
    (group,) = (Path(place) for name, place in record["cgroup"]["paths"].items() if name == "")
    (group / "sub").mkdir()
    done = runtime.ask("exec", "--cgroup", "sub", "c", "cat", "/proc/self/cgroup", timeout=100)
    assert "0::/sub\n" in done.stdout, done.stderr
    assert runtime.ask("delete", "--force", "c").returncode == 0
    assert not group.exists()


def test_a_name_that_is_not_systemds_is_refused(under_systemd: Runtime) -> None:
    bundle = under_systemd.bundle("true")
    bundle.config["linux"]["cgroupsPath"] = "/plain/path"
    with pytest.raises(AssertionError, match="slice"):
        under_systemd.create("c", bundle)
