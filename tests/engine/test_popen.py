"""`popen`: what subprocess.Popen is, in a container. Most is asked of both kinds: beside one, and one of its own."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest

from lamina import Container, Engine, Process
from lamina.engine.executing import reap_left
from lamina.engine.reaping import is_idle
from lamina.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    InvalidInput,
    KernelError,
    NotFound,
    TimeoutExpired,
)
from lamina.linux.fd import ready
from support.held import held_descriptors
from support.leaks import Leaks
from support.lives import until
from support.small_images import small_image
from support.terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Popen = Callable[..., Process[Any]]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Iterator[Engine]:
    small_image(store_root)
    before = threading.active_count()  # what other tests keep for as long as the process lives
    yield Engine(store_root)
    end = time.monotonic() + 100
    while reap_left():  # their container has ended
        assert time.monotonic() < end
    while threading.active_count() > before:  # who said that it has ended
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
def box(engine: Engine) -> Iterator[Container]:
    with engine.start("tiny", ["sleep", "600"]) as found:
        yield found


@pytest.fixture(params=["beside", "of its own"])
def popen(request: pytest.FixtureRequest, engine: Engine) -> Popen:
    """`popen(command, ...)` of a container, and of the engine."""
    if request.param == "beside":
        box: Container = request.getfixturevalue("box")
        return box.popen
    return lambda command, **options: engine.popen("tiny", command, rm=True, **options)


def test_pipes_are_real_and_binary_unless_text_is_asked_for(popen: Popen) -> None:
    with popen(["sh", "-c", "cat; echo more >&2"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        assert process.args == ["sh", "-c", "cat; echo more >&2"]
        assert process.returncode is None
        assert process.poll() is None
        process.stdin.write(b"\0\xff\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"\0\xff\n"
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.stderr.read() == b"more\n"
    assert process.returncode == process.poll() == process.wait() == 0
    assert process.stdin.closed and process.stdout.closed and process.stderr.closed
    assert len(process.container) == 64


def test_what_is_not_asked_to_be_a_pipe_is_none(popen: Popen, capfd: pytest.CaptureFixture[str]) -> None:
    with popen(["sh", "-c", "cat; echo out; echo err >&2"]) as process:  # standard input is empty
        assert (process.stdin, process.stdout, process.stderr) == (None, None, None)
    assert process.returncode == 0
    assert capfd.readouterr() == ("out\n", "err\n")


def test_text_as_subprocess_has_it(popen: Popen) -> None:
    script = 'read -r line; printf "%s\\r\\n" "$line"; cat'
    with popen(["sh", "-c", script], stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("schön\n")  # a line is handed over without a flush
        assert process.stdout.readline() == "schön\n"
        assert process.communicate("a\n") == ("a\n", None)
    with popen(["printf", r"\351\377"], stdout=PIPE, encoding="latin-1") as process:
        assert process.communicate() == ("éÿ", None)
    with popen(["printf", r"\351"], stdout=PIPE, errors="backslashreplace") as process:
        assert process.communicate() == (r"\xe9", None)
    with popen(["printf", r"\351"], stdout=PIPE, text=True) as process, pytest.raises(UnicodeDecodeError):
        process.communicate()


def test_streams_go_where_they_are_sent(popen: Popen, tmp_path: Path) -> None:
    both = ["sh", "-c", "echo out; echo err >&2"]
    with popen(both, stdout=PIPE, stderr=STDOUT) as process:
        assert process.stderr is None
        assert process.communicate() == (b"out\nerr\n", None)
    with popen(both, stdout=DEVNULL, stderr=PIPE) as process:
        assert process.communicate() == (None, b"err\n")
    with open(tmp_path / "file", "w+b") as file:
        with popen(both, stdout=file, stderr=STDOUT) as process:
            assert process.wait(100) == 0
        file.seek(0)
        assert file.read() == b"out\nerr\n"  # all of it, once the end is known
        file.seek(0)
        with popen(["cat"], stdin=file, stdout=PIPE) as process:
            assert process.communicate()[0] == b"out\nerr\n"
    reader, writer = os.pipe()
    with open(reader, "rb") as end, popen(["echo", "handed on"], stdout=writer) as process:
        os.close(writer)
        assert end.read() == b"handed on\n"


def test_one_reads_what_the_other_writes(engine: Engine, box: Container) -> None:
    """A pipeline, as the documentation of subprocess builds it."""
    first = box.popen(["sh", "-c", "echo b; echo a"], stdout=PIPE)
    second = engine.popen("tiny", ["sort"], stdin=first.stdout, stdout=PIPE, rm=True)
    assert first.stdout is not None
    first.stdout.close()
    assert second.communicate() == (b"a\nb\n", None)
    assert (first.wait(), second.wait()) == (0, 0)


def test_a_writer_whose_reader_is_gone_is_told(popen: Popen) -> None:
    with popen(["sh", "-c", "while echo again; do :; done; exit 9"], stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"again\n"
    # the first process of a container is spared signals that it does not handle
    assert process.returncode in (128 + signal.SIGPIPE, 9)


def test_it_has_no_signal_blocked_or_ignored(popen: Popen) -> None:
    with popen(["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"], stdout=PIPE, text=True) as process:
        assert [line.split()[1] for line in process.communicate()[0].splitlines()] == ["0" * 16] * 2


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_communicate_neither_blocks_nor_loses_anything(popen: Popen, size: int) -> None:
    """Both pipes are full at once where nobody reads and writes at the same time."""
    data = os.urandom(size)
    with popen(["sh", "-c", "tee /dev/stderr"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        if not size:
            assert process.communicate() == (b"", b"")
            return
    with popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.communicate(data) == (data, None)


def test_communicate_with_one_that_does_not_read(popen: Popen) -> None:
    with popen(["true"], stdin=PIPE) as process:
        assert process.communicate(bytes(1_000_000)) == (None, None)
    assert process.returncode == 0


def test_communicate_goes_on_after_its_time_ran_out(popen: Popen) -> None:
    with popen(["sh", "-c", "echo first; cat"], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        data = "x" * 3_000_000  # more than the pipes take
        stop = threading.Event()
        with pytest.raises(TimeoutExpired) as raised:
            os.kill(process.pid, signal.SIGSTOP)
            process.communicate(data, timeout=0.05)
        stop.set()
        assert isinstance(raised.value.stdout, str) and isinstance(raised.value, TimeoutError)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGCONT)
        with pytest.raises(ValueError, match="given before"):
            process.communicate("other")
        assert process.communicate(timeout=200) == ("first\n" + data, None)


def test_partial_output_comes_with_the_error(popen: Popen) -> None:
    script = r"printf 'so far\n\303'; echo bad >&2; exec sleep 600"
    with popen(["sh", "-c", script], stdout=PIPE, stderr=PIPE, text=True) as process:
        partial: tuple[object, object] = ("", "")
        end = time.monotonic() + 100
        while partial != ("so far\n�", "bad\n"):  # what is cut within a character is shown as such
            assert time.monotonic() < end, partial
            with pytest.raises(TimeoutExpired, match=r"sleep 600: not ended within 0\.01 s") as raised:
                process.communicate(timeout=0.01)
            partial = raised.value.stdout, raised.value.stderr
        process.kill()
        with pytest.raises(UnicodeDecodeError):
            process.communicate()


def test_input_for_one_without_a_pipe_is_a_mistake(box: Container) -> None:
    with box.popen(["true"]) as process, pytest.raises(ValueError, match="not a pipe"):
        process.communicate(b"data")


def test_waiting_for_a_while(popen: Popen) -> None:
    with popen(["sleep", "600"]) as process:
        assert process.poll() is None
        with pytest.raises(TimeoutExpired, match="sleep 600: not ended within 0 s"):
            process.wait(0)
        with pytest.raises(TimeoutError):
            process.wait(timeout=0.01)
        assert not ready(0, process.fileno())
        process.kill()
        assert ready(100, process.fileno())
        assert process.wait() == 137


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (Process.terminate, 143),
        (Process.kill, 137),
        (lambda process: process.send_signal(signal.SIGINT), 130),
        (lambda process: process.send_signal("SIGUSR1"), 138),
        (lambda process: process.send_signal(1), 129),
    ],
)
def test_signals_end_it_as_they_end_any_process(
    popen: Popen, send: Callable[[Process[Any]], None], status: int
) -> None:
    with popen(["sleep", "600"]) as process:
        send(process)
    assert process.returncode == status
    send(process)  # it is gone, and its number may be another's


def test_a_signal_that_it_handles_is_its_own_business(popen: Popen) -> None:
    script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with popen(["sh", "-c", script], stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "got it\n"
    assert process.returncode == 3


def test_signals_that_there_are_not(box: Container) -> None:
    with box.popen(["true"]) as process:
        for wrong in ("SIGNONE", 65, "", -1):
            with pytest.raises(InvalidInput, match="send signal"):
                process.send_signal(wrong)


def test_failures_to_begin_leave_nothing(
    engine: Engine, popen: Popen, tmp_path: Path, store_root: Path
) -> None:
    before, there = held_descriptors(), engine.containers(all=True)
    with pytest.raises(CommandNotFound, match="no-such") as raised:
        popen(["no-such"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert raised.value.exit_code == 127
    with pytest.raises(CommandNotExecutable) as not_executable:
        popen(["/etc/passwd"], stdout=PIPE)
    assert not_executable.value.exit_code == 126
    with pytest.raises(NotFound, match="nobody-here"):
        popen(["true"], user="nobody-here")
    with pytest.raises(InvalidInput, match="popen: -7 is not a descriptor"):
        popen(["true"], stdout=-7)
    for unknown in ("capture_output", "momory"):
        with pytest.raises(TypeError, match=unknown):
            popen(["true"], **{unknown: True})
    for wrong in ({"encoding": "no-such-codec"}, {"errors": "no-such-way"}, {"bufsize": -2}):
        with pytest.raises((LookupError, InvalidInput)):
            popen(["true"], stdout=PIPE, **wrong)
    del raised, not_executable
    assert engine.containers(all=True) == there
    # what a thread of an earlier test had open may go meanwhile
    until(lambda: held_descriptors().items() <= before.items())


def test_there_may_be_no_further_thread(
    engine: Engine, popen: Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    there = engine.containers(all=True)
    monkeypatch.setattr("_thread.start_new_thread", refuse)
    for name in ("_start_new_thread", "_start_joinable_thread"):  # the second one since Python 3.13
        monkeypatch.setattr(threading, name, refuse, raising=False)
    for streams in ({"stdout": PIPE, "stderr": DEVNULL}, {}):
        with pytest.raises(KernelError, match="begin a thread"):
            popen(["sleep", "600"], **streams)
    monkeypatch.undo()
    assert engine.containers(all=True) == there
    with popen(["true"], stdout=DEVNULL, stderr=DEVNULL) as process:
        pass
    assert process.returncode == 0


def test_one_beside_a_container_that_does_not_run(engine: Engine) -> None:
    with engine.create("tiny", ["true"]) as box:
        with pytest.raises(Conflict, match="not running"):
            box.popen(["true"])
        box.remove()
        with pytest.raises(NotFound):
            box.popen(["true"])


def test_a_disk_that_is_full_is_told_of_at_the_end(popen: Popen) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        process = popen(["echo", "too much"], stdout=full)
        with pytest.raises(KernelError, match="No space left"):
            process.wait()


def test_options_are_those_of_exec(box: Container) -> None:
    script = 'echo "$A $(pwd) $(id -u)"'
    with box.popen(
        ["sh", "-c", script], stdout=PIPE, text=True, env={"A": "1"}, workdir="/tmp", user="ann"
    ) as process:
        assert process.communicate()[0] == "1 /tmp 1000\n"


def test_there_is_nobody_to_detach(box: Container) -> None:
    with pytest.raises(InvalidInput, match="detach_keys"):
        box.popen(["true"], tty=True, detach_keys="ctrl-x")


SIGPIPE_KILLS = """if True:
    import signal, sys
    from lamina import Engine
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with Engine(sys.argv[1]).popen("tiny", ["true"], stdin=-1, rm=True) as process:
        process.communicate(bytes(1_000_000))
    assert process.returncode == 0
