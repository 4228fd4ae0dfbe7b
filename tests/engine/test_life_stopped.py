"""Whoever looks after a container is stopped (SIGSTOP, as by a debugger, or by somebody's mistake): what is asked of
the container is done all the same, or it is said who is in the way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import holding, idling, life, settling, stuck
from lamina.errors import Conflict, NotFound
from support.lives import is_gone, remove_all, supervisor_of, until

pytestmark = pytest.mark.root


@pytest.fixture
def engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Where whoever waits for one that is stopped to let go waits longer than a test may take."""
    monkeypatch.setattr(settling, "LETTING_GO", 1000.0)
    for module in (life, holding):
        monkeypatch.setattr(module, "PATIENCE", 1000.0)
    yield engine
    monkeypatch.undo()
    remove_all(engine)
    assert engine.storage.check().findings == ()


def started(engine: Engine, **options: object) -> Container:
    return engine.start("host", ["sleep", "1000"], stop_timeout=0, **options)  # type: ignore[arg-type]


def stopped(box: Container) -> int:
    pid = supervisor_of(box)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid))
    return pid


def is_stopped(pid: int) -> bool:
    return " T " in Path(f"/proc/{pid}/stat").read_text()


def test_a_forced_removal_has_a_stopped_supervisor_go_on(engine: Engine) -> None:
    box = started(engine)
    pid = stopped(box)
    box.remove(force=True)
    with pytest.raises(NotFound):
        engine.container(box.id)
    until(lambda: is_gone(pid))


@pytest.mark.parametrize("verb", ["stop", "kill", "restart", "pause", "update"])
def test_what_is_asked_of_one_whose_supervisor_is_stopped_is_done(engine: Engine, verb: str) -> None:
    box = started(engine)
    stopped(box)
    if verb == "update":
        box.update(restart="always")
    else:
        getattr(box, verb)()
    assert box.state == {"restart": "running", "update": "running", "pause": "paused"}.get(verb, "exited")


def test_one_that_sleeps_goes_on_too(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(idling.VARIABLE, "0.1")
    box = started(engine)
    pid = supervisor_of(box)
    until(lambda: "lamina-idle" in Path(f"/proc/{pid}/cmdline").read_text())
    stopped(box)
    box.remove(force=True)
    until(lambda: is_gone(pid))


def test_one_that_is_kept_stopped_is_killed(engine: Engine) -> None:
    box = started(engine)
    pid, over = stopped(box), threading.Event()

    def keep_stopped() -> None:
        while not over.wait(0.001):
            try:
                os.kill(pid, signal.SIGSTOP)
            except ProcessLookupError:
                return

    keeper = threading.Thread(target=keep_stopped)
    keeper.start()
    try:
        box.remove(force=True)
    finally:
        over.set()
        keeper.join()
    until(lambda: is_gone(pid))


@pytest.mark.parametrize("verb", ["remove", "remove --force", "start"])
def test_who_has_just_ended_is_waited_for_and_its_supervisor_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Between the end of a process and the moment it is written down `exec` says "not running": so do the others."""
    monkeypatch.setattr(settling, "SYNCING", 1000.0)
    box = started(engine)
    supervisor, first = stopped(box), int(box.attrs["State"]["Pid"])
    os.kill(first, signal.SIGKILL)
    until(lambda: is_gone(first) or " Z " in Path(f"/proc/{first}/stat").read_text())
    done: list[object] = []

    def ask() -> None:
        try:
            box.start() if verb == "start" else box.remove(force="force" in verb)
            done.append(None)
        except Exception as error:
            done.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(100)
    if not done:  # whoever asks is not left behind
        os.kill(supervisor, signal.SIGCONT)
        asking.join(100)
        pytest.fail("its supervisor stayed stopped")
    assert done == [None]
    if verb == "start":
        assert box.state == "running" and int(box.attrs["State"]["Pid"]) != first
    else:
        with pytest.raises(NotFound):
            engine.container(box.id)


def test_who_has_it_in_hand_is_found_although_something_of_his_is_closed_meanwhile(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = engine.create("host", ["true"])
    assert box._home.hold()
    try:
        listdir = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: [b"999999", *listdir(path)])
        assert stuck.holder(box._home) == os.getpid()
    finally:
        box._home.release()


RUN = """
import sys
from lamina import Engine
Engine(sys.argv[1]).run("host", ["sleep", "1000"], name="held")
"""


def test_a_program_that_runs_a_container_is_left_stopped_and_named(engine: Engine) -> None:
    """It may be somebody's shell job: it goes on when they say so."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, os.fsdecode(engine.store.path)], stdin=subprocess.DEVNULL
    )
    try:
        until(lambda: any(box.state == "running" for box in engine.containers()))
        [box] = engine.containers()
        process.send_signal(signal.SIGSTOP)
        until(lambda: is_stopped(process.pid))
        with pytest.raises(
            Conflict, match=f"process {process.pid}, which has it in hand, is stopped"
        ) as said:
            box.remove(force=True)
        assert f"kill -CONT {process.pid}" in (said.value.remedy or "")
        process.send_signal(signal.SIGCONT)
        box.remove(force=True)
    finally:
        process.kill()
        process.wait()
