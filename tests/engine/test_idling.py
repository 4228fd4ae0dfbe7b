"""A supervisor with nothing to do sleeps in a program of a page; nobody can tell but by its size."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.document import encode
from lamina.engine import idling
from lamina.errors import KernelError, LaminaError
from lamina.runtime.cgroups import reopen
from support.leaks import Leaks
from support.lives import said, state_of, supervisor_of, until
from support.running import first_pid

pytestmark = pytest.mark.root

PROGRAM = "lamina-idle"


@pytest.fixture
def engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Whose supervisors fall asleep at once."""
    monkeypatch.setenv(idling.VARIABLE, "0.05")
    return engine


def program_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def asleep(container: Container) -> bool:
    return program_of(supervisor_of(container)) == PROGRAM


def has_slept(container: Container) -> bool:
    """Whether it sleeps, or was woken: it says so of itself from then on."""
    words = Path(f"/proc/{supervisor_of(container)}/cmdline").read_bytes().split(b"\0")
    return idling.AWAKE.encode() in words


def test_it_is_the_same_process_and_a_small_one(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"])
    pid = supervisor_of(box)
    until(lambda: asleep(box))
    assert (box.state, supervisor_of(box)) == ("running", pid)
    assert box._home.is_looked_after()
    status = Path(f"/proc/{first_pid(box)}/status").read_text()
    assert f"PPid:\t{pid}\n" in status
    sizes = Path(f"/proc/{pid}/smaps_rollup").read_text()
    assert int(sizes.partition("Pss:")[2].split()[0]) < 100, "kilobytes"


def test_it_holds_nothing_that_it_does_not_need(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"])
    until(lambda: asleep(box))
    place, own = Path(f"/proc/{supervisor_of(box)}/fd"), os.fsdecode(box._home.path)
    wanted = ["/dev/null"] * 3 + ["/lock", "/out", "/err", "socket", "anon_inode", "anon_inode"]

    def kinds() -> list[str]:
        """Nothing, if something is closed while this is looked at."""
        try:
            held = [os.readlink(link) for link in place.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(link.replace(own, "").partition(":")[0] for link in held)

    # the last one is for signals, made by the program itself
    found = until(lambda: found if len(found := kinds()) == len(wanted) else [])
    assert found == sorted(wanted)


def test_whatever_it_writes_is_logged_however_often_that_wakes_it(engine: Engine, tmp_path: Path) -> None:
    count = f"while [ $i -lt 12 ] || [ ! -e {tmp_path}/go ]; do echo $i; i=$((i+1)); sleep 0.2; done"
    script = f"i=0; {count}; echo $i; seq 1000; exit 4"
    box = engine.start("host", ["sh", "-c", script], volumes=[f"{tmp_path}:{tmp_path}"])
    until(
        lambda: has_slept(box)
    )  # how long it does, between two lines, may be shorter than this process waits
    (tmp_path / "go").touch()
    assert box.wait() == 4
    until(lambda: box.state == "exited")
    lines = said(box).decode().split()
    counted = int(lines[-1001])
    assert counted >= 12
    assert lines == [*map(str, range(counted + 1)), *map(str, range(1, 1001))]


def test_it_wakes_for_every_verb(engine: Engine) -> None:
    script = "trap 'echo hup' HUP; trap 'exit 7' TERM; echo on; while :; do sleep 1000 & wait; done"
    box = engine.start("host", ["sh", "-c", script])
    until(lambda: asleep(box))
    box.kill("HUP")
    until(lambda: said(box) == b"on\nhup\n")
    until(lambda: asleep(box))
    box.stop()
    assert (box.state, box.exit_code) == ("exited", 7)
    box.start()
    until(lambda: asleep(box))
    box.restart()
    until(lambda: asleep(box))
    box.kill()
    assert box.exit_code == 137
    box.start()
    until(lambda: asleep(box))
    box.remove(force=True)


def test_it_wakes_when_the_command_ends(engine: Engine, tmp_path: Path) -> None:
    script = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; exit 9"
    box = engine.start("host", ["sh", "-c", script], volumes=[f"{tmp_path}:{tmp_path}"])
    until(lambda: asleep(box))
    (tmp_path / "go").touch()
    assert box.wait() == 9
    until(lambda: box.state == "exited")
    assert box.exit_code == 9


def test_it_starts_it_again_when_it_ends(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], restart="always")
    for count in (1, 2, 3):
        until(lambda: asleep(box))
        pid = first_pid(box)
        os.kill(pid, signal.SIGKILL)
        until(lambda count=count, pid=pid: box.restarts == count and first_pid(box) not in (0, pid))  # type: ignore[misc]
    box.stop()
    assert box.state == "exited"


def test_its_time_runs_while_it_sleeps(engine: Engine) -> None:
    for seconds in (1.5, 10, 60):  # on a busy machine it is not asleep so soon
        box = engine.start("host", ["sleep", "1000"], timeout=seconds)
        until(lambda box=box: asleep(box) or box.state == "exited")  # type: ignore[misc]
        if box.state == "running":
            break
    assert box.wait() == 137
    until(lambda: box.state == "exited")
    assert box.inspect()["State"]["TimedOut"] is True


def test_killed_in_its_sleep_it_is_replaced(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"])
    for _ in range(2):  # the second one has adopted the container
        until(lambda: asleep(box))
        pid = supervisor_of(box)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: program_of(pid) == "")  # type: ignore[misc]
        assert [one.id for one in engine.containers()] == [box.id]
        until(lambda pid=pid: supervisor_of(box) != pid)  # type: ignore[misc]
    until(lambda: asleep(box))
    box.stop()
    assert (box.state, box.exit_code) == ("exited", 143)


def test_the_owner_of_a_container_that_sleeps_ends(engine: Engine, store_root: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as owner:
        box = engine.create("host", ["sleep", "1000"], lifetime="owner", owner=owner.pid)
        box.start()
        until(lambda: asleep(box))
        owner.kill()
    until(lambda: not list((store_root / "containers").iterdir()))


def test_somebody_attaches_while_it_sleeps(engine: Engine, store_root: Path) -> None:
    box = engine.start(
        "host", ["sh", "-c", "while read line; do echo got $line; done; echo end"], interactive=True
    )
    until(lambda: asleep(box))
    for text in ("one", "two"):
        command = [sys.executable, "-m", "lamina", "attach", "--detach-keys", "ctrl-x", box.id]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(f"{text}\n")
            client.stdin.flush()
            assert client.stdout.readline() == f"got {text}\n"
            client.kill()
        until(lambda: asleep(box))
    assert said(box) == b"got one\ngot two\n"
    assert box.state == "running"


def test_it_stays_awake_where_that_is_wanted(
    store_root: Path, untouched_host: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(idling.VARIABLE, "0")
    engine = Engine(store_root)
    box = engine.start("host", ["sleep", "1000"])
    time.sleep(0.5)
    assert not asleep(box)
    box.remove(force=True)


def test_who_is_woken_again_and_again_stays_awake_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(idling, "monotonic", lambda: now)

    def after(slept: float, patience: float) -> float:
        kept = idling.Kept(lock=-1, pidfd=-1, patience=patience, since=now - slept)
        return idling.awoken(encode(vars(kept))).patience

    assert after(1, 10) == 20
    assert after(1, 300) == idling.MOST
    assert after(1000, 300) == idling.AFTER


@pytest.mark.parametrize("words", [[], ["3"], ["3", "-1"]])
def test_the_program_does_nothing_without_all_of_its_words(words: list[str]) -> None:
    assert subprocess.run([idling.PROGRAM, *words], check=False).returncode == 125


def test_the_program_goes_on_when_time_is_over_or_something_is_said_or_a_signal_is_there() -> None:
    reader, writer = os.pipe()
    went_on = ["/bin/sh", "-c", "echo went on"]

    def run(*words: str, before: Callable[[], object] = lambda: None) -> str:
        done = subprocess.run(
            [idling.PROGRAM, *words],
            capture_output=True,
            text=True,
            pass_fds=(reader,),
            preexec_fn=before,
            timeout=100,
        )
        return done.stdout

    try:
        assert run(str(reader), "10", *went_on) == "went on\n"

        def pending() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            os.kill(os.getpid(), signal.SIGUSR1)

        assert run(str(reader), "-1", *went_on, before=pending) == "went on\n"
        os.write(writer, b"x")
        assert run(str(reader), "-1", *went_on) == "went on\n"
        assert run("", "0", "/no/such/program") == ""
    finally:
        os.close(reader)
        os.close(writer)


def test_who_cannot_see_signals_does_not_sleep_through_one() -> None:
    """No descriptor is left for them: then it goes on soon, and Python looks."""

    def full() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))

    for milliseconds in ("-1", "600000"):
        # what it goes on as needs no descriptors either
        words = [idling.PROGRAM, "0", milliseconds, idling.PROGRAM]
        with subprocess.Popen(words, stdin=subprocess.PIPE, preexec_fn=full) as process:
            try:
                assert process.wait(100) == 125
            finally:
                process.kill()


def is_killed(pid: int) -> bool:
    """Whether it has ended, or will as soon as it can."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    pending = (line.split()[1] for line in status.splitlines() if line.startswith(("ShdPnd", "SigPnd")))
    return "State:\tZ" in status or any(int(mask, 16) >> (signal.SIGKILL - 1) & 1 for mask in pending)


def test_what_ended_it_is_not_forgotten_by_falling_asleep(engine: Engine) -> None:
    """One whose time is over takes its time to end: with cgroup v1 what is frozen does not die before it is thawed."""
    for seconds in (1, 10, 60):  # on a busy machine it has ended before it is frozen
        box = engine.start("host", ["sleep", "1000"], timeout=seconds)
        state = state_of(box)
        try:
            group = reopen(state["cgroup"])
            group.freeze()
        except LaminaError:
            continue
        break
    try:
        until(lambda: is_killed(first_pid(box) or state["pid"]))
        time.sleep(0.3)
        assert box.state == "exited" or not asleep(box)
    finally:
        with contextlib.suppress(KernelError):  # it has ended
            group.thaw()
    assert box.wait() == 137
    until(lambda: box.state == "exited")
    assert box.inspect()["State"]["TimedOut"] is True