"""


def test_a_program_that_dies_of_closed_pipes_does_not_of_those(engine: Engine, store_root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SIGPIPE_KILLS, str(store_root)], stderr=PIPE, timeout=200)
    assert done.returncode == 0, done.stderr


def test_a_user_may_open_the_pipes_by_name(popen: Popen) -> None:
    with popen(["sh", "-c", "echo by name >/dev/stdout"], stdout=PIPE, user="ann") as process:
        assert process.communicate()[0] == b"by name\n"


def test_a_terminal_of_its_own(popen: Popen) -> None:
    script = "test -t 0 && test -t 1 && echo terminal; read -r line; echo got $line; cat; echo end"
    with popen(["sh", "-c", script], tty=True, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"terminal\r\n"
        process.stdin.write(b"typed\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"typed\r\n"  # the terminal echoes
        assert process.stdout.readline() == b"got typed\r\n"
        process.stdin.close()  # the end of input is typed
        assert process.stdout.read() == b"end\r\n"
    assert process.returncode == 0


def test_several_threads_wait_for_one(popen: Popen) -> None:
    process = popen(["sleep", "600"])
    found: list[int] = []
    waiting = [threading.Thread(target=lambda: found.append(process.wait())) for _ in range(16)]
    for thread in waiting:
        thread.start()
    process.kill()
    for thread in waiting:
        thread.join(100)
    assert found == [137] * 16


def test_one_that_nobody_waits_for_warns_and_is_reaped_all_the_same(box: Container) -> None:
    process = box.popen(["sleep", "600"], stdout=DEVNULL, stderr=DEVNULL)
    pid = process.pid
    with pytest.warns(ResourceWarning, match=f"process {pid} still runs"):
        del process
        gc.collect()
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 100
    while os.path.exists(f"/proc/{pid}"):  # a zombie has a place there as well
        assert time.monotonic() < end
        time.sleep(0.001)
    ended = box.popen(["true"], stdout=DEVNULL, stderr=DEVNULL)
    assert ready(100, ended.fileno())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del ended
        gc.collect()


def test_a_container_is_stopped_whoever_forgot_to_wait_for_what_ran_in_it(engine: Engine) -> None:
    """The kernel keeps its first process until all others are reaped, and these are children of ours."""
    nowhere = DEVNULL
    with engine.start("tiny", ["sleep", "600"]) as box:
        ended = box.popen(["true"], stdout=nowhere, stderr=nowhere)
        living = box.popen(["sleep", "600"], stdout=nowhere, stderr=nowhere)
        forgotten = box.popen(["sleep", "600"], stdout=nowhere, stderr=nowhere)
        with pytest.warns(ResourceWarning):
            del forgotten
            gc.collect()
        box.exec_detached(["sleep", "600"])
        box.exec_detached(["true"])
        box.stop()
        assert box.status == "exited"
        box.start()
        assert (ended.wait(), living.wait()) == (0, 137)
        late = box.popen(["sleep", "600"], stdout=nowhere, stderr=nowhere)
    assert late.wait() == 137
    until(is_idle)  # the thread that saw it end has still to find that there is nobody else


def test_its_end_is_an_event(engine: Engine, box: Container) -> None:
    since = time.time()
    with box.popen(["sh", "-c", "exit 7"]):
        pass
    said = list(engine.events(since=since, until=time.time() + 0.01))
    assert [event.action.partition(":")[0] for event in said] == ["exec_create", "exec_start", "exec_die"]
    assert said[-1].attributes["exitCode"] == "7"


def test_a_container_of_its_own_is_recorded_as_by_run(engine: Engine) -> None:
    told: list[str] = []
    with engine.popen(
        "tiny", ["sh", "-c", "echo kept; exit 7"], name="job", stdout=PIPE, on_created=told.append
    ) as job:
        assert job.communicate()[0] == b"kept\n"
    box = engine.container("job")
    assert told == [box.id] == [job.container]
    assert (job.returncode, box.exit_code, box.status) == (7, 7, "exited")
    assert [entry.data for entry in box.logs()] == [b"kept\n"]
    box.remove()


def test_an_ended_one_is_recorded_with_the_status_that_was_meant(engine: Engine) -> None:
    with engine.popen("tiny", ["sleep", "600"], name="job") as job:
        job.terminate()
    box = engine.container("job")
    assert (job.returncode, box.exit_code) == (143, 143)
    box.remove()


def test_a_thread_may_leave_before_its_container_ends(engine: Engine) -> None:
    """The kernel's signal at a parent's death is a thread's, and nobody knows which of the caller's lives longest."""
    made: list[Process[bytes]] = []
    thread = threading.Thread(
        target=lambda: made.append(engine.popen("tiny", ["cat"], stdin=PIPE, stdout=PIPE, rm=True))
    )
    thread.start()
    thread.join()
    assert made[0].communicate(b"still here") == (b"still here", None)
    assert made[0].returncode == 0


OWNER = """if True:
    import sys, time
    from lamina import Engine
    engine = Engine(sys.argv[1])
    box = engine.popen("tiny", ["sleep", "1000"], rm=True)
    print(box.container, flush=True)
    time.sleep(1000)
