"""What two do to a container at once, and ends that are told apart."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, NotFound
from lamina.runtime.cgroups import create
from support.lives import Command, is_gone, said, state_of, until
from support.running import running

pytestmark = pytest.mark.root

SLEEP = ["sleep", "1000"]


@pytest.mark.parametrize("name", ["HUP", "INT", "USR1", "ALRM"])
def test_a_signal_that_nobody_handles_is_what_it_ended_by(engine: Engine, name: str) -> None:
    box = engine.start("host", SLEEP)
    box.kill(name)
    assert box.wait() == 128 + signal.Signals[f"SIG{name}"]
    until(lambda: box.state == "exited")
    assert box.exit_code == 128 + signal.Signals[f"SIG{name}"]
    box.start()
    os.kill(int(state_of(box)["pid"]), signal.SIGKILL)  # by somebody else: nothing of that is left
    assert box.wait() == 137


def test_such_a_signal_does_not_keep_its_policy_from_starting_it_again(engine: Engine) -> None:
    box = engine.start("host", SLEEP, restart="always")
    box.kill("HUP")
    until(lambda: box.restarts == 1 and box.state == "running")
    box.stop()
    assert (box.state, box.exit_code) == ("exited", 143)


@pytest.mark.peer("busybox")
@pytest.mark.usefixtures("tiny")
def test_in_the_foreground_it_is_the_same(engine: Engine) -> None:
    for end, status in (("HUP", 129), (None, 143)):
        with running(engine, *SLEEP) as box:
            if end is None:
                box.stop()
            else:
                box.kill(end)
            until(lambda box=box: box.state == "exited")  # type: ignore[misc]
            assert box.exit_code == status


def test_removing_one_that_removes_itself_is_no_error(
    engine: Engine, store_root: Path, lamina: Command
) -> None:
    for turn in range(12):
        box = engine.start("host", SLEEP, rm=True, name="box")
        failures: list[BaseException] = []

        def remove(box: Container = box, failures: list[BaseException] = failures) -> None:
            try:
                box.remove(force=True)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=remove) for _ in range(3)]
        if turn % 2:
            os.kill(int(state_of(box)["pid"]), signal.SIGKILL)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with pytest.raises(NotFound):
            engine.container("box")
    with pytest.raises(NotFound):
        box.remove()
    assert lamina("--root", store_root, "rm", "-f", "box").returncode == 0
    assert lamina("--root", store_root, "rm", "box").returncode == 1


@pytest.mark.parametrize("text", ["", "{", '{"id": "0"}'])
def test_a_damaged_container_gives_its_name_back(engine: Engine, store_root: Path, text: str) -> None:
    box = engine.create("host", SLEEP, name="box")
    (store_root / "containers" / box.id / "container.json").write_text(text)
    engine.container(box.id).remove(force=True)
    assert list((store_root / "names").iterdir()) == []
    assert engine.create("host", SLEEP, name="box").name == "box"
    assert engine.storage.check().findings == ()


def test_a_name_that_leads_nowhere_is_found_and_freed(engine: Engine, store_root: Path) -> None:
    names = store_root / "names"
    box = engine.create("host", SLEEP, name="box")
    (names / "old").symlink_to("0" * 64)
    (names / "odd").symlink_to("/etc/passwd")
    found = {(one.kind, one.what) for one in engine.storage.check().findings}
    assert found == {("name", "old"), ("name", "odd")}
    assert len(engine.storage.check(repair=True).findings) == 2
    assert [path.name for path in names.iterdir()] == ["box"]
    assert engine.storage.check().clean
    assert engine.container("box").id == box.id


TOO_LATE = [0]


def all_four(container: Container) -> list[int]:
    """Its processes, once there are four; TOO_LATE where it has ended."""
    try:
        found = [int(row[1]) for row in container.top()["Processes"]]
    except Conflict:
        return TOO_LATE
    return found if len(found) == 4 else []


def test_what_forked_away_ends_with_it(engine: Engine) -> None:
    """Also where no end of a pid namespace sees to that."""
    script = "setsid sh -c 'setsid sleep 4321 & sleep 4322' & exec sleep 4323"
    for end in ("stop", "kill", "timeout"):
        for seconds in (1, 10, 60):  # on a busy machine its time may be up before all of them are there
            more = {"timeout": seconds} if end == "timeout" else {}
            box = engine.start("host", ["sh", "-c", script], pid="host", **more)  # type: ignore[arg-type]
            pids = until(partial(all_four, box))
            if pids != TOO_LATE:
                break
        if end == "stop":
            box.stop()
        elif end == "kill":
            box.kill()
        until(lambda box=box: box.state == "exited")  # type: ignore[misc]
        until(lambda pids=pids: all(is_gone(pid) for pid in pids))  # type: ignore[misc]
        assert box.inspect()["State"]["TimedOut"] == (end == "timeout")
        box.remove()


def test_what_ignores_the_stop_signal_ends_with_all_that_it_started(engine: Engine) -> None:
    script = "trap '' TERM; (trap '' TERM; sleep 4324; sleep 4324) & while :; do sleep 0.1; done"
    box = engine.start("host", ["sh", "-c", script], stop_timeout=1)
    pids = until(partial(all_four, box))
    box.stop()
    assert box.exit_code == 137
    until(lambda: all(is_gone(pid) for pid in pids))


def test_a_kill_for_want_of_memory_is_told_from_others(engine: Engine) -> None:
    greedy = engine.start("host", ["tail", "/dev/zero"], memory="16m", memory_swap="16m")
    assert greedy.wait() == 137
    until(lambda: greedy.state == "exited")
    assert greedy.inspect()["State"]["OOMKilled"] is True
    killed = engine.start("host", SLEEP, memory="16m")
    killed.kill()
    assert (killed.exit_code, killed.inspect()["State"]["OOMKilled"]) == (137, False)
    told = [(one.action, one.id) for one in engine.events(since=time.time() - 1000, until=time.time())]
    ends = [(action, which) for action, which in told if action in ("oom", "die")]
    assert ends == [("oom", greedy.id), ("die", greedy.id), ("die", killed.id)]


def test_one_of_which_only_a_part_was_killed_for_want_of_memory_lives_on(engine: Engine) -> None:
    # the first time: how far it comes until it is killed the second time is anybody's guess
    script = "[ -e once ] || { touch once; tail /dev/zero; echo lost $?; }; exec sleep 1000"
    box = engine.start("host", ["sh", "-c", script], memory="16m", memory_swap="16m", workdir="/var")
    until(lambda: b"lost 137\n" in said(box))
    assert box.state == "running"
    box.start()
    box.stop()
    assert (box.exit_code, box.inspect()["State"]["OOMKilled"]) == (143, True)
    box.start()
    box.kill()
    assert box.inspect()["State"]["OOMKilled"] is False


@pytest.mark.parametrize("state", ["created", "exited"])
def test_groups_of_a_start_that_was_killed_go_with_the_container(engine: Engine, state: str) -> None:
    """Killed between making them and writing them down; the fixture sees what is left."""
    box = engine.create("host", ["true"], name="box")
    if state == "exited":
        box.start()
        box.wait()
        until(lambda: not box._home.is_looked_after())
    box._home.mark("box")  # which whoever starts it has before anything else is made
    made = create(str(box.record["cgroup"]), {}, own_parent=True, also=("pids", "freezer"))
    assert made is not None
    made.close()
    box.remove()
    assert not any(os.path.exists(place) for place in made.paths.values())
