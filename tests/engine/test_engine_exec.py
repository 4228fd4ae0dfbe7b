"""`exec` through the engine: a further process in a running container."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from errno import EMFILE
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from lamina import Completed, Container, Engine
from lamina.engine import executing
from lamina.engine.executing import reap_left
from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    ContainerFailed,
    InvalidInput,
    KernelError,
    NotFound,
    TimeoutExpired,
    Unsupported,
)
from lamina.runtime.container import birth, further
from support.held import held_descriptors
from support.leaks import Leaks
from support.lives import until
from support.running import first_pid, root_of, running
from support.small_images import small_image
from support.terminal import Terminal, lamina

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Sh = Callable[..., Completed]
KINDS = ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user", "time")


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    small_image(store_root, env=["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"])
    yield Engine(store_root)
    end = time.monotonic() + 100
    while reap_left():  # their container has ended
        assert time.monotonic() < end


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    """A container that sleeps, and goes with its end."""
    with running(engine, "sleep", "600", options=("--rm", "-e", "ASKED=1", "-w", "/var")) as found:
        yield found


def said(box: Container, script: str, **options: object) -> str:
    done = box.exec(["sh", "-ec", script], capture_output=True, text=True, timeout=200, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_streams_and_status_are_the_commands(box: Container) -> None:
    done = box.exec(["sh", "-c", "cat; echo err >&2; exit 7"], input=b"in", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in", b"err\n")
    assert box.exec(["sh", "-c", "kill -9 $$"]).returncode == 137
    assert done.container == box.id
    with pytest.raises(ContainerFailed):
        box.exec(["false"], check=True)


def test_it_is_in_every_namespace_and_group_of_the_container(engine: Engine) -> None:
    with running(engine, "sleep", "600", options=("--rm", "--memory", "64m", "--pids-limit", "20")) as box:
        pid = first_pid(box)
        shown = said(box, "; ".join(f"readlink /proc/self/ns/{kind}" for kind in KINDS)).split()
        assert shown == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS]
        there = box.exec_detached(["sleep", "600"])
        assert Path(f"/proc/{there}/cgroup").read_text() == Path(f"/proc/{pid}/cgroup").read_text()


def test_it_has_the_privileges_of_the_container_and_no_more(box: Container) -> None:
    def told(text: str) -> list[str]:
        return re.findall("^(?:Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups).*", text, re.MULTILINE)

    assert told(said(box, "cat /proc/self/status")) == told(
        Path(f"/proc/{first_pid(box)}/status").read_text()
    )
    refused = box.exec(["mount", "-t", "tmpfs", "x", "/tmp"], capture_output=True)
    assert refused.returncode != 0


def test_privileged_it_has_every_capability_of_the_caller(box: Container) -> None:
    shown = said(
        box,
        "grep CapEff /proc/self/status; mount -t tmpfs x /tmp; grep ' /tmp ' /proc/mounts",
        privileged=True,
    )
    mine = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line)
    assert shown.splitlines()[0] == mine
    assert "tmpfs" in shown


def test_variables_directory_and_user(box: Container) -> None:
    shown = said(box, 'echo "$ASKED $FROM_IMAGE $HOME $(pwd)"')
    assert shown == "1 yes /root /var\n"
    words = 'echo "$A $ASKED $HOME"; pwd; id -u; id -G'
    shown = said(box, words, env=["A=b c", "ASKED=2"], workdir="/tmp", user="ann")
    assert shown.splitlines() == ["b c 2 /home/ann", "/tmp", "1000", "100 2 26"]
    assert said(box, "id -u; id -g; id -G", user="7:8").split() == ["7", "8", "8"]
    assert "CapEff:\t0000000000000000" in said(box, "cat /proc/self/status", user="ann")


def test_root_in_a_container_of_somebody_else(engine: Engine) -> None:
    with running(engine, "sleep", "600", options=("--rm", "-u", "ann")) as box:
        assert said(box, "id -u; echo $HOME").split() == ["1000", "/home/ann"]
        shown = said(box, "id -u; grep CapEff /proc/self/status; echo $HOME", user="0")
        assert shown.split() == ["0", "CapEff:", "00000000a00425fb", "/root"]


@pytest.mark.parametrize("keep", [True, False])
def test_a_container_that_stays_can_be_joined_like_one_that_goes(engine: Engine, keep: bool) -> None:
    with running(engine, "sleep", "600", options=() if keep else ("--rm",)) as box:
        assert said(box, "hostname").strip() == box.id[:12]


def test_what_cannot_be_executed(box: Container) -> None:
    with pytest.raises(CommandNotFound, match="nosuch"):
        box.exec(["nosuch"])
    with pytest.raises(CommandNotExecutable):
        box.exec(["/etc/passwd"])
    with pytest.raises(NotFound, match="/nowhere"):
        box.exec(["true"], workdir="/nowhere")
    with pytest.raises(NotFound, match="bob"):
        box.exec(["true"], user="bob")
    with pytest.raises(InvalidInput):
        box.exec(["true"], user="3000000000")
    with pytest.raises(InvalidInput):
        box.exec(["true"], workdir="relative")
    with pytest.raises(InvalidInput):
        box.exec([])
    with pytest.raises(TypeError):
        box.exec(["true"], memory="1g")  # type: ignore[call-overload]


def test_a_command_line_says_the_same_by_its_exit_status(
    box: Container, lamina: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    for words, status in (
        (["box", "nosuch"], 127),
        (["box", "/etc/passwd"], 126),
        (["none", "true"], 125),
        (["box"], 125),
        (["--nosuch", "box", "true"], 125),
        (["-it", "box", "true"], 125),
        (["box", "sh", "-c", "exit 3"], 3),
        (["-d", "box", "nosuch"], 127),
        (["-d", "box", "sleep", "600"], 0),
    ):
        assert lamina("exec", *words).returncode == status, words
    done = lamina("exec", "-i", "-e", "A=1", "box", "--", "sh", "-c", "cat; echo $A", input="through ")
    assert (done.returncode, done.stdout, done.stderr) == (0, "through 1\n", "")


def test_variables_from_a_file(
    box: Container, lamina: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "env").write_text("# one\nA=1\nB=x y\n")
    done = lamina("exec", "--env-file", tmp_path / "env", "-e", "A=2", "box", "sh", "-c", "echo $A $B")
    assert done.stdout == "2 x y\n"
    refused = lamina("exec", "--env-file", tmp_path / "none", "box", "true")
    assert (refused.returncode, "exec: --env-file" in refused.stderr) == (125, True)


def test_one_that_has_ended_cannot_be_joined(engine: Engine) -> None:
    engine.run("tiny", ["true"], name="box")
    box = engine.container("box")
    with pytest.raises(Conflict, match="not running"):
        box.exec(["true"])
    box.remove()
    with pytest.raises(NotFound):
        box.exec(["true"])


def test_one_that_is_paused_cannot_be_joined(engine: Engine) -> None:
    with running(engine, "sleep", "600", options=("--rm",)) as box:
        mark = Path(os.fsdecode(box.store.containers)) / box.id / "paused"
        mark.touch()
        with pytest.raises(Conflict, match="paused"):
            box.exec(["true"])
        mark.unlink()
        box.exec(["true"], check=True)


def test_the_end_of_the_container_is_its_end(engine: Engine) -> None:
    with running(engine, "sleep", "600", options=("--rm",)) as box:
        joined = subprocess.Popen([*lamina("exec", "box", "sleep", "600")])
        end = time.monotonic() + 100
        while "sleep" not in said(box, "ps").replace("sleep 600", "", 1):
            assert time.monotonic() < end
        os.kill(first_pid(box), 9)
        assert joined.wait(100) == 137


def test_a_container_that_is_killed_while_somebody_joins_it_ends(engine: Engine, seed: int) -> None:
    """Its pid namespace ends when the last of it has been reaped: also one that had not said who it is."""
    random = Random(seed)
    for _ in range(30):
        box = engine.start("host", ["sleep", "1000"])
        pid = first_pid(box)
        box.exec(["true"])
        ends = threading.Timer(random.random() / 100, os.kill, (pid, signal.SIGKILL))
        ends.start()
        with pytest.raises(Conflict, match="not running"):
            while True:
                box.exec(["true"])
        ends.join()
        assert box.wait() == 137
        box.remove()


@pytest.mark.parametrize(
    "lost", [(further, "cgroup_files"), (birth, "init_file"), (further, "process_facts")]
)
def test_what_fails_on_the_way_leaves_nothing_open(
    box: Container, monkeypatch: pytest.MonkeyPatch, lost: tuple[ModuleType, str]
) -> None:
    """Such as the groups of a container that ends just then."""
    box.exec(["true"])

    def fails(*_: object, **__: object) -> None:
        raise KernelError("openat", EMFILE)

    monkeypatch.setattr(*lost, fails)
    before = held_descriptors()
    with pytest.raises(KernelError):
        box.exec(["true"])
    assert held_descriptors().items() <= before.items()


def test_after_its_time_it_is_killed_and_the_container_lives(box: Container) -> None:
    for seconds in (1, 10, 60):  # on a busy machine it may not have begun
        with pytest.raises(TimeoutExpired) as raised:
            box.exec(["sh", "-c", "echo begun; sleep 600"], capture_output=True, timeout=seconds)
        if raised.value.stdout:
            break
    assert raised.value.stdout == b"begun\n"
    assert box.state == "running"


def test_what_it_began_is_killed_with_it(box: Container) -> None:
    """What a script runs, and what it has in the background: they are of its process group. A session is apart."""
    script = "echo $$; busybox setsid sleep 611 & sleep 612 & sleep 613; echo never"
    for seconds in (1, 10, 60):
        with pytest.raises(TimeoutExpired) as raised:
            box.exec(["sh", "-c", script], capture_output=True, timeout=seconds)
        if raised.value.stdout:
            break
    until(lambda: sleeping(box) == ["sleep 611"])


def sleeping(box: Container) -> list[str]:
    words = [" ".join(row[-1:]) for row in box.top(["-o", "pid,args"])["Processes"]]
    return sorted(line for line in words if line.startswith("sleep 61"))


def test_others_who_hold_its_output_do_not_keep_us(box: Container) -> None:
    """Neither one who is silent, nor one who never stops writing."""
    done = box.exec(["sh", "-c", "sleep 600 & echo done"], capture_output=True, timeout=200)
    assert done.stdout == b"done\n"
    for seconds in (0.2, 2, 20):  # on a busy machine it may not have begun
        done = box.exec(["sh", "-c", f"yes & sleep {seconds}"], capture_output=True, timeout=200)
        assert done.returncode == 0
        if done.stdout:
            break
    assert done.stdout.startswith(b"y\ny\n")


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done", ("caught\n", 9)),
        (
            "echo ready; exec sleep 600",
            ("", 143),
        ),  # one that does nothing about it ends by it: it is no process 1
    ],
)
def test_signals_are_handed_on(box: Container, script: str, end: tuple[str, int]) -> None:
    argv = lamina("exec", "box", "sh", "-c", script)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as joined:
        assert joined.stdout is not None
        assert joined.stdout.readline() == "ready\n"
        joined.terminate()
        assert (joined.stdout.read(), joined.wait(100)) == end


def test_a_terminal(box: Container) -> None:
    with Terminal(lamina("exec", "-it", "box", "sh"), size=(31, 97)) as terminal:
        terminal.type("tty; stty size; echo $TERM\n")
        terminal.expect("/dev/pts/\\d+\r\n31 97\r\nxterm\r\n")
        terminal.resize(20, 40)
        terminal.type("stty size\n")
        terminal.expect("20 40\r\n")
        terminal.type("sh -c 'echo go; exec sleep 600'\n")
        terminal.expect("600'\r\ngo\r\n")
        terminal.type("\x03")
        terminal.type("echo $?\n")
        terminal.expect("130\r\n")
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
        assert terminal.settings() == terminal.untouched


def test_detach_keys_leave_it_running(box: Container) -> None:
    script = "echo ready; sleep 1; echo more; sleep 1; touch /tmp/went-on; sleep 600"
    with Terminal(lamina("exec", "-it", "box", "sh", "-c", script)) as terminal:
        terminal.expect("ready")
        terminal.type("\x10")
        terminal.type("\x11")
        assert terminal.wait() == 0
        assert terminal.settings() == terminal.untouched
    end = time.monotonic() + 100
    while not (root_of(box) / "tmp/went-on").exists():
        assert time.monotonic() < end, "it ended with its terminal"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("keys", "typed"), [("ctrl-x,y", "\x18y"), ("q", "q"), ("ctrl-],ctrl-\\", "\x1d\x1c")]
)
def test_other_detach_keys(box: Container, keys: str, typed: str) -> None:
    with Terminal(
        lamina("exec", "-it", "--detach-keys", keys, "box", "sh", "-c", "echo ready; cat")
    ) as terminal:
        terminal.expect("ready\r\n")
        terminal.type("\x10\x11\n")  # the usual ones are input like any other
        terminal.type("hello\n")
        terminal.expect("(?s)hello\r\n.*hello\r\n")
        terminal.type(typed)
        assert terminal.wait() == 0


def test_detached_with_a_terminal_it_keeps_that(box: Container) -> None:
    box.exec_detached(["sh", "-c", "yes | head -100000; tty >/tmp/tty"], tty=True)
    end = time.monotonic() + 100
    while not (root_of(box) / "tmp/tty").exists() or not (root_of(box) / "tmp/tty").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (root_of(box) / "tmp/tty").read_text().startswith("/dev/pts/")


def test_who_floods_its_terminal_after_its_end_is_not_listened_to(box: Container) -> None:
    """It has ended; a process that it left behind has the terminal open, ignores SIGHUP, and writes without end."""
    flood = "trap '' HUP; (while :; do echo flood; done) & echo mine; exit 3"
    done = box.exec(["sh", "-c", flood], tty=True, capture_output=True, text=True, timeout=200)
    assert done.returncode == 3
    assert "mine\n" in done.stdout


# -- what a container must not be able to do about it


def test_accounts_are_read_inside_whatever_the_container_made_of_them(box: Container) -> None:
    """A link to the host's file, a fifo that never ends, a device: none of them is followed or waited for."""
    for trick in ("ln -sf /proc/1/root/../../../etc/shadow", "mkfifo", "ln -sf /dev/zero"):
        said(box, f"rm -f /etc/passwd; {trick} /etc/passwd")
        with pytest.raises(NotFound):
            box.exec(["true"], user="ann")
        box.exec(["true"], user="1000", check=True)