"""


def test_a_container_of_its_own_ends_with_the_program(engine: Engine, store_root: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER, str(store_root)], stdout=PIPE, text=True) as owner:
        assert owner.stdout is not None
        identity = owner.stdout.readline().strip()
        assert engine.container(identity).status == "running"
        owner.kill()
    end = time.monotonic() + 100
    while engine.containers(all=True):
        assert time.monotonic() < end
    assert not list((store_root / "containers").iterdir())


INTERRUPTED = """if True:
    import sys
    from lamina import Engine
    engine = Engine(sys.argv[1])
    try:
        with engine.start("tiny", ["sleep", "1000"]) as box, box.popen(["sleep", "1000"]) as process:
            print(process.pid, flush=True)
            process.wait()
    except KeyboardInterrupt:
        print("interrupted", len(engine.containers(all=True)), flush=True)
"""


def test_one_whose_block_fails_is_killed(popen: Popen) -> None:
    """Popen would wait for its end; in a container no Ctrl-C reaches it, and nobody else would end it."""
    with pytest.raises(RuntimeError, match="in the block"), popen(["sleep", "600"]) as process:
        raise RuntimeError("in the block")
    assert process.returncode == 137


def test_a_wait_is_interrupted_from_the_keyboard(engine: Engine, store_root: Path) -> None:
    with Terminal([sys.executable, "-c", INTERRUPTED, str(store_root)]) as terminal:
        terminal.expect(r"\d+")
        terminal.type("\x03")
        terminal.expect("interrupted")


def test_a_signal_that_is_held_back_for_a_moment_is_not_lost(engine: Engine) -> None:
    """As shells do while they fork; the kernel drops it then, of the first process of a container."""
    script = """
