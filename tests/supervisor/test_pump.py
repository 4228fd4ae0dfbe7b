"""Between the caller's descriptors and a container's no byte is lost, doubled or put out of order, and nobody hangs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import signal
import socket
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.runtime.bundle import NULL
from lamina.supervisor.foreground import Ended, attend
from lamina.supervisor.logs.following import Log
from lamina.supervisor.logs.frames import LogWriter
from lamina.supervisor.stdio import DEVNULL, PIPE, STDOUT, Stdio
from support.apart import apart
from support.held import held_descriptors
from support.process import FakeContainer

MEGABYTE = 1 << 20
Run = Callable[..., tuple[Ended, Stdio]]


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture
def run() -> Iterator[Run]:
    """Run a command as if it were a container's."""
    started: list[tuple[FakeContainer, Stdio]] = []

    def start(
        command: list[str],
        stdin: int | None = DEVNULL,
        stdout: int | None = PIPE,
        stderr: int | None = None,
        timeout: float | None = None,
        **more: object,
    ) -> tuple[Ended, Stdio]:
        stdio = Stdio(stdin, stdout, stderr, **more)  # type: ignore[arg-type]
        container = FakeContainer(command, stdio.child)
        started.append((container, stdio))
        stdio.started(None)
        return attend(container, stdio, timeout=timeout), stdio

    yield start
    for container, stdio in started:
        container.close()
        stdio.close()


# -- what arrives


