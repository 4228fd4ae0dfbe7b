"""Snapshots, and going back, of containers that run: what a restart, a further exec, and who writes see of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, InvalidInput, LaminaError
from support.lives import Command, is_gone, until
from support.running import first_pid

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    found = engine.start("tiny", ["sleep", "600"], name="box", init=True)
    yield found
    found.remove(force=True)


def sh(box: Container, script: str) -> str:
    done = box.exec(["sh", "-c", script], capture_output=True, text=True, timeout=200, check=True)
    assert done.warnings == ()
    return str(done.stdout)


def test_what_runs_goes_on_over_its_states(engine: Engine, box: Container) -> None:
    pid = first_pid(box)
    sh(box, "echo 1 >/f; mkdir /d; rm /etc/image")
    one = box.snapshot("one")
    assert one.record.new and one.parent is None
    assert sh(box, "cat /f; ls /etc") == "1\ngroup\nhostname\nhosts\npasswd\nresolv.conf\n"
    sh(box, "echo 2 >/f; echo x >/d/x; echo back >/etc/image")
    two = box.snapshot()
    assert two.parent == one.id
    sh(box, "rm -r /d /f")
    box.rewind("one")
    assert sh(box, "cat /f; ls /d; ls /etc") == "1\ngroup\nhostname\nhosts\npasswd\nresolv.conf\n"
    sh(box, "echo other >/other")
    box.rewind(two)
    assert sh(box, "cat /f /d/x /etc/image; ls /").startswith("2\nx\nback\n")
    assert "other" not in sh(box, "ls /")
    assert (first_pid(box), box.state) == (pid, "running")
    changed = {os.fsdecode(one.path) for one in box.changes() if not one.incidental}
    assert {"/f", "/d", "/d/x", "/etc/image"} <= changed
    box.stop(timeout=0)
    box.start()
    assert sh(box, "cat /f /d/x") == "2\nx\n"
    assert engine.storage.check().findings == ()


def test_one_that_is_paused_stays_so(box: Container) -> None:
    sh(box, "echo 1 >/f")
    box.pause()
    before = box.snapshot()
    assert box.state == "paused"
    box.unpause()
    sh(box, "echo 2 >/f")
    box.rewind(before)
    assert sh(box, "cat /f") == "1\n"


def test_an_attempt_in_what_runs(box: Container) -> None:
    sh(box, "echo 1 >/f")
    with pytest.raises(LaminaError), box.attempt() as attempt:
        box.exec(["sh", "-c", "echo 2 >/f; exit 3"], check=True)
    assert (attempt.rewound, sh(box, "cat /f"), box.snapshots()) == (True, "1\n", [])


def test_who_writes_is_named_and_what_was_written_copied(box: Container) -> None:
    writer = box.exec_detached(["sh", "-c", "exec 3>/log; echo begun >&3; exec sleep 600"])
    until(lambda: sh(box, "cat /log 2>/dev/null || true") == "begun\n")
    with pytest.raises(Conflict, match="/log"):
        box.snapshot("refused", consistency="refuse")
    heard: list[str] = []
    copied = box.snapshot("copied", on_warning=heard.append)
    assert "copied, because of" in heard[0] and copied.record.new
    sh(box, "echo more >/log")
    with pytest.raises(Conflict, match="/log"):
        box.rewind(copied)
    with pytest.raises(InvalidInput, match="what a process has open"):
        box.rewind(copied, consistency="copy")
    assert sh(box, "cat /log") == "more\n"
    os.kill(writer, signal.SIGKILL)
    until(lambda: is_gone(writer))
    later = box.snapshot("later", consistency="wait")
    assert later.parent == copied.id
    box.rewind(copied)
    assert sh(box, "cat /log") == "begun\n"
    box.rewind(later)
    assert sh(box, "cat /log") == "more\n"


def test_one_after_each_exec(engine: Engine, lamina: Command) -> None:
    """Also where it was asked for, and done, from the shell."""
    made = lamina(
        "run", "-d", "--name", "auto", "--snapshot", "every-exec", "--network", "none", "tiny", "sleep", "600"
    )
    assert made.returncode == 0, made.stderr
    box = engine.container("auto")
    for number in range(2):
        sh(box, f"echo {number} >/f")
    box.exec_detached(["true"])
    assert lamina("exec", "auto", "sh", "-c", "echo 2 >/f").returncode == 0
    found = box.snapshots()
    assert [one.command for one in found] == [["sh", "-c", f"echo {number} >/f"] for number in range(3)]
    assert lamina("rewind", "auto", found[1].short_id).returncode == 0
    box.stop(timeout=0)
    assert (box.files / "f").read_text() == "1\n"
