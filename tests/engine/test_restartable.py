"""What is started with the machine: a boot is a record of another boot, whose processes are gone."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from support.lives import Command, kill_supervisor, place_of, said, state_of, supervisor_of, until

pytestmark = pytest.mark.root

SLEEP = ["sleep", "1000"]
# how each comes to the end of the machine, and whether it is started with the next one
LIVES: dict[str, tuple[str | None, str, bool]] = {
    "none": (None, "runs", False),
    "always": ("always", "runs", True),
    "always-stopped": ("always", "stopped", True),
    "always-killed": ("always", "killed", True),
    "always-fresh": ("always", "created", False),
    "unless": ("unless-stopped", "runs", True),
    "unless-stopped": ("unless-stopped", "stopped", False),
    "unless-paused": ("unless-stopped", "paused", True),
    "unless-shut": ("unless-stopped", "shut down", True),
    "failure": ("on-failure", "runs", True),
    "failure-ended": ("on-failure", "ended", False),
    "failure-shut": ("on-failure", "shut down", True),
    "always-waiting": ("always", "waits", True),
}


def make(engine: Engine, name: str) -> Container:
    policy, how, _ = LIVES[name]
    words = {"ended": ["true"], "waits": ["sh", "-c", "test -e /var/up && exec sleep 1000; exit 3"]}.get(
        how, SLEEP
    )
    more: dict[str, Any] = {} if policy is None else {"restart": policy}
    box = engine.create("host", words, name=name, **more)
    if how == "created":
        return box
    box.start()
    if how == "stopped":
        box.stop()
    elif how == "killed":
        box.kill()
    elif how == "paused":
        box.pause()
    elif how == "ended":
        box.wait()
        until(lambda: box.state == "exited")
    elif how == "waits":
        hold_while_it_waits(box)
    return box


def hold_while_it_waits(box: Container) -> None:
    """Until it is between two starts, where it then stays: who looks after it is stopped."""
    while True:
        until(lambda: box.restarts >= 3 and box.state == "restarting")
        supervisor = supervisor_of(box)
        os.kill(supervisor, signal.SIGSTOP)
        until(partial(is_stopped, supervisor))
        if box.state == "restarting" and (place_of(box) / "exit.json").exists():
            return
        os.kill(supervisor, signal.SIGCONT)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def end_machine(boxes: list[Container]) -> None:
    """As the power going off does it, but for their files."""
    for box in boxes:
        if box.state not in ("running", "paused", "restarting"):
            continue
        pid = int(state_of(box)["pid"])
        kill_supervisor(box)
        if not (place_of(box) / "exit.json").exists():
            if box._home.is_marked("paused"):
                from lamina.runtime.cgroups import reopen

                reopen(state_of(box)["cgroup"]).thaw()
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    for box in boxes:
        path = place_of(box) / "state.json"
        if path.exists():
            path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "an earlier one"}))


def test_a_boot_starts_those_whose_policy_says_so(engine: Engine, store_root: Path) -> None:
    boxes = [make(engine, name) for name in LIVES]
    shut = {name for name, (_, how, _) in LIVES.items() if how == "shut down"}
    others = [box for box in boxes if box.name not in shut]
    end_machine(others)
    assert {name for name, _ in engine.stop_restartable()} == shut
    assert all(box.exit_code == 143 for box in boxes if box.name in shut)
    end_machine(boxes)
    again = Engine(store_root)
    for box in again.containers(all=True):
        assert box.state == ("created" if box.name == "always-fresh" else "exited"), box.name
    assert again.container("always").exit_code == 255
    outcomes = again.start_restartable()
    assert all(failure is None for _, failure in outcomes)
    due = [name for name, (_, _, begins) in LIVES.items() if begins]
    assert [name for name, _ in outcomes] == due
    for box in again.containers(all=True):
        assert box.is_alive == (box.name in due), box.name
        assert box.restarts == 0 or box.name == "always-waiting"
    assert again.start_restartable() == []


def test_one_that_cannot_be_started_does_not_keep_the_others(engine: Engine) -> None:
    bad = engine.create(
        "host", SLEEP, name="bad", restart="always", volumes=[f"{engine.store.path.decode()}/gone:/v"]
    )
    good = engine.create("host", SLEEP, name="good", restart="always")
    for box in (bad, good):
        box.start()
        box.stop()
    os.rmdir(os.fsdecode(engine.store.path) + "/gone")
    end_machine([bad, good])
    record = place_of(bad) / "container.json"
    asked = json.loads(record.read_text())
    record.write_text(json.dumps({**asked, "command": ["no-such-command"]}))
    outcomes = dict(engine.start_restartable())
    assert outcomes["good"] is None
    assert "no-such-command" in str(outcomes["bad"])
    assert good.state == "running"


@pytest.mark.parametrize(
    "damage",
    [{"restart": None}, {"restart": []}, {"restart": "always"}, {"further": 5}, {"networking": 5}],
    ids=str,
)
def test_one_whose_record_is_damaged_does_not_keep_the_others(engine: Engine, damage: dict[str, Any]) -> None:
    bad, good = (engine.create("host", SLEEP, name=name, restart="always") for name in ("bad", "good"))
    for box in (bad, good):
        box.start()
        box.stop()
    record = place_of(bad) / "container.json"
    whole = record.read_text()
    asked = json.loads(whole)
    record.write_text(json.dumps({**asked, "options": {**asked["options"], **damage}}))
    try:
        assert engine.start_restartable() == [("good", None)]
        assert engine.stop_restartable() == [("good", None)]
    finally:
        record.write_text(whole)


def test_what_the_disk_does_not_give_any_more_keeps_no_other(engine: Engine) -> None:
    boxes = [engine.create("host", SLEEP, name=name, restart="always") for name in ("one", "two", "good")]
    for box in boxes:
        box.start()
        box.stop()
    bad = [place_of(boxes[0]) / "container.json", place_of(boxes[1]) / "exit.json"]
    for record in bad:
        record.rename(f"{record}.away")
        record.mkdir()  # an error of read(2), as that of a disk is
    try:
        assert engine.start_restartable() == [("good", None)]
        assert boxes[2].state == "running"
    finally:
        for record in bad:
            record.rmdir()
            Path(f"{record}.away").rename(record)


def test_a_shutdown_does_not_count_as_a_stop(engine: Engine, store_root: Path, lamina: Command) -> None:
    script = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    box = engine.start("host", ["sh", "-c", script], name="box", restart="unless-stopped")
    plain = engine.start("host", SLEEP, name="plain")
    until(lambda: said(box) == b"up\n")
    done = lamina("--root", store_root, "system", "stop-restartable")
    assert (done.stdout, done.stderr, done.returncode) == ("box\n", "", 0)
    assert (box.state, plain.state, said(box)) == ("exited", "running", b"up\nasked\n")
    done = lamina("--root", store_root, "system", "start-restartable")
    assert (done.stdout, done.stderr, done.returncode) == ("box\n", "", 0)
    box.stop()
    assert lamina("--root", store_root, "system", "start-restartable").stdout == ""
