"""Supervisors killed at every moment: no container is lost, each can be stopped and removed, nothing is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from lamina import Container, Engine
from lamina.engine.supervising import Supervisor
from lamina.errors import Conflict, Corrupt, LaminaError, NotFound
from lamina.store import trace
from support.leaks import Leaks
from support.lives import is_gone, kill_supervisor, remove_all, said, state_of, supervisor_of, until

pytestmark = pytest.mark.root


@pytest.fixture
def engine(engine: Engine, store_root: Path) -> Iterator[Engine]:
    yield engine
    remove_all(engine)
    for place in ("containers", "names", "running"):
        assert list((store_root / place).iterdir()) == []
    assert engine.storage.check().findings == ()


def test_a_container_lives_on_and_is_adopted(engine: Engine) -> None:
    script = "echo one; read line <go; echo two; exit 5"
    box = engine.start("host", ["sh", "-c", f"mkfifo go; {script}"], workdir="/var")
    until(lambda: said(box) == b"one\n")
    pid = int(box.inspect()["State"]["Pid"])
    kill_supervisor(box)
    assert engine.container(box.id).state == "running"
    until(lambda: box._home.is_looked_after())
    assert int(box.inspect()["State"]["Pid"]) == pid
    go = f"/proc/{pid}/root/var/go"
    with open(go, "w") as fifo:
        fifo.write("on\n")
    until(lambda: box.state == "exited")
    assert (box.exit_code, said(box)) == (5, b"one\ntwo\n")


@pytest.mark.parametrize("paused", [False, True])
def test_what_is_for_containers_that_do_not_run_ends_none_whose_supervisor_is_killed(
    engine: Engine, paused: bool
) -> None:
    """Just then: after it was looked for, before it is held."""
    box = engine.start("host", ["sleep", "1000"])
    pid = int(box.inspect()["State"]["Pid"])
    if paused:
        box.pause()
    kill_supervisor(box)
    for verb in (box.remove, box.apply, box.undo):
        with pytest.raises(Conflict, match="paused" if paused else "running"):
            verb()
    assert os.path.exists(f"/proc/{pid}")
    assert engine.container(box.id).state == ("paused" if paused else "running")
    until(lambda: box._home.is_looked_after())
    kill_supervisor(box)
    box.remove(force=True)
    until(lambda: not os.path.exists(f"/proc/{pid}"))  # somebody has to reap it


def test_one_that_ended_meanwhile_has_ended_with_255(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"])
    pid = int(box.inspect()["State"]["Pid"])
    kill_supervisor(box)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    found = engine.container(box.id)
    until(lambda: found.state == "exited")
    assert found.exit_code == 255
    found.start()
    assert found.state == "running"


def test_adoption_happens_once(engine: Engine, store_root: Path) -> None:
    boxes = [engine.start("host", ["sleep", "1000"]) for _ in range(3)]
    for box in boxes:
        kill_supervisor(box)
    for _ in range(3):
        assert len(Engine(store_root).containers()) == 3
    supervisors = {supervisor_of(box) for box in boxes}
    assert len(supervisors) == 3
    for pid in supervisors:
        children = Path(f"/proc/{pid}/cmdline").read_text()
        assert "isolated.py" in children


def test_a_supervisor_killed_while_it_waits_to_restart_is_replaced(engine: Engine) -> None:
    box = engine.start("host", ["sh", "-c", "echo x; exit 1"], restart="always")
    until(lambda: box.restarts >= 3 and box.state == "restarting")
    kill_supervisor(box)
    before = said(box)
    engine.containers()
    until(lambda: said(box) != before)
    box.stop()
    assert box.state == "exited"


def test_a_start_ends_what_a_start_before_it_left_that_was_killed(engine: Engine) -> None:
    """Whoever waited meanwhile has the lock next, and no command has cleaned up."""
    box = engine.create("host", ["sleep", "1000"])

    def die(step: str) -> None:
        if step == "start: write state record":  # the command runs, and nobody knows of it
            os.kill(os.getpid(), signal.SIGKILL)

    ends = [start_as_its_supervisor(box, hook) for hook in (die, None)]
    assert ends == [-signal.SIGKILL, 0]
    assert processes_of(box) == [state_of(box)["pid"]]


def start_as_its_supervisor(box: Container, hook: Callable[[str], None] | None) -> int:
    """In a child; how that ended."""
    child = os.fork()
    if child == 0:
        trace.hook = hook
        try:
            Supervisor(box.store, box.id).start()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def processes_of(box: Container) -> list[int]:
    """Those whose root is the container's."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if box.id in (place / "mountinfo").read_text():
                found.append(int(place.name))
    return found


LIVES: dict[str, dict[str, object]] = {
    "that ends": {"script": "echo x"},
    "that lives": {"script": "echo x; exec sleep 1000"},
    "to be removed": {"script": "echo x", "rm": True},
    "that is started again": {"script": "echo x; exit 3", "restart": "on-failure:1"},
}