@pytest.mark.slow
def test_a_hundred_megabytes_through_a_pipe_and_the_log(run: Run, tmp_path: Path) -> None:
    """File in, pipe out, log beside: the same bytes everywhere, though the consumer stutters."""
    size = 120 * MEGABYTE
    data = random.Random(4).randbytes(MEGABYTE)
    with open(tmp_path / "in", "wb") as file:
        for n in range(size // MEGABYTE):
            file.write(data[n:] + data[:n])
    wanted = hashlib.sha256((tmp_path / "in").read_bytes()).hexdigest()
    reader, writer = os.pipe()
    received = hashlib.sha256()

    def consume() -> None:
        chance = random.Random(5)
        while chunk := os.read(reader, chance.choice([1, 100, 4096, 65536, MEGABYTE])):
            received.update(chunk)
            if chance.random() < 0.0005:
                time.sleep(0.01)

    consumer = threading.Thread(target=consume)
    consumer.start()
    log = LogWriter(os.fsencode(tmp_path / "log"))
    source = os.open(tmp_path / "in", os.O_RDONLY)
    try:
        ended, stdio = run(["cat"], source, writer, log=log)
        stdio.close()
    finally:
        os.close(writer)
        os.close(source)
        consumer.join(200)
        os.close(reader)
        log.close()
    assert ended.status == 0
    assert received.hexdigest() == wanted
    logged = hashlib.sha256()
    for entry in Log(os.fsencode(tmp_path), "local", "").read():
        logged.update(entry.data)
    assert logged.hexdigest() == wanted


def test_input_from_memory_and_output_into_it(run: Run) -> None:
    data = random.Random(1).randbytes(3 * MEGABYTE)
    ended, stdio = run(["cat"], None, PIPE, data=data)
    assert (ended, stdio.captured(1), stdio.captured(2)) == (Ended(0), data, None)


def test_both_streams_are_told_apart(run: Run, tmp_path: Path) -> None:
    code = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    log = LogWriter(os.fsencode(tmp_path / "log"))
    _, stdio = run(python(code), DEVNULL, PIPE, PIPE, log=log)
    log.close()
    assert stdio.captured(1) == b"".join(b"%d\n" % n for n in range(0, 2000, 2))
    assert stdio.captured(2) == b"".join(b"%d\n" % n for n in range(1, 2000, 2))
    entries = list(Log(os.fsencode(tmp_path), "local", "").read())
    assert b"".join(e.data for e in entries if e.stream == "stderr") == stdio.captured(2)


def test_stderr_into_stdout_keeps_the_order(run: Run) -> None:
    code = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    _, stdio = run(python(code), DEVNULL, PIPE, STDOUT)
    assert stdio.captured(1) == b"".join(b"%d\n" % n for n in range(2000))


def test_the_same_file_for_both_keeps_the_order(run: Run, tmp_path: Path) -> None:
    code = "import os\nfor n in range(2000): os.write(1 + n % 2, b'%d\\n' % n)"
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    try:
        run(python(code), DEVNULL, out, out)
    finally:
        os.close(out)
    assert (tmp_path / "out").read_bytes() == b"".join(b"%d\n" % n for n in range(2000))


def test_what_was_written_just_before_the_end_arrives(run: Run) -> None:
    """Though somebody else still has the pipe open, as a child that this program forked would."""
    code = "import os; os.write(1, b'x' * 60000); os._exit(7)"
    holder = "import subprocess, os; subprocess.Popen(['sleep', '30']); " + code
    for command in (code, holder):
        ended, stdio = run(python(command))
        assert (ended.status, stdio.captured(1)) == (7, b"x" * 60000)


def test_nothing_is_captured_that_was_not_asked_for(run: Run, tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    try:
        _, stdio = run(["echo", "hi"], DEVNULL, out)
    finally:
        os.close(out)
    assert (stdio.captured(1), stdio.captured(2)) == (None, None)
    assert (tmp_path / "out").read_text() == "hi\n"


# -- what the container gets


WHAT = "import os, stat; print([stat.S_IFMT(os.fstat(n).st_mode) for n in (0, 1, 2)], os.fstat(0).st_rdev)"


def test_files_and_terminals_of_the_caller_stay_outside(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("secret")
    source, out = os.open(tmp_path / "in", os.O_RDONLY), os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    master, slave = os.openpty()
    try:
        run(python(WHAT), source, out, slave)
    finally:
        for fd in (source, out, master, slave):
            os.close(fd)
    assert (tmp_path / "out").read_text() == "[4096, 4096, 4096] 0\n"


def test_pipes_and_sockets_go_in_as_they_are(run: Run) -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    inode = os.fstat(writer).st_ino
    code = "import os; os.write(0, b'%d' % os.fstat(1).st_ino)"
    try:
        _, stdio = run(python(code), theirs.fileno(), writer, DEVNULL)
        assert int(ours.recv(100)) == inode
        assert stdio.drains == []
    finally:
        ours.close()
        theirs.close()
        os.close(reader)
        os.close(writer)


def test_closed_and_null_descriptors_are_the_null_device(run: Run) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        for stdin in (DEVNULL, null):
            _, stdio = run(python(WHAT), stdin, PIPE)
            assert (stdio.captured(1) or b"").endswith(b"%d\n" % os.makedev(1, 3))
    finally:
        os.close(null)
    _, stdio = run(["cat"], null, PIPE)  # closed by now
    assert stdio.captured(1) == b""


def test_the_hosts_null_device_is_never_handed_in() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        for asked in (DEVNULL, null):
            stdio = Stdio(asked, asked, asked)
            assert stdio.child == (NULL, NULL, NULL)
            stdio.close()
    finally:
        os.close(null)


def test_the_callers_descriptors_stay_blocking(run: Run, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    (tmp_path / "in").write_text("x\n")
    source = os.open(tmp_path / "in", os.O_RDONLY)
    log = LogWriter(os.fsencode(tmp_path / "log"))
    try:
        run(["cat"], source, writer, log=log)
        for fd in (reader, writer, source):
            assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
        assert os.read(reader, 10) == b"x\n"
    finally:
        for fd in (reader, writer, source):
            os.close(fd)
        log.close()


# -- who goes away


def test_the_master_of_a_terminal_gets_what_is_written_to_it(run: Run) -> None:
    """Opened by its name in /proc it would be another terminal."""
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        run(["echo", "hello"], stdout=master)
        os.set_blocking(slave, False)
        assert os.read(slave, 100) == b"hello\n"
    finally:
        os.close(master)
        os.close(slave)


def test_a_consumer_that_goes_away_ends_the_container_as_in_a_pipeline(run: Run, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    log = LogWriter(os.fsencode(tmp_path / "log"))
    os.close(reader)
    try:
        ended, _ = run(["yes"], DEVNULL, writer, log=log, timeout=200)
    finally:
        os.close(writer)
        log.close()
    assert ended == Ended(128 + signal.SIGPIPE)


def test_a_program_that_lets_sigpipe_kill_it_survives(run: Run) -> None:
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        ended, _ = run(["true"], None, PIPE, data=b"x" * MEGABYTE)
        assert ended.status == 0
        assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_a_container_that_does_not_read_takes_nothing_more_from_the_caller(run: Run, tmp_path: Path) -> None:
    with open(tmp_path / "in", "wb") as file:
        file.truncate(64 * MEGABYTE)
    source = os.open(tmp_path / "in", os.O_RDONLY)
    try:
        ended, _ = run(python("import os, time; os.close(0); time.sleep(0.5)"), source)
        assert ended.status == 0
        assert os.lseek(source, 0, os.SEEK_CUR) < MEGABYTE
    finally:
        os.close(source)


def test_input_ends_where_the_callers_ends(run: Run) -> None:
    reader, writer = os.pipe()

    def write_late() -> None:
        time.sleep(0.2)
        os.write(writer, b"one")
        os.close(writer)

    threading.Thread(target=write_late).start()
    _, done = run(["cat"], reader, PIPE)
    assert done.captured(1) == b"one"
    os.close(reader)


def test_a_full_disk_of_the_consumer_is_reported(run: Run) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ended, _ = run(["echo", "hello"], DEVNULL, full)
    finally:
        os.close(full)
    assert [error.errno for error in ended.errors] == [28]


# -- time


def test_after_the_timeout_it_is_killed_and_what_it_wrote_is_there(run: Run) -> None:
    code = "import os, time; os.write(1, b'begun'); time.sleep(100)"
    for seconds in (1.0, 10.0, 60.0):  # on a busy machine it may not have begun
        ended, stdio = run(python(code), timeout=seconds)
        if stdio.captured(1):
            break
    assert ended == Ended(128 + signal.SIGKILL, timed_out=True)
    assert stdio.captured(1) == b"begun"


def test_a_timeout_that_is_not_reached_changes_nothing(run: Run) -> None:
    ended, stdio = run(["echo", "x"], timeout=200)
    assert (ended, stdio.captured(1)) == (Ended(0), b"x\n")


@apart
def test_no_descriptor_is_left_open(run: Run, tmp_path: Path) -> None:
    run(["true"])  # whatever Python itself opens the first time
    before = held_descriptors()
    log = LogWriter(os.fsencode(tmp_path / "log"))
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    stdio = Stdio(None, out, PIPE, data=b"x", log=log)
    container = FakeContainer(["cat"], stdio.child)
    stdio.started(None)
    attend(container, stdio)
    stdio.close()
    stdio.close()
    container.close()
    log.close()
    os.close(out)
    assert held_descriptors() == before


@pytest.mark.parametrize("call", ["pipe2", "open", "set_blocking"])
@pytest.mark.parametrize("allowed", range(4))
@apart
def test_a_failure_on_the_way_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, allowed: int
) -> None:
    """As when the limit of open files is reached."""
    source, out = (
        os.open(tmp_path / "in", os.O_RDONLY | os.O_CREAT),
        os.open(tmp_path / "o", os.O_RDWR | os.O_CREAT),
    )
    real, calls = getattr(os, call), 0

    def fail(*arguments: object, **keywords: object) -> object:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise OSError(24, "too many open files")
        return real(*arguments, **keywords)

    before = held_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        try:
            stdio = Stdio(source, out, PIPE)
        except OSError:
            pass
        else:
            stdio.close()
    assert held_descriptors() == before
    os.close(source)
    os.close(out)
