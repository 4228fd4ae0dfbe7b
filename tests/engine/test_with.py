"""`with`: what a block made is gone at its end, whatever happened in it; and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Engine
from lamina.errors import CommandNotFound, Conflict, InvalidInput, NotFound
from support.leaks import Leaks
from support.lives import until
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    small_image(store_root)
    engine = Engine(store_root)
    yield engine
    assert engine.containers(all=True) == []
    until(lambda: not left(store_root))  # a supervisor removes in the background


def left(root: Path) -> list[str]:
    return [
        str(path)
        for place in ("containers", "names", "running", "tmp", "volumes")
        for path in (root / place).iterdir()
    ]


@pytest.mark.parametrize(
    "options", [{}, {"rm": True}, {"restart": "always"}, {"lifetime": "owner"}, {"tty": True}]
)
def test_what_was_started_is_removed(engine: Engine, options: dict[str, object]) -> None:
    with engine.start("tiny", ["sleep", "600"], name="box", **options) as box:  # type: ignore[arg-type]
        assert box.status == "running"
        assert engine.containers() == [box]
    with pytest.raises(NotFound):
        engine.container("box")
    with pytest.raises(NotFound):
        box.reload()


def test_what_was_made_is_removed_whether_it_ever_ran_or_not(engine: Engine) -> None:
    with engine.create("tiny", ["true"]) as box:
        assert box.status == "created"
    with engine.create("tiny", ["true"]) as box:
        box.start()
        assert box.wait() == 0
    with engine.start("tiny", ["sleep", "600"]) as box:
        box.pause()


def test_its_own_volumes_go_with_it_and_others_stay(engine: Engine) -> None:
    volumes = ["/scratch", "data:/data"]
    with engine.start("tiny", ["sleep", "600"], volumes=volumes) as box:
        assert len(engine.volumes()) == 2
        box.exec(["sh", "-c", "echo kept >/data/file"], check=True)
    (data,) = engine.volumes()
    assert (data.name, (data.path / "file").read_text()) == ("data", "kept\n")
    data.remove()


def test_it_may_be_gone_by_then(engine: Engine) -> None:
    with engine.start("tiny", ["sleep", "600"]) as box:
        box.remove(force=True)
    with engine.start("tiny", ["true"], rm=True) as box:
        until(lambda: not engine.containers(all=True))


@pytest.mark.parametrize("failure", [RuntimeError("of the block"), KeyboardInterrupt(), SystemExit(3)])
def test_what_the_block_raises_is_raised(engine: Engine, failure: BaseException) -> None:
    with pytest.raises(type(failure)) as raised, engine.start("tiny", ["sleep", "600"]):
        raise failure
    assert raised.value is failure


def test_what_was_looked_up_stays_as_it_is(engine: Engine) -> None:
    with engine.start("tiny", ["sleep", "600"], name="box") as box:
        with engine.container("box") as found:
            assert found == box
        with pytest.raises(RuntimeError), engine.containers()[0]:
            raise RuntimeError
        assert box.status == "running"


def test_a_failure_to_remove_is_said_beside_that_of_the_block(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Conflict("remove container: somebody is in the way")

    with engine.start("tiny", ["sleep", "600"]) as outer:
        monkeypatch.setattr("lamina.engine.container.Container.remove", refuse)
        with pytest.raises(RuntimeError) as raised, outer:
            raise RuntimeError("of the block")
        (note,) = raised.value.__notes__
        assert note == f"while removing container {outer.short_id}: remove container: somebody is in the way"
        with pytest.raises(Conflict, match="in the way"), outer:
            pass
        monkeypatch.undo()


def test_a_start_that_fails_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(CommandNotFound, match="no-such"), engine.start("tiny", ["no-such"], name="box"):
        raise AssertionError("it did not start")
    with pytest.raises(InvalidInput):
        engine.start("tiny", ["true"], memory="much")
    with pytest.raises(TypeError, match="momory"):
        engine.start("tiny", ["true"], momory="64m")  # type: ignore[call-arg]


SEVERAL = """if True:
    import sys
    from lamina import Engine
    engine = Engine(sys.argv[1])
    life = sys.argv[2]
    with engine.start("tiny", ["true"], lifetime=life), engine.start("tiny", ["sleep", "600"], lifetime=life) as box:
        with box.popen(["sleep", "600"]) as process:
            print("ready", flush=True)
            process.wait()
"""


@pytest.fixture
def program(store_root: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []

    def start(lifetime: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", SEVERAL, str(store_root), lifetime]
        made.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        assert made[-1].stdout is not None
        assert made[-1].stdout.readline() == "ready\n"
        return made[-1]

    yield start
    for one in made:
        one.kill()
        one.communicate()


def test_a_program_that_is_interrupted_leaves_nothing(
    engine: Engine, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    one = program("container")
    one.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in one.communicate(timeout=200)[1]
    assert one.returncode == -signal.SIGINT
    assert engine.containers(all=True) == []


def test_a_program_that_is_killed_leaves_nothing_that_has_an_owner(
    engine: Engine, program: Callable[[str], subprocess.Popen[str]], store_root: Path
) -> None:
    for one in [program("owner"), program("owner")]:
        one.kill()
    until(lambda: not left(store_root))  # without a command that cleans up


def test_a_second_interrupt_during_the_removal_leaves_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.engine.container import Container

    remove = Container.remove

    def interrupted(self: Container, *given: object, **named: object) -> None:
        monkeypatch.setattr(Container, "remove", remove)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt), engine.start("tiny", ["sleep", "600"]):
        monkeypatch.setattr(Container, "remove", interrupted)
