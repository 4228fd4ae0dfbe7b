"""Processes by descriptor: real children, real signals, exit statuses told to strangers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.files import fstatfs
from lamina.linux.probe import probe
from lamina.linux.process import (
    close_range,
    pidfd_get_info,
    pidfd_getfd,
    pidfd_open,
    pidfd_send_signal,
    prctl,
    waitid,
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield child
        child.kill()


def test_a_pidfd_is_readable_when_the_process_has_ended(door: str) -> None:
    import select

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child, pidfd_open(child.pid) as pidfd:
        assert not os.get_inheritable(pidfd)
        assert select.select([pidfd], [], [], 0)[0] == []
        assert child.stdin
        child.stdin.close()
        assert select.select([pidfd], [], [], 100)[0] == [pidfd]
        ended = waitid(c.P_PIDFD, pidfd, c.WEXITED | c.WNOWAIT)
        assert ended is not None
        assert (ended.pid, ended.returncode) == (child.pid, 0)


def test_signals_by_descriptor(door: str, sleeper: subprocess.Popen[bytes]) -> None:
    with pidfd_open(sleeper.pid) as pidfd:
        pidfd_send_signal(pidfd, 0)
        pidfd_send_signal(pidfd, signal.SIGTERM)
        ended = waitid(c.P_PIDFD, pidfd, c.WEXITED | c.WNOWAIT)
        assert ended is not None
        assert (ended.code, ended.status, ended.returncode) == (os.CLD_KILLED, 15, -15)
        assert ended.uid == os.getuid()
        sleeper.wait()
        with pytest.raises(KernelError, match="pidfd_send_signal signal 9: No such process") as caught:
            pidfd_send_signal(pidfd, 9)
        assert caught.value.errno == errno.ESRCH


def test_the_number_of_a_thread_is_no_process(door: str) -> None:
    """As that of nobody: a number that was a process's may be a thread's by now."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(KernelError, match="No such process") as caught:
            pidfd_open(thread.native_id or 0)
    finally:
        done.set()
        thread.join()
    assert caught.value.errno == errno.ESRCH


def test_waiting(door: str, sleeper: subprocess.Popen[bytes]) -> None:
    assert waitid(c.P_PID, sleeper.pid, c.WEXITED | c.WNOHANG) is None
    with pytest.raises(KernelError, match="waitid P_PID 1: No child processes"):
        waitid(c.P_PID, 1)
    with pytest.raises(KernelError, match="pidfd_open process 0"):
        pidfd_open(0)


def test_exit_status(door: str) -> None:
    with subprocess.Popen(["sh", "-c", "exit 7"]) as child:
        ended = waitid(c.P_PID, child.pid, c.WEXITED | c.WNOWAIT)
        assert ended is not None
        assert ended.returncode == 7


@pytest.mark.skipif(not probe().pidfd_info, reason=f"{probe().pidfd_info}")
def test_info_about_a_living_process(door: str, sleeper: subprocess.Popen[bytes]) -> None:
    with pidfd_open(sleeper.pid) as pidfd:
        info = pidfd_get_info(pidfd)
    assert (info.pid, info.tgid, info.ppid) == (sleeper.pid, sleeper.pid, os.getpid())
    assert (info.ruid, info.euid, info.suid, info.fsuid) == (*os.getresuid(), os.geteuid())
    assert (info.rgid, info.egid, info.sgid, info.fsgid) == (*os.getresgid(), os.getegid())
    assert info.exit_status is None


@pytest.mark.skipif(not probe().pidfd_exit_status, reason=f"{probe().pidfd_exit_status}")
@pytest.mark.parametrize(("end", "expected"), [("os._exit(7)", 7), ("os.kill(os.getpid(), 9)", -9)])
def test_a_stranger_learns_the_exit_status(door: str, end: str, expected: int) -> None:
    """A grandchild, reaped by its parent: whoever holds a pidfd can still ask."""
    code = f"""
import os
if not (pid := os.fork()):
    os.read(0, 1)
    {end}
print(pid, flush=True)
os.waitpid(pid, 0)
print("reaped", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        with pidfd_open(int(parent.stdout.readline())) as pidfd:
            assert pidfd_get_info(pidfd).exit_status is None
            parent.stdin.close()
            assert parent.stdout.readline() == b"reaped\n"
            status = pidfd_get_info(pidfd).exit_status
        assert status is not None
        assert os.waitstatus_to_exitcode(status) == expected


def test_a_descriptor_of_another_process(door: str) -> None:
    reader, writer = os.pipe()
    code = "import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(writer,),
    ) as child:  # fmt: skip
        assert child.stdout
        child.stdout.readline()
        with pidfd_open(child.pid) as pidfd:
            with pidfd_getfd(pidfd, writer) as copy:
                assert not os.get_inheritable(copy)
                os.write(copy, b"through the child's descriptor")
            with pytest.raises(KernelError) as caught:
                pidfd_getfd(pidfd, 9999)
            assert caught.value.errno == errno.EBADF
        assert child.stdin
        child.stdin.close()
    assert os.read(reader, 100) == b"through the child's descriptor"
    os.close(reader)
    os.close(writer)


def test_close_range(door: str) -> None:
    code = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from lamina.linux import call, _door
if {door!r} == "ctypes": call._raw = _door.syscall
from lamina.linux.process import close_range
import fcntl
for fd in (20, 21, 22): os.dup2(0, fd)
close_range(20, 21)
print([os.get_inheritable(fd) for fd in (20, 21, 22)])
close_range(21, 22, 0)
print([fd for fd in (20, 21, 22) if os.path.exists(f"/proc/self/fd/{{fd}}")])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert said.stdout.splitlines() == ["[False, False, True]", "[20]"], said.stderr
    with pytest.raises(KernelError) as caught:
        close_range(5, 4)
    assert caught.value.errno == errno.EINVAL


def test_prctl(door: str) -> None:
    name = bytearray(16)
    prctl(c.PR_GET_NAME, name)
    with open("/proc/thread-self/comm", "rb") as comm:
        assert name.rstrip(b"\0") == comm.read().rstrip(b"\n")
    assert prctl(c.PR_GET_NO_NEW_PRIVS) in (0, 1)
    with pytest.raises(KernelError, match="prctl 54321: Invalid argument"):
        prctl(54321)


@pytest.mark.skipif(not probe().at_least("6.14"), reason="PIDFD_SELF is there since 6.14")
def test_this_process_needs_no_descriptor(door: str) -> None:
    pidfd_send_signal(c.PIDFD_SELF_THREAD_GROUP, 0)
    pidfd_send_signal(c.PIDFD_SELF_THREAD, 0)


@pytest.mark.skipif(not probe().at_least("6.9"), reason="pidfds have a file system since 6.9")
def test_pidfds_have_a_file_system_of_their_own(door: str) -> None:
    with pidfd_open(os.getpid()) as pidfd:
        assert fstatfs(pidfd).type == c.PID_FS_MAGIC
