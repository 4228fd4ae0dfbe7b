"""Whoever makes a snapshot, or goes back, is killed at every step, or the disk fails there: it has happened or it has
not, and whoever comes next goes on. Every third step, another third in each run; all of them with LAMINA_STRESS=full.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from errno import EIO

import pytest

from lamina import Container, Engine
from lamina.errors import LaminaError
from lamina.store import trace
from support.lives import place_of
from support.workers import FULL

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]

Verb = Callable[[Container], object]


def steps(seed: int) -> range:
    return range(1, 200) if FULL else range(1 + seed % 3, 200, 3)


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    trace.hook = None


def killed(engine: Engine, verb: Verb, step: int) -> bool:
    """Whether the *step* was reached, at which the process is killed."""
    pid = os.fork()
    if not pid:
        try:
            box = Engine(os.fsdecode(engine.store.path)).container("box")
            trace.hook = trace.parse(f"kill:{step}")
            verb(box)
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def let_down(box: Container, verb: Verb, step: int) -> bool:
    """Whether the *step* was reached, which fails."""
    reached: list[str] = []
    fails = trace.parse(f"fail:{step}:{EIO}")

    def hook(name: str) -> None:
        reached.append(name)
        fails(name)

    trace.hook = hook
    try:
        verb(box)
    except LaminaError:
        pass
    finally:
        trace.hook = None
    return len(reached) >= step


def left(box: Container) -> list[str]:
    """What is in its directory that should not be there."""
    return [
        name
        for name in os.listdir(place_of(box))
        if name.startswith("freezing-") or name.endswith(".new") or name in box.record.get("left", ())
    ]


@pytest.mark.parametrize("how", ["killed", "let down"])
def test_one_that_does_not_run(engine: Engine, how: str, seed: int) -> None:
    box = engine.create("tiny", ["true"], name="box")
    numbers = [0]

    def stopped(verb: Verb, step: int) -> bool:
        return killed(engine, verb, step) if how == "killed" else let_down(box, verb, step)

    for step in steps(seed):
        (box.files / "n").write_text(str(step))
        before = {one.id for one in box.snapshots()}
        if not stopped(lambda box: box.snapshot(), step):
            break
        assert (box.files / "n").read_text() == str(step), step
        new = [one for one in box.snapshots() if one.id not in before]
        if new:
            (box.files / "n").write_text("other")
            box.rewind(new[0])
            assert (box.files / "n").read_text() == str(step), step
        numbers.append(step)
    assert len(numbers) > 5
    (box.files / "n").write_text("first")
    first = box.snapshot("first")
    for step in steps(seed):
        box.rewind(first)
        (box.files / "n").write_text("later")
        if not stopped(lambda box: box.rewind("first"), step):
            break
        assert (box.files / "n").read_text() in ("first", "later"), step
    assert step > 5
    box.snapshot()
    engine.storage.collect()
    assert left(box) == []
    assert engine.storage.check().findings == ()
    box.rewind("first")
    assert (box.files / "n").read_text() == "first"


def test_one_that_runs(engine: Engine, seed: int) -> None:
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)

    def sh(script: str) -> str:
        done = box.exec(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
        return str(done.stdout)

    try:
        for step in steps(seed):
            sh(f"echo {step} >/n")
            before = {one.id for one in box.snapshots()}
            if not killed(engine, lambda box: box.snapshot(), step):
                break
            assert sh("cat /n") == f"{step}\n"
            sh("echo other >/n")
            for new in [one for one in box.snapshots() if one.id not in before]:
                box.rewind(new)
                assert sh("cat /n") == f"{step}\n"
        assert step > 15
        sh("echo first >/n")
        first = box.snapshot("first")
        for step in steps(seed):
            box.rewind(first)
            sh("echo later >/n")
            if not killed(engine, lambda box: box.rewind("first"), step):
                break
            assert sh("cat /n") in ("first\n", "later\n"), step
        assert step > 5
        assert box.state == "running"
        box.snapshot()
        assert left(box) == []
    finally:
        box.remove(force=True)
    engine.storage.collect()
    assert engine.storage.check().findings == ()


def test_a_copy_is_not_taken_for_what_it_goes_on_writing(engine: Engine) -> None:
    """Somebody is killed who copied what a running container wrote; that goes on writing, and ends."""
    box = engine.start("tiny", ["sleep", "600"], name="box", init=True)
    try:
        box.exec(["sh", "-c", "echo first >/n"], check=True)
        pid = os.fork()
        if not pid:
            try:
                own = Engine(os.fsdecode(engine.store.path)).container("box")
                trace.hook = _killed_at("state.rename-layer")
                own.snapshot(consistency="copy")
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        box.exec(["sh", "-c", "echo later >/n"], check=True)
        box.stop(timeout=0)
        box.snapshot()
        assert (box.files / "n").read_text() == "later\n"
        assert left(box) == []
    finally:
        box.remove(force=True)
    engine.storage.collect()
    assert engine.storage.check().findings == ()


def _killed_at(point: str) -> Callable[[str], None]:
    def hook(name: str) -> None:
        if name == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
