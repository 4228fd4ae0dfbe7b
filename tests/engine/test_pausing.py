"""Containers that stand still, and what can be done with them meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import executing, pausing
from lamina.engine.recover import recover
from lamina.errors import Conflict
from lamina.runtime.cgroups import reopen
from lamina.store.containers import Home
from lamina.store.lock import Lock
from support.lives import is_gone, state_of, until

pytestmark = pytest.mark.root


def frozen(container: Container) -> bool:
    return reopen(state_of(container)["cgroup"]).frozen


def actions(engine: Engine) -> list[str]:
    return [event.action for event in engine.events(since=0, until=time.time())]


@pytest.fixture
def box(engine: Engine) -> Container:
    """Two processes."""
    return engine.start("host", ["sh", "-c", "sleep 1000 & wait"], name="box")


def ticks(container: Container) -> int:
    """How long all of its processes have worked so far, by the kernel's own account."""
    total = 0
    for pid in reopen(state_of(container)["cgroup"]).processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def test_it_stands_still_and_goes_on(engine: Engine) -> None:
    box = engine.start("host", ["sh", "-c", "sleep 1000 & while :; do :; done"], name="box")
    until(lambda: ticks(box) > 0)
    box.pause()
    assert (box.state, box.is_alive, frozen(box)) == ("paused", True, True)
    shown = box.inspect()["State"]
    assert (shown["Status"], shown["Paused"], shown["Running"]) == ("paused", True, True)
    assert [one.name for one in engine.containers()] == ["box"]
    worked = ticks(box)
    time.sleep(0.2)
    assert ticks(box) == worked
    box.unpause()
    assert (box.state, frozen(box)) == ("running", False)
    until(lambda: ticks(box) > worked)
    assert [said for said in actions(engine) if "pause" in said] == ["pause", "unpause"]


def test_each_state_has_its_error(engine: Engine) -> None:
    box = engine.create("host", ["sleep", "1000"], name="box")
    with pytest.raises(Conflict, match="pause container box: it is not running"):
        box.pause()
    with pytest.raises(Conflict, match="unpause container box: it is not paused"):
        box.unpause()
    box.start()
    with pytest.raises(Conflict, match="it is not paused"):
        box.unpause()
    box.pause()
    with pytest.raises(Conflict, match="it is already paused"):
        box.pause()
    with pytest.raises(Conflict, match="it is paused"):
        box.start()
    box.kill()
    with pytest.raises(Conflict, match="it is not running"):
        box.pause()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda box: box.stop(), 128 + signal.SIGTERM),
        (lambda box: box.kill(), 128 + signal.SIGKILL),
        (lambda box: box.kill("TERM"), 128 + signal.SIGTERM),
    ],
    ids=["stop", "kill", "its stop signal"],
)
def test_a_paused_one_can_be_ended(
    engine: Engine, box: Container, end: Callable[[Container], None], status: int
) -> None:
    box.pause()
    end(box)
    until(lambda: box.state == "exited")
    assert box.exit_code == status
    box.start()
    assert box.state == "running"


def test_any_signal_that_ends_it_lets_it_go_on_to_end(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"])  # a shell that forks just then holds all signals back
    box.pause()
    box.kill("HUP")
    until(lambda: box.state == "exited")


def test_a_paused_one_can_be_removed_or_restarted(engine: Engine, box: Container) -> None:
    box.pause()
    box.restart(timeout=0)
    assert (box.state, frozen(box)) == ("running", False)
    box.pause()
    box.remove(force=True)
    assert engine.containers(all=True) == []


def test_a_signal_that_it_handles_waits_for_it(engine: Engine) -> None:
    box = engine.start("host", ["sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done"])
    until(lambda: list(box.logs()))
    box.pause()
    box.kill("USR1")
    assert (box.state, frozen(box)) == ("paused", True)
    box.unpause()
    assert box.wait() == 7


def test_its_time_limit_ends_it_also_while_it_is_paused(engine: Engine) -> None:
    for seconds in (1.0, 10.0, 60.0):  # on a busy machine it has ended before it is paused
        box = engine.start("host", ["sleep", "1000"], timeout=seconds)
        try:
            box.pause()
        except (Conflict, OSError):
            continue
        break
    until(lambda: box.state == "exited")
    assert box.inspect()["State"]["TimedOut"]


def test_it_stays_paused_when_its_supervisor_is_killed(engine: Engine, box: Container) -> None:
    box.pause()
    supervisor = state_of(box)["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: not box._home.is_looked_after())
    assert (box.state, frozen(box)) == ("paused", True)
    recover(engine.store)
    until(lambda: state_of(box)["supervisor"]["pid"] != supervisor)
    assert (box.state, frozen(box)) == ("paused", True)
    box.unpause()
    assert box.state == "running"
    box.stop()
    assert box.state == "exited"


def test_a_killed_supervisor_does_not_keep_a_paused_one_from_its_end(engine: Engine, box: Container) -> None:
    box.pause()
    os.kill(state_of(box)["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: not box._home.is_looked_after())
    box.remove(force=True)
    assert engine.containers(all=True) == []


def test_those_who_pause_and_end_it_at_once_do_not_get_stuck(engine: Engine) -> None:
    for _ in range(3):
        box = engine.start("host", ["sleep", "1000"])
        words = "import sys; from lamina import Engine; box = Engine(sys.argv[1]).container(sys.argv[2])\n"
        words += "while True: box.pause(); box.unpause()"
        with subprocess.Popen(
            [sys.executable, "-c", words, str(engine.store.path, "utf-8"), box.id], stderr=subprocess.DEVNULL
        ):
            time.sleep(0.2)
            box.stop(timeout=5)
        assert box.state == "exited"


def test_pausing_and_a_health_check_do_not_wait_for_each_other(engine: Engine) -> None:
    """The check is about to join the container when somebody comes who pauses it, and has it alone."""
    box = engine.start("host", ["sleep", "1000"], health_cmd="true", health_interval="1h")
    at_the_door, reached = os.pipe2(os.O_CLOEXEC)
    go_in, let_in = os.pipe2(os.O_CLOEXEC)
    turn, alone_with = executing._turn, pausing.alone_with

    def join(home: Home) -> Lock:
        os.write(reached, b"x")
        os.read(go_in, 1)
        return turn(home)

    def have_alone(home: Home) -> Lock:
        held = alone_with(home)
        os.write(let_in, b"x")
        return held

    def check() -> None:
        executing._turn = join
        with contextlib.suppress(Conflict):  # paused meanwhile
            box.check_health()

    def pause() -> None:
        os.read(at_the_door, 1)
        pausing.alone_with = have_alone
        box.pause()

    both = [in_a_process(check), in_a_process(pause)]
    try:
        until(lambda: all(map(is_gone, both)), 60)
    finally:
        for pid in both:
            os.kill(pid, signal.SIGKILL)
        ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in both]
        for descriptor in (at_the_door, reached, go_in, let_in):
            os.close(descriptor)
    assert ends == [0, 0]
    assert box.state == "paused"


def in_a_process(work: Callable[[], None]) -> int:
    """Do *work* in a child, whose pid is returned; it ends with 0 if nothing was raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child