class Lives:
    """The same life again and again, traced, or with its supervisor killed at one of its steps."""

    def __init__(self, engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine, self.monkeypatch = engine, monkeypatch
        self.options = dict(LIVES[kind])
        self.command = ["sh", "-c", str(self.options.pop("script"))]
        self.long, self.passing = kind == "that lives", "rm" in self.options

    def start(self, watch: str) -> Container:
        box = self.engine.create("host", self.command, name="box", **self.options)  # type: ignore[arg-type]
        # a fresh interpreter reads it, this program has done so long ago
        self.monkeypatch.setenv(trace.VARIABLE, watch)
        try:
            box.start()
        except LaminaError as error:
            assert "supervisor ended" in error.message
        finally:
            self.monkeypatch.delenv(trace.VARIABLE)
        return box

    def settle(self, box: Container) -> None:
        """Until the supervisor is gone, killed or because there is no more to do; or all it has to do is wait."""
        until(lambda: not box._home.is_looked_after() or (self.long and said(box) == b"x\n"))

    def steps(self, place: Path) -> list[str]:
        box = self.start(f"log:{place}")
        self.settle(box)
        if self.long:
            box.stop()
        if not self.passing:
            box.remove()
        until(lambda: not box._home.exists())
        return place.read_text().splitlines()

    def killed_at(self, step: int) -> None:
        box = self.start(f"kill:{step}")
        self.settle(box)
        try:
            found = self.engine.container("box")
            assert found.state in ("created", "running", "exited", "restarting")
            found.stop()
            assert found.state in ("created", "exited")
            if not self.passing:
                found.start()
                until(lambda: b"x\n" in said(found))
                found.stop()
            found.remove()
        except NotFound:
            assert self.passing
        assert self.engine.containers(all=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIVES)
def test_killed_at_any_step(
    engine: Engine, kind: str, monkeypatch: pytest.MonkeyPatch, untouched_host: Leaks, tmp_path: Path
) -> None:
    lives = Lives(engine, kind, monkeypatch)
    steps = lives.steps(tmp_path / "steps")
    assert {"start: launched", "start: drop exit record", "end: write exit record"} <= set(steps)
    for step in range(1, len(steps) + 1):
        lives.killed_at(step)
    assert untouched_host.left() == []


def _is_adopted(engine: Engine, box: Container) -> bool:
    """Whoever was killed before has been replaced: that goes on beside us, from when somebody looks who finds it dead.
    It may take a while to die.
    """
    engine.containers()
    return not is_gone(supervisor_of(box))


@pytest.mark.slow
def test_killed_at_random_moments(engine: Engine, untouched_host: Leaks) -> None:
    random = Random(5)
    boxes = [
        engine.start(
            "host", ["sh", "-c", "while :; do echo x; sleep 0.01; done"], restart=policy, name=f"box{n}"
        )
        for n, policy in enumerate(["no", "always", "unless-stopped", "no"])
    ]
    for _ in range(12):
        box = random.choice(boxes)
        until(partial(_is_adopted, engine, box))
        with suppress(ProcessLookupError):  # it was killed the last time, and has just gone
            os.kill(supervisor_of(box), signal.SIGKILL)
        time.sleep(random.random() / 50)
        assert {one.name for one in engine.containers()} == {one.name for one in boxes}
    for box in boxes:
        box.stop()
        assert box.state == "exited"
        box.remove()
    assert untouched_host.left() == []


def as_after_a_boot(box: Container) -> None:
    """What a machine that was switched off leaves: records of another boot, and nobody."""
    pid = int(box.inspect()["State"]["Pid"])
    kill_supervisor(box)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    state = box._home.read("state")
    box._home.write("state", {**(state or {}), "boot": "another"})


@pytest.mark.parametrize("policy", ["no", "always"])
def test_after_a_boot_it_has_ended_and_waits_to_be_started(engine: Engine, policy: str) -> None:
    box = engine.start("host", ["sleep", "1000"], restart=policy)
    as_after_a_boot(box)
    found = engine.container(box.id)
    assert (found.state, found.exit_code) == ("exited", 255)
    assert not list(Path(os.fsdecode(engine.store.running)).iterdir())
    found.start()
    assert found.state == "running"


def test_its_policy_is_followed_when_nobody_saw_its_end(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], restart="on-failure:1")
    pid = int(box.inspect()["State"]["Pid"])
    kill_supervisor(box)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    engine.containers()
    until(lambda: box.state == "running" and int(box.inspect()["State"]["Pid"]) not in (0, pid))
    assert box.restarts == 1


@pytest.mark.parametrize("record", ["state.json", "exit.json", "container.json"])
def test_a_damaged_record_is_said_and_keeps_nobody_from_removing_it(engine: Engine, record: str) -> None:
    box = engine.start("host", ["true"], name="box")
    other = engine.create("host", ["true"], name="other")
    box.wait()
    until(lambda: not box._home.is_looked_after())
    (Path(os.fsdecode(box._home.path)) / record).write_text('{"pid": ')
    with pytest.raises(Corrupt, match=record):
        engine.container("box").inspect()
    if record != "exit.json":  # which the next start replaces
        with pytest.raises(Corrupt, match=record):
            engine.container("box").start()
    assert other.id in [one.id for one in engine.containers(all=True)]
    engine.container("box").remove(force=True)
    engine.create("host", ["true"], name="box")  # nobody has that name any more
