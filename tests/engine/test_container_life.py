"""Containers that live by themselves: made, started, stopped, started again, waited for, renamed and removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import settling
from lamina.engine.supervising import Supervisor
from lamina.errors import CommandNotFound, Conflict, InvalidInput, KernelError, NotFound
from lamina.store import trace
from support.held import held_descriptors
from support.lives import said, supervisor_of, until
from support.namespaces import in_mount_namespace
from support.running import first_pid

pytestmark = pytest.mark.root


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


# its first signal waits until it has been seen, as one that comes while a shell forks does
HOLDS_BACK = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("ready", flush=True)
while not signal.sigpending():
    time.sleep(0.001)
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("end", "number"),
    [
        (lambda box: box.stop(timeout=50), signal.SIGTERM),
        (lambda box: box.kill("TERM"), signal.SIGTERM),
        (lambda box: box.kill("HUP"), signal.SIGHUP),
    ],
    ids=["stop", "its stop signal", "another"],
)
def test_a_signal_that_it_held_back_for_a_moment_ends_it(
    engine: Engine, end: Callable[[Container], None], number: int
) -> None:
    """The kernel drops what the first process of a pid namespace lets through, if that has no handler."""
    box = engine.start("host", ["/usr/bin/python3", "-c", HOLDS_BACK])
    until(lambda: said(box) == b"ready\n")
    end(box)
    until(lambda: box.state == "exited")
    assert box.exit_code == 128 + number


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
    box = engine.create("host", ["no-such-command"], name="box")
    with pytest.raises(CommandNotFound, match="no-such-command") as raised:
        box.start()
    assert raised.value.exit_code == 127
    assert (box.state, box.exit_code) == ("created", 127)
    assert "no-such-command" in box.failure
    box.remove()


def test_a_container_to_be_removed_at_its_end_is_removed(engine: Engine, store_root: Path) -> None:
    box = engine.start("host", ["sleep", "1000"], rm=True, name="box")
    waited: list[int] = []
    waiter = threading.Thread(target=lambda: waited.append(box.wait()))
    waiter.start()
    until(
        lambda: any(link.endswith(f"/{box.id}/ends") for link in held_descriptors().values())
    )  # it waits by now
    box.stop()
    waiter.join(100)
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
    pid = first_pid(box)
    box.start()
    assert first_pid(box) == pid
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
    box.stop(200)
    assert box.exit_code == 5
    box.start()
    until(lambda: said(box).count(b"ready\n") == 2)
    box.stop(200, signal="TERM")
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


def test_removing_one_that_has_ended_waits_for_who_has_its_records_on_the_disk(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as that takes; here its supervisor stops itself before it lets go."""
    steps = tmp_path / "steps"

    def start(watch: str) -> Container:
        monkeypatch.setenv(trace.VARIABLE, watch)
        box = engine.start("host", ["true"])
        monkeypatch.delenv(trace.VARIABLE)
        return box

    for _ in range(2):  # the first of a store makes what the next ones find
        steps.unlink(missing_ok=True)
        box = start(f"log:{steps}")
        until(lambda: not box._home.is_looked_after())  # noqa: B023
        box.remove()
    number = steps.read_text().splitlines().index("end: release") + 1
    box = start(f"signal:{number}:{int(signal.SIGSTOP)}")
    supervisor = supervisor_of(box)
    until(lambda: Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    monkeypatch.setattr(settling, "LETTING_GO", 0.01)
    monkeypatch.setattr(settling, "LOOK", 1000.0)  # it is slow
    on = threading.Timer(0.3, os.kill, (supervisor, signal.SIGCONT))
    on.start()
    box.remove()
    on.join()
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


def test_one_that_was_run_in_the_foreground_is_started_like_others(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = engine.run("host", ["sh", "-c", "pwd; echo x >>mark; cat mark"], name="box", capture_output=True)
    assert done.stdout == f"{tmp_path}\nx\n".encode()
    monkeypatch.chdir("/")
    box = engine.container("box")
    box.start()
    assert box.wait() == 0
    until(lambda: box.state == "exited")
    assert said(box) == f"{tmp_path}\nx\n{tmp_path}\nx\nx\n".encode()


def test_an_entrypoint_is_not_put_before_itself(engine: Engine) -> None:
    box = engine.create("host", ["b", "c"], entrypoint=["echo", "a"])
    for _ in range(2):
        box.start()
        box.wait()
        until(lambda: box.state == "exited")
    assert said(box) == b"a b c\n" * 2


def test_restarting_one_that_is_to_be_removed_does_not_remove_it(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], rm=True)
    pid = first_pid(box)
    box.restart()
    assert box.state == "running"
    assert first_pid(box) != pid
    box.stop()
    until(lambda: engine.containers(all=True) == [])


def test_it_runs_no_longer_than_it_may(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], timeout=0.3)
    assert box.wait() == 137
    until(lambda: box.state == "exited")
    assert box.inspect()["State"]["TimedOut"] is True


def test_one_that_fails_is_started_again_as_often_as_was_asked(engine: Engine) -> None:
    box = engine.start("host", ["sh", "-c", "echo x; exit 3"], restart="on-failure:2")
    until(lambda: said(box) == b"x\n" * 3)
    until(lambda: box.state == "exited")
    assert (box.restarts, box.exit_code) == (2, 3)
    assert box.inspect()["RestartCount"] == 2
    box.start()
    until(lambda: said(box) == b"x\n" * 6)