def test_the_hosts_null_device_is_not_given_away(box: Container) -> None:
    before = os.stat("/dev/null")
    said(box, "chmod 600 /proc/self/fd/0; chmod 600 /dev/null; chmod 666 /dev/null")
    assert os.stat("/dev/null").st_mode == before.st_mode
    said(box, "rm /dev/null; mkfifo /dev/null")
    with pytest.raises(Unsupported, match="null device"):
        box.exec_detached(["true"])
    assert box.exec(["cat"], input=b"x", capture_output=True).stdout == b"x"


def test_the_number_of_its_first_process_is_not_believed(box: Container, store_root: Path) -> None:
    """A record that speaks of a process which has ended, whose number is another's by now."""
    import json

    place = store_root / "containers" / box.id / "state.json"
    state = json.loads(place.read_text())
    place.write_text(json.dumps({**state, "pid": os.getpid()}))
    with pytest.raises(Conflict, match="not running"):
        box.exec(["true"])
    place.write_text(json.dumps(state))
    box.exec(["true"], check=True)


HOSTILE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
seen = {str(os.getpid())}
sys.stdout = open("/tmp/said", "w", buffering=1)
print("ready")
while not os.path.exists("/tmp/stop"):
    try:
        os.waitpid(-1, 0x40000000 | os.WNOHANG)
    except ChildProcessError:
        pass
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in seen:
            continue
        if libc.ptrace(0x4206, int(pid), None, None) == 0:
            seen.add(pid)
            try:
                print("traced", os.readlink(f"/proc/{pid}/exe"))
            except OSError:
                pass
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                print("environment", b"SECRET_OF_THE_HOST" in file.read())
        except OSError:
            pass
