"""The walker: the native one and the reference in Python must do the same with the same list."""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from lamina.linux import packed, runner
from lamina.linux.constants import AT_FDCWD, CLONE_VFORK, CLONE_VM, PR_GET_DUMPABLE
from lamina.linux.process import prctl
from lamina.linux.program import Out, Reg, Step, Strings, Struct, assemble
from support.lives import until
from support.namespaces import in_user_namespace

try:
    from lamina.linux import _native as native
except ImportError:
    native = None  # type: ignore[assignment]


@pytest.fixture(params=["native", "python"])
def walker(request, monkeypatch):
    if request.param == "native" and native is None:
        pytest.skip("the extension is not built")
    monkeypatch.setattr(packed, "engine", native if request.param == "native" else runner)
    return request.param


def test_a_result_in_a_register_is_an_argument_of_a_later_step(walker, tmp_path):
    made = Reg("file")
    outcome = assemble(
        [
            Step("openat", AT_FDCWD, os.fsencode(tmp_path / "a"), os.O_CREAT | os.O_WRONLY, 0o600, save=made),
            Step("write", made, b"hello", 5, want=5),
            Step("close", made),
        ]
    ).walk()
    assert outcome.failed is None
    assert (tmp_path / "a").read_text() == "hello"


def test_the_failing_step_and_its_errno_are_reported_and_the_rest_is_not_walked(walker, tmp_path):
    outcome = assemble(
        [
            Step("mkdirat", AT_FDCWD, os.fsencode(tmp_path / "one"), 0o700),
            Step("mkdirat", AT_FDCWD, os.fsencode(tmp_path / "none" / "two"), 0o700),
            Step("mkdirat", AT_FDCWD, os.fsencode(tmp_path / "three"), 0o700),
        ]
    ).walk()
    assert (outcome.failed, outcome.errno) == (1, errno.ENOENT)
    assert outcome.results[1] == -errno.ENOENT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one"]


def test_a_tolerated_error_skips_and_success_leaps(walker, tmp_path):
    def mkdir(name, **more):
        return Step("mkdirat", AT_FDCWD, os.fsencode(tmp_path / name), 0o700, **more)

    outcome = assemble(
        [
            mkdir("a", leap=1),
            mkdir("leapt"),
            mkdir("a", tolerate=(errno.EEXIST,), skip=2),
            mkdir("skipped1"),
            mkdir("skipped2"),
            mkdir("b"),
        ]
    ).walk()
    assert outcome.failed is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_an_unwanted_result_is_a_failure_without_errno(walker):
    outcome = assemble([Step("getpid", want=-5)]).walk()
    assert (outcome.failed, outcome.errno) == (0, 0)
    assert outcome.results == (os.getpid(),)


def test_errnos_above_63_can_be_tolerated(walker):
    socket = Step("socket", 99, 1, 0, tolerate=(errno.EAFNOSUPPORT,))
    assert errno.EAFNOSUPPORT > 63
    assert assemble([socket]).walk().failed is None


def test_pointers_inside_structures_are_moved_to_where_the_program_lies(walker):
    reader, writer = os.pipe()
    vector = Struct("iovec", "PQPQ", (b"lay", 3, b"ers", 3))
    assert assemble([Step("writev", writer, vector, 2, want=6)]).walk().failed is None
    assert os.read(reader, 10) == b"layers"
    os.close(reader)
    os.close(writer)


def test_room_for_a_result_is_never_shared_with_a_constant(walker):
    reader, writer = os.pipe()
    os.write(writer, b"XXXXXXXX")
    steps = [Step("read", reader, Out(8), 8, want=8), Step("write", writer, bytes(8), 8, want=8)]
    assert assemble(steps).walk().failed is None
    assert os.read(reader, 8) == bytes(8)
    os.close(reader)
    os.close(writer)


def test_a_register_must_be_saved_before_it_is_used():
    with pytest.raises(ValueError, match="before any step saves it"):
        assemble([Step("close", Reg("never"))])


@pytest.mark.parametrize("spoil", ["length", "register", "arena"])
def test_a_malformed_program_is_refused(walker, spoil):
    steps, arena, relocations, registers = assemble([Step("chdir", b"/")]).parts()[:4]
    if spoil == "length":
        steps = steps[:-1]
    elif spoil == "arena":
        steps = steps[:8] + struct.pack("=Q", 10_000) + steps[16:]
    else:
        relocations = struct.pack("I", len(arena))
    with pytest.raises(ValueError):
        (native if walker == "native" else runner).walk(steps, arena, relocations, registers)


def spawn(steps, flags=CLONE_VM | CLONE_VFORK):
    child = assemble(steps).spawn(flags)
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    return child.outcome(), status


def shell(script, *before):
    return [*before, Step("execve", b"/bin/sh", Strings([b"sh", b"-c", script.encode()]), Strings([b"A=b"]))]


