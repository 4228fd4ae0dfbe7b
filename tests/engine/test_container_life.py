"""Containers that live by themselves: made, started, stopped, started again, waited for, renamed and removed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import CommandNotFound, Conflict, InvalidInput, NotFound
from support.leaks import Leaks

pytestmark = pytest.mark.root


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    engine = Engine(store_root)
    yield engine
    for container in engine.containers(all=True):
        container.remove(force=True)


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Not a measurement: what is waited for comes, or the test has failed."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def said(container: Container) -> bytes:
    return b"".join(entry.data for entry in container.logs())


def pid_of(container: Container) -> int:
    return int(container.inspect()["State"]["Pid"])


def test_a_container_lives_from_its_creation_to_its_removal(engine: Engine) -> None:
    made = engine.create("host", ["sh", "-c", "echo begun; exec sleep 1000"], name="box")
    assert (made.state, made.exit_code, engine.containers()) == ("created", None, [])
    made.start()
    until(lambda: said(made) == b"begun\n")
    assert (made.state, made.exit_code) == ("running", None)
    assert [one.name for one in engine.containers()] == ["box"]
    made.stop()
    assert (made.state, made.exit_code) == ("exited", 128 + signal.SIGTERM)
    made.start()
    until(lambda: said(made) == b"begun\nbegun\n")
    made.kill()
    assert (made.state, made.exit_code) == ("exited", 128 + signal.SIGKILL)
    made.remove()
    with pytest.raises(NotFound):
        engine.container("box")


def test_what_it_wrote_is_there_at_the_next_start(engine: Engine, tmp_path: Path) -> None:
    script = "test -e mark && echo again; echo x >mark; mkdir -p d; rm -rf d; mkdir d"
    box = engine.start("host", ["sh", "-c", script], workdir=str(tmp_path))
    for _ in range(3):
        assert box.wait() == 0
        until(lambda: box.state == "exited")
        box.start()
    box.wait()
    assert said(box) == b"again\n" * 3
    assert {os.fsdecode(change.path) for change in box.changes()} >= {f"{tmp_path}/mark"}


def test_its_standard_streams_keep_their_names(engine: Engine) -> None:
    box = engine.start("host", ["sh", "-c", "echo out; echo err >&2; cat; exit 3"])
    assert box.wait() == 3
    until(lambda: box.state == "exited")
    assert {(entry.stream, entry.data) for entry in box.logs()} == {
        ("stdout", b"out\n"),
        ("stderr", b"err\n"),
    }


def test_it_starts_in_the_directory_where_it_was_made(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    box = engine.create("host", ["pwd"])
    monkeypatch.chdir("/")
    box.start()
    box.wait()
    assert said(box) == f"{tmp_path}\n".encode()


def test_a_command_that_is_not_there_leaves_a_container_that_never_ran(engine: Engine) -> None:
    with pytest.raises(CommandNotFound, match="no-such-command") as raised:
        engine.start("host", ["no-such-command"], name="box")
    assert raised.value.exit_code == 127
    box = engine.container("box")
    assert (box.state, box.exit_code) == ("created", 127)
    assert "no-such-command" in box.failure
    box.remove()


def test_a_container_to_be_removed_at_its_end_is_removed(engine: Engine, store_root: Path) -> None:
    box = engine.start("host", ["sleep", "1000"], rm=True, name="box")
    waited: list[int] = []
    waiter = threading.Thread(target=lambda: waited.append(box.wait()))
    waiter.start()
    box.stop()
    waiter.join(20)
    assert waited == [143]
    for place in ("containers", "names", "running", "tmp"):
        until(lambda place=place: not list((store_root / place).iterdir()))  # type: ignore[misc]
    with pytest.raises(CommandNotFound):
        engine.start("host", ["no-such-command"], rm=True, name="box")
    assert engine.containers(all=True) == []


def test_starting_what_runs_and_stopping_what_does_not_is_no_error(engine: Engine) -> None:
    box = engine.create("host", ["sleep", "1000"])
    box.stop()
    assert (box.state, box.wait()) == ("created", 0)
    box.start()
    pid = pid_of(box)
    box.start()
    assert pid_of(box) == pid
    box.stop()
    box.stop()
    with pytest.raises(Conflict, match="not running"):
        box.kill()


def test_one_that_ignores_the_stop_signal_is_killed_after_its_time(engine: Engine) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    box = engine.start("host", ["sh", "-c", script], stop_timeout=1)
    until(lambda: said(box) == b"ready\n")
    box.stop()
    assert box.exit_code == 137


def test_the_stop_signal_is_the_containers_own(engine: Engine) -> None:
    script = "trap 'echo told; exit 5' USR1; trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done"
    box = engine.start("host", ["sh", "-c", script], stop_signal="SIGUSR1")
    until(lambda: said(box) == b"ready\n")
    box.stop()
    assert box.exit_code == 5
    box.start()
    until(lambda: said(box).count(b"ready\n") == 2)
    box.stop(signal="TERM")
    assert box.exit_code == 6


def test_a_signal_reaches_the_command(engine: Engine) -> None:
    script = "trap 'echo hup' HUP; echo ready; while :; do sleep 0.1; done"
    box = engine.start("host", ["sh", "-c", script])
    until(lambda: said(box) == b"ready\n")
    box.kill("HUP")
    until(lambda: said(box) == b"ready\nhup\n")
    assert box.state == "running"
    with pytest.raises(InvalidInput, match="no signal 'NONSENSE'"):
        box.kill("NONSENSE")


def test_another_name_is_the_only_one(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], name="old")
    other = engine.create("host", ["true"], name="taken")
    with pytest.raises(Conflict, match="name taken: taken by"):
        box.rename("taken")
    assert engine.container("taken").id == other.id
    box.rename("new")
    assert (box.name, engine.container("new").id) == ("new", box.id)
    with pytest.raises(NotFound):
        engine.container("old")
    engine.create("host", ["true"], name="old")
    box.stop()
    box.start()
    assert engine.container("new").state == "running"
    box.remove(force=True)
    engine.create("host", ["true"], name="new")


def test_removing_one_that_runs_takes_force(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], restart="always")
    with pytest.raises(Conflict, match="running"):
        box.remove()
    box.remove(force=True)
    assert engine.containers(all=True) == []


def test_it_outlives_its_maker(engine: Engine, lamina: Callable[..., object]) -> None:
    assert lamina("run", "-d", "--name", "box", "host", "sleep", "1000").returncode == 0  # type: ignore[attr-defined]
    box = engine.container("box")
    state = box.inspect()["State"]
    assert state["Status"] == "running"
    supervisor = int(Path(f"/proc/{state['Pid']}/status").read_text().partition("PPid:\t")[2].split()[0])
    # alone: a session of its own, nowhere, without anything of the command that made it
    assert os.getsid(supervisor) == supervisor or os.getpgid(supervisor) == os.getsid(supervisor)
    assert os.readlink(f"/proc/{supervisor}/cwd") == "/"
    for number in (0, 1, 2):
        assert os.readlink(f"/proc/{supervisor}/fd/{number}") == "/dev/null"
