"""Containers where systemd runs: in scopes, in units of their own, and at a boot."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Engine

pytestmark = [pytest.mark.vm, pytest.mark.root]

UNITS = Path("/run/systemd/system")
SLEEP = ["sleep", "1000"]


def eventually(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False).stdout.strip()


def lamina(engine: Engine, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a machine that has no more than its sources."""
    place = str(Path(__file__).resolve().parents[2] / "src")
    return subprocess.run(
        [sys.executable, "-m", "lamina", "--root", os.fsdecode(engine.store.path), *words],
        env={**os.environ, "PYTHONPATH": place, "LAMINA_WARM": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def engine(store_root: Path) -> Iterator[Engine]:
    engine = Engine(store_root)
    yield engine
    for container in engine.containers(all=True):
        container.remove(force=True)


def test_a_container_lives_in_a_scope_of_its_own(engine: Engine) -> None:
    box = engine.start("host", SLEEP, cgroup_manager="systemd", memory="64m", name="box")
    unit = f"lamina-{box.id}.scope"
    pid = box.inspect()["State"]["Pid"]
    assert f"0::/system.slice/{unit}" in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    assert systemctl("show", "-P", "MemoryMax", unit) == str(64 << 20)
    box.update(memory="96m")
    assert systemctl("show", "-P", "MemoryMax", unit) == str(96 << 20)
    assert len(box.top()["Processes"]) == 1
    box.pause()
    assert box.state == "paused"
    box.unpause()
    assert box.exec(["cat", "/proc/self/cgroup"], capture_output=True, text=True).returncode == 0
    box.stop()
    assert box.exit_code == 143
    eventually(lambda: systemctl("show", "-P", "LoadState", unit) == "not-found")
    box.start()
    assert systemctl("is-active", unit) == "active"
    os.kill(int(box._home.read("state")["supervisor"]["pid"]), 9)  # type: ignore[index]
    box.remove(force=True)
    eventually(lambda: systemctl("show", "-P", "LoadState", unit) == "not-found")
    done = engine.run(
        "host", ["cat", "/proc/self/cgroup"], cgroup_manager="systemd", capture_output=True, text=True
    )
    assert done.returncode == 0
    assert systemctl("list-units", "--no-legend", "lamina-*.scope") == ""


def written(engine: Engine, *words: str) -> str:
    """A unit that is written, and known to systemd; what it calls Lamina has to find the sources."""
    done = lamina(engine, "generate", "systemd", *words)
    assert done.returncode == 0, done.stderr
    place = Path(__file__).resolve().parents[2] / "src"
    return done.stdout.replace("[Service]\n", f"[Service]\nEnvironment=PYTHONPATH={place}\n")


def test_systemd_looks_after_a_container(engine: Engine) -> None:
    assert lamina(engine, "create", "--name", "box", "host", "--", *SLEEP).returncode == 0
    unit = UNITS / "container-box.service"
    try:
        for words in (("--name",), ("--name", "--new")):
            unit.write_text(written(engine, *words, "box"))
            systemctl("daemon-reload")
            assert systemctl("start", unit.name) == ""
            eventually(lambda: [one.name for one in engine.containers()] == ["box"])
            assert systemctl("is-active", unit.name) == "active"
            systemctl("stop", unit.name)
            assert systemctl("is-active", unit.name) == "inactive"
            assert systemctl("show", "-P", "Result", unit.name) == "success"
            assert engine.containers() == []
        assert engine.containers(all=True) == []  # the second one was of the unit's own
    finally:
        systemctl("stop", unit.name)
        unit.unlink()
        systemctl("daemon-reload")


def test_a_boot_starts_what_is_to_be_started(engine: Engine) -> None:
    box = engine.start("host", SLEEP, name="box", restart="unless-stopped")
    unit = UNITS / "lamina-restart.service"
    try:
        unit.write_text(written(engine, "--restartable"))
        systemctl("daemon-reload")
        systemctl("start", unit.name)
        assert systemctl("is-active", unit.name) == "active"
        systemctl("stop", unit.name)
        assert (box.state, box.exit_code) == ("exited", 143)
        systemctl("start", unit.name)
        assert box.state == "running"
        pid = box._home.read("state")["supervisor"]["pid"]  # type: ignore[index]
        assert unit.name in Path(f"/proc/{pid}/cgroup").read_text()
    finally:
        systemctl("stop", unit.name)
        unit.unlink()
        systemctl("daemon-reload")