def test_the_new_process_executes_the_command_and_its_status_is_ours(walker):
    outcome, status = spawn(shell('test "$A" = b && exit 7'))
    assert (outcome.failed, status) == (None, 7)


def test_a_step_that_fails_in_the_new_process_is_reported(walker):
    outcome, status = spawn(shell("true", Step("chdir", b"/no/such/directory")))
    assert (outcome.failed, outcome.errno, status) == (0, errno.ENOENT, 126)


def test_nothing_of_our_signal_state_reaches_the_new_process(walker):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        reader, writer = os.pipe()
        spawn(shell("grep ^Sig /proc/self/status", Step("dup3", writer, 1, 0)))
        status = dict(line.split(b":\t") for line in os.read(reader, 4096).splitlines())
        assert int(status[b"SigIgn"], 16) == 0
        assert int(status[b"SigBlk"], 16) == 0
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        os.close(reader)
        os.close(writer)


def test_two_hundred_processes_from_a_program_with_busy_threads(walker):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            bytearray(10_000).hex()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200 if walker == "native" else 40):
            assert spawn([Step("execve", b"/bin/true", Strings([b"true"]), Strings())])[1] == 0
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


def test_a_child_that_shares_memory_may_wait_for_its_parent(walker):
    reader, writer = os.pipe()
    child = assemble(shell("exit 3", Step("read", reader, Out(1), 1, want=1))).spawn(CLONE_VM)
    data = [bytes(1000) for _ in range(1000)]  # the parent lives on and allocates
    os.write(writer, b"g")
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 3
    assert len(data) == 1000
    os.close(reader)
    os.close(writer)


def test_a_fork_settles_nothing_of_its_parent(walker):
    """Whose memory is marked as not dumpable while a child with other ids shares it, and not for longer."""
    reader, writer = os.pipe()
    other = os.geteuid() + 1 if os.geteuid() else 1000
    steps = [Step("setresuid", other, other, other), Step("read", reader, b"\0" * 8, 1), Step("exit", 0)]
    before = prctl(PR_GET_DUMPABLE)
    child = assemble(steps).spawn(CLONE_VM)
    forked = os.fork()
    if forked == 0:
        del child
        os._exit(0)
    os.waitpid(forked, 0)
    os.write(writer, b"g")
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    child.settle()
    os.close(reader)
    os.close(writer)
    assert prctl(PR_GET_DUMPABLE) == before


def test_a_refused_clone_is_an_error_of_the_call(walker):
    with pytest.raises(OSError):
        assemble([Step("getpid")]).spawn(0x00010000)  # CLONE_THREAD without CLONE_SIGHAND


@pytest.mark.root
def test_a_helper_joins_namespaces_before_it_makes_the_process():
    """What nobody may join who shares memory: the process is born into the pid namespace, and is nobody's to trace."""
    import os

    from lamina.linux.constants import CLONE_NEWPID, CLONE_NEWTIME, PR_GET_DUMPABLE
    from support.starting import somebody

    with somebody(CLONE_NEWPID | CLONE_NEWTIME) as pid:
        opened = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in ("pid", "time")]
        steps = [
            Step("prctl", PR_GET_DUMPABLE, 0, 0, 0, 0, want=0),
            Step("getppid", want=0),  # nobody of its namespace made it
        ]
        enter = ((opened[0], CLONE_NEWPID), (opened[1], CLONE_NEWTIME))
        child = assemble(steps).spawn(0, enter=enter)
        ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
        child.pidfd.close()
        assert ended is not None and ended.si_status == 0, child.outcome()
        assert child.failure() is None
        with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
            assemble(steps).spawn(0, enter=((opened[0], CLONE_NEWTIME),))
        for fd in opened:
            os.close(fd)


class Interrupted(BaseException):
    """What a handler of a signal raises, as Ctrl-C's does."""


def interrupted(_: int, __: object) -> None:
    raise Interrupted


@pytest.mark.userns
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "by another thread"])
def test_a_handler_that_raises_while_a_process_is_made_loses_none(elsewhere: bool) -> None:
    """It is noted, or has gone, also where the signal came to a thread that does not keep it back."""

    def inner() -> tuple[int, bool]:
        spawn, wait = runner.spawn, runner._await

        def interrupt(helper: int) -> None:
            os.kill(os.getpid(), signal.SIGUSR2)
            if elsewhere:
                until(lambda: False)  # it runs here when this thread executes its next instruction
            wait(helper)

        runner._await = interrupt
        signal.signal(signal.SIGUSR2, interrupted)
        if elsewhere:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        program = assemble([Step("ppoll", None, 0, None, None, 0)])
        noted: list[Any] = []
        with pytest.raises(Interrupted):
            spawn(program.records, program.arena, program.relocations, program.registers, 0, -1, noted)
        for pid, pidfd, _ in noted:
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        left = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for lost in left:
            os.kill(int(lost), signal.SIGKILL)
        return len(left), bool(noted)

    assert in_user_namespace(inner, timeout=100) == (0, not elsewhere)
