"""Containers that live, of an ordinary user: in a user namespace, and often without any control group."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.lives import until
from support.rootless import Rootless

pytestmark = pytest.mark.userns


@pytest.fixture
def user(rootless: Rootless) -> Iterator[Rootless]:
    yield rootless
    rootless.remove_all()


def state(user: Rootless, name: str) -> str:
    return user.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).strip()


def store(user: Rootless) -> Path:
    return user.tmp / "data/lamina"


def supervisors(user: Rootless) -> list[int]:
    """Processes that are not in a namespace of their own and have that store's descriptors open. For a moment these are
    more than there are supervisors: what one of them executes is forked first, and has what it has.
    """
    return [
        int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and holds(entry, user)
    ]


def holds(process: Path, user: Rootless) -> bool:
    containers = f"{store(user)}/containers/"
    return any(link.startswith(containers) and link.endswith("/lock") for link in open_in(process))


def open_in(process: Path) -> list[str]:
    """What it has open, but for what is closed while this is looked at."""
    found = []
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(link))
    return found


def supervisor(user: Rootless) -> int:
    """The only one."""
    [pid] = until(lambda: found if len(found := supervisors(user)) == 1 else [])
    return pid


def test_it_lives_from_one_command_to_another(user: Rootless) -> None:
    script = "echo x >>file; cat file; exec sleep 1000"
    user.ok("run", "-d", "--name", "box", "-w", str(user.home), "host", "sh", "-c", script)
    assert user.ok("ps", "--format", "{{.Names}} {{.State}}") == "box running\n"
    until(lambda: user.ok("logs", "box") == "x\n")
    user.ok("stop", "box")
    assert state(user, "box") == "exited 143"
    user.ok("start", "box")
    until(lambda: user.ok("logs", "box") == "x\nx\nx\n")
    assert not (user.home / "file").exists()
    assert user.lamina("rm", "box").returncode == 1
    user.ok("rm", "-f", "box")
    assert user.ok("ps", "-aq") == ""


def test_it_survives_its_supervisor(user: Rootless) -> None:
    user.ok(
        "run",
        "-d",
        "--name",
        "box",
        "host",
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo on; while :; do sleep 0.1; done",
    )
    until(lambda: user.ok("logs", "box") == "on\n")
    pid = supervisor(user)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not supervisors(user))
    assert state(user, "box") == "running 0"
    assert supervisor(user) != pid
    user.ok("stop", "box")
    assert state(user, "box") == "exited 9"


def test_a_start_that_was_cut_short_leaves_no_process(user: Rootless) -> None:
    """Killed when it had started the command and not yet written that down; there may be no control group either."""
    seconds = f"1000.{secrets.randbelow(10**9):09}"  # nobody else sleeps so long
    user.ok("create", "--name", "box", "host", "sleep", seconds)
    steps = store(user) / "steps"
    user.ok("create", "--name", "other", "host", "true")
    user.ok("start", "other", env={**user.env, "LAMINA_STORE_TRACE": f"log:{steps}"})
    lines = steps.read_text().splitlines()
    at = lines.index("start: launched") + 1
    done = user.lamina("start", "box", env={**user.env, "LAMINA_STORE_TRACE": f"kill:{at}"})
    assert done.returncode == 1
    # the command runs, and nobody knows; one that is just being executed has no command line
    until(lambda: sleeping(seconds))
    assert state(user, "box") == "created 0"
    until(lambda: not sleeping(seconds))
    user.ok("start", "box")
    assert state(user, "box") == "running 0"


def sleeping(seconds: str) -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if command_of(entry) == f"sleep\0{seconds}\0".encode()]


def command_of(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
    except OSError:
        return b""


def test_to_be_removed_is_removed_with_everything(user: Rootless) -> None:
    user.ok(
        "run",
        "-d",
        "--rm",
        "--name",
        "box",
        "host",
        "sh",
        "-c",
        "mkdir /tmp/d; echo x >/tmp/d/f; exit 4",
    )
    until(lambda: user.ok("ps", "-aq") == "")
    until(lambda: not list((store(user) / "tmp").iterdir()) and not supervisors(user))


def test_its_supervisor_sleeps(user: Rootless) -> None:
    env = {**user.env, "LAMINA_SUPERVISOR_IDLE": "0.1"}
    user.ok("run", "-d", "--name", "box", "host", "sh", "-c", "sleep 1; echo x; exec sleep 1000", env=env)
    pid = supervisor(user)
    until(lambda: user.ok("logs", "box") == "x\n")
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "lamina-idle\n")
    assert supervisor(user) == pid
    user.ok("stop", "box")
    assert state(user, "box") == "exited 143"


def test_it_is_found_out_whether_it_is_well(user: Rootless) -> None:
    """A check that hangs is killed with all of its process group: its processes have other ids than the user."""
    slow = str(user.home / "slow")
    check = f"id -u; test ! -e {slow} || {{ sleep 31415 & sleep 31416; }}"
    user.ok(
        "run", "-d", "--name", "box", "--health-cmd", check, "--health-interval", "100ms",
        "--health-timeout", "300ms", "--health-retries", "1", "host", "sleep", "1000",
    )  # fmt: skip
    health = ("inspect", "-f", "{{.State.Health.Status}}", "box")
    until(lambda: user.ok(*health) == "healthy\n")
    user.ok("exec", "box", "touch", slow)
    until(lambda: user.ok(*health) == "unhealthy\n")
    user.ok("exec", "box", "rm", slow)
    until(lambda: user.ok(*health) == "healthy\n")
    until(lambda: "3141" not in user.ok("top", "box", "-o", "args"))
    # on a busy machine one takes longer than a healthy one may
    until(lambda: user.lamina("healthcheck", "run", "box").returncode == 0)
    user.ok("stop", "box")
    assert state(user, "box") == "exited 143"


def test_it_is_started_after_a_boot(user: Rootless) -> None:
    user.ok("run", "-d", "--name", "box", "--restart", "unless-stopped", "host", "sleep", "1000")
    assert user.ok("system", "stop-restartable") == "box\n"
    assert state(user, "box") == "exited 143"
    assert user.ok("system", "start-restartable") == "box\n"
    assert state(user, "box") == "running 0"