def test_one_that_succeeds_is_not_started_again_after_failures_only(engine: Engine) -> None:
    box = engine.start("host", ["true"], restart="on-failure")
    assert box.wait() == 0
    until(lambda: box.state == "exited")
    assert box.restarts == 0


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_what_is_stopped_stays_stopped(engine: Engine, policy: str) -> None:
    box = engine.start("host", ["sh", "-c", "echo x; exit 0"], restart=policy)
    until(lambda: box.restarts >= 2)
    box.stop()
    assert box.state == "exited"
    written = said(box)
    time.sleep(0.5)
    assert (box.state, said(box)) == ("exited", written)
    assert not box._home.is_looked_after()


def test_stopping_at_any_moment_of_a_loop_of_restarts(engine: Engine) -> None:
    for delay in (0, 0.01, 0.03, 0.06, 0.1):
        box = engine.start("host", ["sh", "-c", "echo x; sleep 0.02; exit 1"], restart="always")
        time.sleep(delay)
        box.stop()
        assert box.state == "exited"
        box.remove()


def test_one_that_is_killed_by_hand_is_not_started_again(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], restart="always")
    box.kill()
    assert (box.state, box.exit_code) == ("exited", 137)


def test_one_that_is_killed_otherwise_is_started_again(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "1000"], restart="always")
    pid = first_pid(box)
    os.kill(pid, signal.SIGKILL)
    until(lambda: box.state == "running" and first_pid(box) not in (0, pid))
    assert box.restarts == 1


def test_a_start_again_that_fails_counts_as_an_end(engine: Engine, tmp_path: Path) -> None:
    """The command removes itself: what is there at the first start is not at the second."""
    script = tmp_path / "once"
    script.write_text('#!/bin/sh\nrm "$0"\nexit 1\n')
    script.chmod(0o755)
    box = engine.start("host", [str(script)], restart="on-failure:2")
    until(lambda: box.state == "exited")
    assert (box.exit_code, box.restarts) == (127, 2)
    assert "No such file" in box.inspect()["State"]["Error"]


@pytest.mark.cgroup_v1("memory")
def test_a_kill_for_want_of_memory_is_told_apart(engine: Engine) -> None:
    grow = "import time\nx = []\nwhile True: x.append(bytearray(1 << 20))"
    box = engine.start("host", ["python3", "-c", grow], memory="24m")
    assert box.wait() == 137
    until(lambda: box.state == "exited")
    assert box.inspect()["State"]["OOMKilled"] is True
    other = engine.start("host", ["sleep", "1000"], memory="24m")
    other.kill()
    assert other.inspect()["State"]["OOMKilled"] is False


def test_a_supervisor_inherits_no_descriptor(engine: Engine) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        box = engine.start("host", ["sleep", "1000"])
        os.close(writer)
        writer = -1
        assert os.read(reader, 1) == b"", "nobody else has the other end"
        assert box.state == "running"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_several_threads_start_at_once(engine: Engine, store_root: Path) -> None:
    errors: list[BaseException] = []

    def begin() -> None:
        try:
            for _ in range(2):
                Engine(store_root).start("host", ["sleep", "1000"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    assert errors == []
    assert len(engine.containers()) == 12


IGNORING = """if True:
    import os, signal, sys
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, "-m", "lamina", *sys.argv[1:]])
"""


class Stuck:
    """Control groups that cannot be read, and do not go."""

    def oom_kills(self) -> int:
        raise KernelError("read", errno.EIO, "memory.oom_control")

    def remove_unused(self) -> bool:
        raise KernelError("remove cgroup", errno.EBUSY)


class Ended:
    """The first process of a container, which has ended."""

    pid, pidfd, cgroup = 1, -1, Stuck()

    def close(self) -> None:
        raise KernelError("remove cgroup", errno.EBUSY)


def test_how_it_ended_is_known_also_where_its_groups_stay(engine: Engine) -> None:
    box = engine.create("host", ["true"], restart="on-failure")

    def end() -> bool:
        supervisor = Supervisor(engine.store, box.id)
        assert supervisor.home.hold()
        supervisor._read()
        return supervisor._record_end(Ended(), 7)  # type: ignore[arg-type]

    assert in_mount_namespace(end) is True
    assert box.exit_code == 7


def test_a_caller_that_ignores_the_end_of_children_is_no_hindrance(engine: Engine) -> None:
    words = ["run", "-d", "--name", "box", "host", "sh", "-c", "exit 3"]
    done = subprocess.run(
        [sys.executable, "-c", IGNORING, *words], capture_output=True, text=True, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert engine.container("box").wait() == 3
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert engine.start("host", ["sh", "-c", "exit 4"]).wait() == 4
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_signals_that_the_caller_ignores_or_blocks_are_as_usual_inside(engine: Engine) -> None:
    handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        box = engine.start("host", ["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR2, handler)
    box.wait()
    lines = said(box).decode().split()
    assert lines[1::2] == ["0" * 16, "0" * 16]
