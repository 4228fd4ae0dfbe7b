"""What becomes of a container when several act on it at once, or one is killed while he does: a defined state."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support.oci import Bundle, Runtime

pytestmark = pytest.mark.root

DEFINED = ("creating", "created", "running", "stopped")


class Acting:
    """A verb in the background. What it says goes into a file, for a container keeps a pipe open."""

    def __init__(self, runtime: Runtime, *words: str | Path) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in `end`
        self.process = subprocess.Popen(
            [*runtime.command, "--root", str(runtime.root), *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            text=True,
        )

    def kill(self) -> None:
        """With SIGKILL."""
        self.process.kill()

    def end(self) -> tuple[int, str]:
        """The exit status, and what it said."""
        status = self.process.wait(200)
        with self._said:
            self._said.seek(0)
            return status, self._said.read()


def begin(runtime: Runtime, *words: str | Path) -> Acting:
    return Acting(runtime, *words)


def ended(acting: Acting) -> tuple[int, str]:
    return acting.end()


def hooked(runtime: Runtime, moment: str, script: str) -> Bundle:
    """A bundle whose creation or start stops in a hook."""
    bundle = runtime.bundle("sleep", "600")
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}
    bundle.config["hooks"] = {moment: [hook]}
    return bundle


def wait_for(path: Path) -> None:
    end = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


def test_of_many_starts_one_succeeds(runtime: Runtime) -> None:
    runtime.create("c", runtime.bundle("sleep", "600"))
    results = [ended(running) for running in [begin(runtime, "start", "c") for _ in range(6)]]
    assert sorted(status for status, _ in results) == [0, 1, 1, 1, 1, 1]
    assert all("it is running, not created" in said for status, said in results if status)
    assert runtime.status("c") == "running"


def test_of_many_creations_with_one_id_one_succeeds(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600").write()
    results = [ended(r) for r in [begin(runtime, "create", "--bundle", bundle, "c") for _ in range(6)]]
    assert sorted(status for status, _ in results) == [0, 1, 1, 1, 1, 1]
    assert all("already exists" in said for status, said in results if status)
    assert runtime.status("c") == "created"


def test_while_it_is_being_created_it_says_so_and_can_neither_start_nor_take_signals(
    runtime: Runtime,
) -> None:
    go, here = runtime.directory / "go", runtime.directory / "here"
    bundle = hooked(runtime, "createRuntime", f"touch {here}; while [ ! -e {go} ]; do sleep 0.01; done")
    creating = begin(runtime, "create", "--bundle", bundle.write(), "c")
    wait_for(here)
    assert runtime.status("c") == "creating"
    assert runtime.ask("kill", "c", "KILL").returncode == 1
    go.touch()
    assert ended(creating)[0] == 0
    assert runtime.status("c") == "created"


@pytest.mark.parametrize("moment", ["createRuntime", "createContainer"])
def test_a_creation_that_is_killed_leaves_what_delete_takes_away(runtime: Runtime, moment: str) -> None:
    here = runtime.directory / "here"
    bundle = hooked(runtime, moment, f"touch {here}; exec sleep 5")
    creating = begin(runtime, "create", "--bundle", bundle.write(), "c")
    wait_for(here)
    creating.kill()
    ended(creating)
    # its first process is told by the end of its channel (the fixture sees to it that none is left)
    runtime.wait("c")
    assert runtime.ask("start", "c").returncode == 1
    assert runtime.ask("delete", "--force", "c").returncode == 0
    assert not (runtime.root / "c").exists()


def test_a_creation_that_is_killed_before_it_noted_its_groups_leaves_none(runtime: Runtime) -> None:
    """At a path that somebody chose; and where somebody lives by now, he stays."""
    path = f"/lamina-test-{os.getpid()}-left"
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["cgroupsPath"] = path
    for lives in (False, True):
        runtime.create("c", bundle)
        place = runtime.root / "c" / "state.json"
        record = json.loads(place.read_text())
        groups = [Path(group) for group in record["cgroup"]["paths"].values()]
        os.kill(record["pid"], signal.SIGKILL)
        runtime.wait("c")
        for key in ("cgroup", "pid", "start_time", "boot"):
            record.pop(key)
        place.write_text(json.dumps(record))
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as somebody:  # ends with us
            if lives:
                (groups[0] / "cgroup.procs").write_text(str(somebody.pid))
            assert runtime.ask("delete", "--force", "c").returncode == 0
            assert [group.exists() for group in groups] == [lives] * len(groups)
            assert somebody.poll() is None
    for group in dict.fromkeys(groups):
        group.rmdir()


def test_killed_at_any_moment_a_creation_leaves_a_defined_state(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600").write()
    for attempt in range(24):
        name = f"c{attempt}"
        creating = begin(runtime, "create", "--bundle", bundle, name)
        time.sleep(0.012 * attempt)
        creating.kill()
        ended(creating)
        if (runtime.root / name).exists():
            status = runtime.status(name)
            assert status in DEFINED
            assert runtime.ask("delete", "--force", name).returncode == 0
        assert not (runtime.root / name).exists()
    assert runtime.ask("list", "-q").stdout == ""


def test_killed_at_any_moment_a_start_leaves_a_defined_state(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    for attempt in range(12):
        name = f"c{attempt}"
        runtime.create(name, bundle)
        starting = begin(runtime, "start", name)
        time.sleep(0.015 * attempt)
        starting.kill()
        ended(starting)
        status = runtime.status(name)
        assert status in ("created", "running")
        again = runtime.ask("start", name)
        # what the killed one had said may be heard only now: then it has been started before this attempt
        begun = "it is running, not created" in again.stderr
        assert (again.returncode, begun) in ([(0, False), (1, True)] if status == "created" else [(1, True)])
        assert runtime.status(name) == "running"
        assert runtime.ask("delete", "--force", name).returncode == 0


def test_killed_at_any_moment_a_deletion_can_be_repeated(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    for attempt in range(12):
        name = f"c{attempt}"
        runtime.begin(name, bundle)
        deleting = begin(runtime, "delete", "--force", name)
        time.sleep(0.015 * attempt)
        deleting.kill()
        ended(deleting)
        assert runtime.ask("delete", "--force", name).returncode == 0
        assert not (runtime.root / name).exists()


def test_a_forced_deletion_ends_a_start_that_is_under_way(runtime: Runtime) -> None:
    bundle = runtime.bundle("sleep", "600")
    here = bundle.rootfs / "tmp/here"
    hook = {
        "path": "/bin/sh",
        "args": ["sh", "-c", "touch /tmp/here; exec sleep 600"],
        "env": ["PATH=/usr/bin:/bin"],
    }
    bundle.config["hooks"] = {"startContainer": [hook]}
    runtime.create("c", bundle)
    starting = begin(runtime, "start", "c")
    wait_for(here)
    assert runtime.ask("delete", "--force", "c").returncode == 0
    status, _ = ended(starting)
    assert status == 1
    assert not (runtime.root / "c").exists()


def test_somebody_who_stands_still_keeps_others_from_waiting_for_ever(runtime: Runtime) -> None:
    here = runtime.directory / "here"
    bundle = hooked(runtime, "createRuntime", f"touch {here}; exec sleep 600")
    creating = begin(runtime, "create", "--bundle", bundle.write(), "c")
    wait_for(here)
    creating.process.send_signal(signal.SIGSTOP)
    try:
        assert runtime.status("c") == "creating"
        refused = runtime.ask("delete", "c")
        assert (refused.returncode, "another lamina-runtime is busy with it" in refused.stderr) == (1, True)
    finally:
        hook = int(
            Path(f"/proc/{creating.process.pid}/task/{creating.process.pid}/children").read_text().split()[-1]
        )
        creating.process.send_signal(signal.SIGCONT)
        os.kill(hook, signal.SIGKILL)
    assert ended(creating)[0] == 1
    assert not (runtime.root / "c").exists()


def test_an_init_that_dies_at_once_is_no_failure_of_the_start(runtime: Runtime) -> None:
    for attempt in range(10):
        name = f"c{attempt}"
        runtime.begin(name, runtime.bundle("false"))
        runtime.wait(name)
        assert runtime.ask("delete", name).returncode == 0


def test_a_created_one_that_is_killed_is_stopped(runtime: Runtime) -> None:
    runtime.create("c", runtime.bundle("sleep", "600"))
    assert runtime.ask("kill", "c", "KILL").returncode == 0
    runtime.wait("c")
    assert "it is stopped, not created" in runtime.ask("start", "c").stderr
    assert runtime.ask("delete", "c").returncode == 0