import signal, sys, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("held", flush=True)
sys.stdin.read()
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
time.sleep(600)
"""
    with engine.popen("host", [sys.executable, "-c", script], rm=True, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.terminate()
        process.stdin.close()
        try:
            assert process.wait(100) == 128 + signal.SIGTERM
        finally:
            process.kill()


@pytest.mark.parametrize("missing", [(0,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_a_program_that_began_without_streams_hands_none_of_its_descriptors_in(
    engine: Engine, store_root: Path, tmp_path: Path, missing: tuple[int, ...]
) -> None:
    """The next files that it opens have these numbers: a lock, the descriptor of a process, the other end of a pipe."""
    program = """if True:
        import json, os, sys
        root, report, *missing = sys.argv[1:]
        for number in map(int, missing):
            os.close(number)
        from subprocess import PIPE
        from lamina import Engine
        engine = Engine(root)
        show = ["sh", "-c", 'said=$(for n in 0 1 2; do readlink /proc/$$/fd/$n; done); echo "$said" >/shown; cat']
        with engine.start("tiny", ["sleep", "600"], stop_timeout=0) as box:
            for stream in (["stdin", "stdout"], ["stdin"], ["stdout", "stderr"]):
                with box.popen(show, **dict.fromkeys(stream, PIPE)) as process:
                    said = process.communicate(b"x" * 100_000 if "stdin" in stream else None)[0]
                shown = (box.files / "shown").read_text().splitlines()
                with open(report, "a") as file:
                    kinds = ["own" if line.startswith(("pipe", "/dev/null")) else line for line in shown]
                    file.write(json.dumps([said is None or said in (b"", b"x" * 100_000), kinds]) + "\\n")
    """
    streams = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
    words = [sys.executable, "-c", program, str(store_root), str(tmp_path / "report"), *map(str, missing)]
    done = subprocess.run(words, timeout=250, check=False, **streams)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in (tmp_path / "report").read_text().splitlines()] == [
        [True, ["own"] * 3]
    ] * 3
    assert engine.containers(all=True) == []


def test_it_goes_to_no_other_process(box: Container) -> None:
    with box.popen(["true"]) as process, pytest.raises(TypeError, match="cannot pickle a Process"):
        pickle.dumps(process)
    assert pickle.loads(pickle.dumps(box)) == box
