"""Compiled calls while other threads run, and where no memory is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lamina
from lamina.linux import descriptors, survey

native = pytest.importorskip("lamina.linux._native", reason="the C extension is not built")

# A thread stands still at its first call of that name, and the main thread does something meanwhile: with a filter that
# has somebody asked (seccomp_unotify(2)). Whoever keeps the interpreter's lock keeps it for ever; an alarm ends that.
PAUSED = """
import fcntl, os, select, signal, struct, sys, threading
sys.path.insert(0, sys.argv[1])
from lamina.linux import _native
from lamina.linux import constants as c
from lamina.linux.numbers import number
from lamina.linux.process import prctl
from lamina.linux.seccomp import SOCK_FILTER, set_mode_filter

os.chdir(sys.argv[2])
signal.alarm(30)

def paused(call, work, meanwhile):
    listeners, results, there = [], [], threading.Event()

    def filtered():
        prctl(c.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        steps = ((0x20, 0, 0, 0), (0x15, 0, 1, number(call)), (6, 0, 0, 0x7FC00000), (6, 0, 0, 0x7FFF0000))
        program = b"".join([SOCK_FILTER.pack(*step) for step in steps])
        listeners.append(set_mode_filter(program, c.SECCOMP_FILTER_FLAG_NEW_LISTENER))
        there.set()
        results.append(work())

    thread = threading.Thread(target=filtered)
    thread.start()
    there.wait()
    poll = select.poll()
    poll.register(listeners[0], select.POLLIN)
    while not poll.poll()[0][1] & select.POLLHUP:
        question = bytearray(80)
        fcntl.ioctl(listeners[0], c.SECCOMP_IOCTL_NOTIF_RECV, question)
        while meanwhile:
            meanwhile.pop()()
        answer = struct.pack("=QqiI", struct.unpack_from("=Q", question)[0], 0, 0, 1)
        fcntl.ioctl(listeners[0], c.SECCOMP_IOCTL_NOTIF_SEND, bytearray(answer))
    thread.join()
    return results[0]
"""


def isolated(code: str, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(Path(lamina.__file__).parents[1]), str(place)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


LET_GO = """
files = [os.open(f"file{number}", os.O_WRONLY | os.O_CREAT) for number in range(3)]
paused("sync_file_range", lambda: _native.flush(files), [lambda: print("another thread ran")])
"""


def test_other_threads_run_while_writing_begins(tmp_path: Path) -> None:
    """Where much was written, the disk's queue is full, and sync_file_range(2) waits for it as fsync(2) does."""
    done = isolated(PAUSED + LET_GO, tmp_path)
    assert (done.returncode, done.stdout) == (0, "another thread ran\n"), done.stderr


TAKEN = """
here = os.open(".", os.O_RDONLY)
files = [(here, b"made-%04d" % number, 0o600, -1, -1, 0, 0, b"content") for number in range(50)]
others = []

def take():
    files.clear()
    others.extend(b"else-%04d" % number for number in range(1000))

print(paused("openat", lambda: _native.create_files(files), [take]))
"""


def test_files_that_are_made_stay_those_that_were_said(tmp_path: Path) -> None:
    """Whatever another thread does with the list meanwhile, which may be the last to know of the names."""
    done = isolated(PAUSED + TAKEN, tmp_path)
    assert (done.returncode, done.stdout) == (0, "(50, -1, 0)\n"), done.stderr
    assert sorted(os.listdir(tmp_path)) == [f"made-{number:04d}" for number in range(50)]


# No memory from the nth time on that Python asks for some: whatever was made by then is not lost.
STARVED = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
os.chdir(sys.argv[2])
import _testcapi
from lamina.linux import _native
from lamina.linux.constants import CLONE_VFORK, CLONE_VM, PR_GET_DUMPABLE, PR_SET_PDEATHSIG
from lamina.linux.process import prctl
from lamina.linux.program import Step, assemble

def held():
    return sorted(os.listdir("/proc/self/fd"))

def starve(work):
    failed = 0
    for nth in range(1, 60):
        try:
            _testcapi.set_nomemory(nth)
            try:
                work()
            finally:
                _testcapi.remove_mem_hooks()
        except MemoryError:
            failed += 1
        yield
    assert failed, "it asked for no memory"
"""

CHILDREN = """
waits = assemble([Step("prctl", PR_SET_PDEATHSIG, 9, 0, 0, 0), Step("ppoll", None, 0, None, None, 0)])
parts = (waits.records, waits.arena, waits.relocations, waits.registers)
noted = []
before = held()
for flags in (0, CLONE_VM):
    for _ in starve(lambda: _native.spawn(*parts, flags, -1, noted)):
        while noted:
            pid, pidfd, program = noted.pop()
            os.kill(pid, 9)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            _native.settle(program)
            os.close(pidfd)
        try:
            found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        else:
            raise SystemExit(f"there is a child that nobody knows of: {found}")
        assert held() == before, {*held()} ^ {*before}
# nor is any start under way still, in whose time this process is not marked as what it was
ends = assemble([Step("setresuid", 1, 1, 1), Step("exit_group", 0)] if os.geteuid() == 0 else [])
_native.spawn(ends.records, ends.arena, ends.relocations, ends.registers, CLONE_VM | CLONE_VFORK, -1, noted)
assert prctl(PR_GET_DUMPABLE) == 1
"""


def test_a_child_that_cannot_be_noted_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi", reason="this Python has no way to be starved")
    done = isolated(STARVED + CHILDREN, tmp_path)
    assert done.returncode == 0, done.stderr


DESCRIPTORS = """
numbers = [*range(3)] * 10
low = [os.dup(0) for _ in range(300)]  # Python has the small numbers ready
told = [None]  # where nothing is needed to keep what was told

def close():
    opened, told[0] = told[0], None
    for fd in opened or ():
        os.close(fd)

def pair():
    told[0] = _native.socketpair(socket.SOCK_STREAM)

before = held()
for _ in starve(pair):
    close()
    assert held() == before, {*held()} ^ {*before}

ours, theirs = socket.socketpair()
theirs.setblocking(False)
number, before = theirs.fileno(), held()

def take():
    told[0] = _native.receive(number, 30)

for _ in starve(take):
    told[0] = told[0] and told[0][0]
    close()
    try:
        theirs.recv(100)
    except BlockingIOError:
        pass
    assert held() == before, {*held()} ^ {*before}
    socket.send_fds(ours, [b"x"], numbers)
"""


def test_descriptors_that_cannot_be_told_are_closed(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi", reason="this Python has no way to be starved")
    done = isolated(STARVED + DESCRIPTORS, tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_is_no_argument_is_said(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "file").mkdir()
    try:
        with pytest.raises(TypeError, match="the system call number must be an int"):
            native.syscall(None, here, bytearray(1), 1)
        for names in ([b"file\0more"], [b"file", b"file\0more"]):
            with pytest.raises(ValueError, match="null"):
                survey.survey(here, names, (b".",))
            with pytest.raises(ValueError, match="null"):
                descriptors.locked(here, names, b".")
        with pytest.raises(ValueError, match="null"):
            survey.survey(here, [b"file"], (b".\0",))
        with pytest.raises(ValueError, match="null"):
            descriptors.locked(here, [b"file"], b".\0")
        with pytest.raises(OverflowError):
            native.flush([1 << 32])
        with pytest.raises(ValueError, match="malformed"):
            native.walk(b"", b"", b"\0\0\0", b"")
    finally:
        os.close(here)