print("end")
import time
time.sleep(600)
"""


def test_cve_2016_9962_a_newcomer_shares_nothing_with_who_made_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the host itself, so that process 1 can be a Python program; it traces whoever is new."""
    monkeypatch.setenv("SECRET_OF_THE_HOST", "yes")
    interpreter = os.path.realpath(sys.executable)
    words = (interpreter, "-I", "-S", "-c", HOSTILE)
    with running(engine, *words, image="host", options=("--rm", "--tmpfs", "/tmp")) as box:
        said_by = root_of(box) / "tmp/said"
        end = time.monotonic() + 100
        while not said_by.exists() or "ready" not in said_by.read_text():
            assert time.monotonic() < end
        for _ in range(60):
            box.exec(["/bin/true"], check=True)
        (root_of(box) / "tmp/stop").touch()
        while "end" not in (lines := said_by.read_text().splitlines()):
            assert time.monotonic() < end + 120
    fair = {"ready", "end", "environment False", f"traced {os.path.realpath('/bin/true')}"}
    fair.add("traced /memfd:lamina-init (deleted)")
    assert set(lines) <= fair


def test_those_left_to_themselves_are_reaped_later(box: Container) -> None:
    pid = box.exec_detached(["true"])
    end = time.monotonic() + 100
    while reap_left():
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_nobody_can_be_told_of_is_reaped_as_well(
    box: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its container was removed at this moment, say: of what began there, no zombie stays."""

    def gone(*_: object, **__: object) -> None:
        raise NotFound("gone")

    monkeypatch.setattr(executing, "told", gone)
    began: list[int] = []
    start = executing.start

    def noted(*words: Any) -> executing.Execution:
        execution = start(*words)
        began.append(execution.pid)
        return execution

    monkeypatch.setattr(executing, "start", noted)
    with pytest.raises(NotFound):
        box.exec_detached(["sleep", "600"])  # nobody knows of it: it is ended
    assert len(began) == 1
    until(lambda: not os.path.exists(f"/proc/{began[0]}"))


def test_it_is_told(box: Container, engine: Engine) -> None:
    box.exec(["sh", "-c", "exit 3"])
    told = [event for event in engine.events(since=0, until=time.time()) if event.action.startswith("exec")]
    assert [event.action for event in told] == [
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
    ]
    assert (told[2].attributes["exitCode"], told[2].attributes["name"]) == ("3", "box")
    assert len({event.attributes["execID"] for event in told}) == 1
