"""The walker of _native.c in Python: the reference it is tested against, and the fallback where it was not compiled.

It differs in two ways. The child of `spawn` has a copy of the caller's memory instead of sharing it (CLONE_VM is left
out: an interpreter cannot share its memory with another one), so a start costs more the larger the caller is. And it
runs Python between clone and exec, under the interpreter's own fork protocol: `os.register_at_fork` hooks are called.
"""

from __future__ import annotations

import _socket
import ctypes
import mmap
import os
import select
import signal
import struct
import warnings
from errno import EAGAIN, EINVAL, ETIMEDOUT
from itertools import starmap

from lamina.linux._descriptors import patient
from lamina.linux.constants import (
    CLONE_CLEAR_SIGHAND,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_PARENT,
    CLONE_PIDFD,
    CLONE_VM,
    PR_SET_DUMPABLE,
)
from lamina.linux.numbers import number

RECORD = struct.Struct("=q6Q6sBxqQQHHiq")
IN_ARENA, REGISTER = 1, 2
EXIT_STEP_FAILED = 126
LOOK, LOOKS = 0.5, 20  # seconds between looks at a helper; how often it may be found stopped
MOST_TRIES = 1000  # of an openat2(2) that says EAGAIN
# struct clone_args (clone3(2)): flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid
# set_tid_size cgroup
CLONE_ARGS = struct.Struct("=11Q")
REPORT = struct.Struct("=ii")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# PyDLL: the walk is one call after the other, nothing is gained by giving the interpreter's lock away in between
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_c_long = ctypes.c_long
OPENAT2 = number("openat2")


class _Loaded:
    """A program in memory that a child shares with us: the report, then the records, then the arena."""

    def __init__(self, steps: bytes, arena: bytes, relocations: bytes, registers: bytes) -> None:
        if len(steps) % RECORD.size or len(registers) % 8:
            raise ValueError("malformed program")
        self.count = len(steps) // RECORD.size
        self.values = list(struct.unpack(f"{len(registers) // 8}q", registers))
        self.memory = mmap.mmap(-1, 64 + len(steps) + 16 + len(arena) + 1)
        self.memory[64 : 64 + len(steps)] = steps
        self.memory[0 : REPORT.size] = REPORT.pack(-1, 0)
        start = (64 + len(steps) + 15) & ~15
        self.memory[start : start + len(arena)] = arena
        self.arena = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + start
        for (offset,) in struct.iter_unpack("I", relocations):
            if offset + 8 > len(arena):
                raise ValueError("malformed program")
            at = start + offset
            (pointer,) = struct.unpack_from("Q", self.memory, at)
            struct.pack_into("Q", self.memory, at, pointer + self.arena)
        self._check(len(arena), len(self.values))

    def _check(self, arena: int, registers: int) -> None:
        for i in range(self.count):
            record = self.record(i)
            if record[-2] >= registers:
                raise ValueError("malformed program")
            for kind, value in zip(record[7], record[1:7], strict=True):
                if (kind == REGISTER and value >= registers) or (kind == IN_ARENA and value > arena):
                    raise ValueError("malformed program")

    def record(self, i: int) -> tuple[Any, ...]:
        return RECORD.unpack_from(self.memory, 64 + i * RECORD.size)

    def argument(self, kind: int, value: int) -> int:
        if kind == IN_ARENA:
            return self.arena + value
        return self.values[value] if kind == REGISTER else value

    def fail(self, index: int, errno: int) -> bool:
        self.memory[0 : REPORT.size] = REPORT.pack(index, errno)
        return False

    def walk(self) -> bool:
        i = 0
        while i < self.count:
            record = self.record(i)
            kinds: bytes = record[7]
            want, tolerated, skip, leap, save = record[9], record[10] | record[11] << 64, *record[12:15]
            arguments = [_c_long(self.argument(k, v)) for k, v in zip(kinds, record[1:7], strict=True)]
            for _ in range(MOST_TRIES):
                result = _syscall(_c_long(record[0]), *arguments)
                errno = ctypes.get_errno() if result == -1 else 0
                if errno != EAGAIN or record[0] != OPENAT2:
                    break
            struct.pack_into("=q", self.memory, 64 + (i + 1) * RECORD.size - 8, -errno if errno else result)
            if errno:
                if not (errno < 128 and tolerated >> errno & 1):
                    return self.fail(i, errno)
                i += skip + 1
                continue
            if record[8] and result != want:
                return self.fail(i, 0)
            if save >= 0:
                self.values[save] = result
            i += leap + 1
        return True

    def report(self) -> tuple[int, int, bytes]:
        failed, errno = REPORT.unpack_from(self.memory)
        return failed, errno, self.memory[64 : 64 + self.count * RECORD.size]


def walk(steps: bytes, arena: bytes, relocations: bytes, registers: bytes) -> tuple[int, int, bytes]:
    """As _native.walk: the failing step or -1, its errno, and the steps with their results."""
    loaded = _Loaded(steps, arena, relocations, registers)
    loaded.walk()
    return loaded.report()


def spawn(
    steps: bytes,
    arena: bytes,
    relocations: bytes,
    registers: bytes,
    flags: int,
    cgroup: int,
    noted: list[tuple[int, int, object]],
    enter: tuple[tuple[int, int], ...] = (),
) -> None:
    """As _native.spawn, but always with a copy of the memory: CLONE_VM in *flags* has no effect.

    *enter* are namespaces (descriptor, CLONE_NEW*) that the helper below joins before it clones: with one thread and
    memory of its own it may join those that nobody else may. Its child cannot be traced by those who are there already.

    clone3 from Python is only safe with one thread: another one's wish for the interpreter's lock, copied into the
    child, is waited for there for ever. So a fork, which the interpreter protects, makes the call and hands its child
    over to us (CLONE_PARENT), and sends a descriptor of it: by its number alone it might be somebody else, where this
    program waits for any child, or lets the kernel reap.
    """
    loaded = _Loaded(steps, arena, relocations, registers)
    flags = flags & ~CLONE_VM | CLONE_PARENT | CLONE_PIDFD | CLONE_CLEAR_SIGHAND
    pidfd = ctypes.c_int(-1)  # the helper's
    clone = CLONE_ARGS.pack(
        flags, ctypes.addressof(pidfd), 0, 0, 0, 0, 0, 0, 0, 0, cgroup if cgroup >= 0 else 0
    )
    answer = mmap.mmap(-1, REPORT.size)
    # until it is noted: a signal handler of the program, which may raise, runs where they are let through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        noted.append((*_hand_over(clone, loaded, answer, enter, pidfd), loaded))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hand_over(
    clone: bytes,
    loaded: _Loaded,
    answer: mmap.mmap,
    enter: tuple[tuple[int, int], ...],
    pidfd: ctypes.c_int,
) -> tuple[int, int]:
    """(pid, pidfd) of the process that a fork makes for us. Whatever is raised, also by a handler of a signal that came
    to another thread: then it is not there. Raises OSError.
    """
    ours, theirs = map(
        patient, _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
    )
    forked: list[int] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            forked.extend(starmap(os.fork, ((),)))  # there, whatever a handler raises then (fd.owned)
        if not forked[0]:
            _clone_and_walk(clone, loaded, answer, enter, pidfd, theirs)
        _await(forked[0])
        pid, errno = REPORT.unpack(answer)
        if errno or (given := _given(ours)) < 0:
            raise OSError(errno or EINVAL, f"clone3: {os.strerror(errno or EINVAL)}")
        return pid, given
    except BaseException:
        for helper in forked:
            _give_up(helper, ours)
        raise
    finally:
        ours.close()
        theirs.close()


def _give_up(helper: int, ours: _socket.socket) -> None:
    """End the helper, if it has not been waited for, and what it has made: nobody would know of it."""
    try:
        os.waitid(os.P_PID, helper, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # whether it is ours still
        os.kill(helper, signal.SIGKILL)
        os.waitid(os.P_PID, helper, os.WEXITED)
    except (ChildProcessError, ProcessLookupError):
        pass
    if (born := _given(ours)) >= 0:
        try:
            signal.pidfd_send_signal(born, signal.SIGKILL)
            os.waitid(os.P_PIDFD, born, os.WEXITED)
        except (ChildProcessError, ProcessLookupError):
            pass
        os.close(born)


def _given(ours: _socket.socket) -> int:
    """The descriptor that the helper has sent, -1 for none."""
    try:
        _, parts, _, _ = ours.recvmsg(
            1, _socket.CMSG_SPACE(4), _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        return -1
    return struct.unpack("=i", parts[0][2])[0] if parts else -1


def _await(helper: int) -> None:
    """Reap the helper. Whoever is in a namespace that it joins may stop it: then it is told to go on, and killed when
    that has been so LOOKS times. Raises OSError (ETIMEDOUT).
    """
    try:
        pidfd = os.pidfd_open(helper)
    except ProcessLookupError:
        return  # somebody waits for any child, or ignores SIGCHLD; it has ended all the same
    stopped = 0
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while not poll.poll(LOOK * 1000):
            if not _is_stopped(helper):
                continue
            stopped += 1
            signal.pidfd_send_signal(pidfd, signal.SIGCONT if stopped < LOOKS else signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except (ChildProcessError, ProcessLookupError):
        pass
    finally:
        os.close(pidfd)
    if stopped >= LOOKS:
        raise OSError(ETIMEDOUT, "join namespaces: a process in one of them keeps the helper stopped")


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(512).rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False


def _clone_and_walk(
    clone: bytes,
    loaded: _Loaded,
    answer: mmap.mmap,
    enter: tuple[tuple[int, int], ...],
    pidfd: ctypes.c_int,
    theirs: _socket.socket,
) -> NoReturn:
    """In the fork: clone, and tell the caller the new process's number; in the clone: walk."""
    try:
        if any(kind & (CLONE_NEWPID | CLONE_NEWUSER) for _, kind in enter):
            # what it has in memory is the caller's, and there may be somebody who could trace it (ptrace(2))
            _syscall(_c_long(number("prctl")), _c_long(PR_SET_DUMPABLE), _c_long(0))
        for fd, kind in enter:
            if _syscall(_c_long(number("setns")), _c_long(fd), _c_long(kind)):
                answer[:] = REPORT.pack(0, ctypes.get_errno())
                os._exit(0)
        pid = _syscall(_c_long(number("clone3")), ctypes.c_char_p(clone), _c_long(len(clone)))
        if pid:
            answer[:] = REPORT.pack(max(pid, 0), ctypes.get_errno() if pid < 0 else 0)
            if pid > 0:
                number_ = struct.pack("=i", pidfd.value)
                theirs.sendmsg([b"p"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, number_)])
            os._exit(0)
        _forget_signals()
        os._exit(0 if loaded.walk() else EXIT_STEP_FAILED)
    except BaseException:
        loaded.fail(0, EINVAL)
        os._exit(EXIT_STEP_FAILED)


def _forget_signals() -> None:
    """As in _native.c: CLONE_CLEAR_SIGHAND leaves ignored signals ignored, and Python ignores two."""
    standard = bytes(32)
    for number_ in range(1, 65):
        if number_ not in (signal.SIGKILL, signal.SIGSTOP):
            _syscall(
                _c_long(number("rt_sigaction")), _c_long(number_), ctypes.c_char_p(standard), None, _c_long(8)
            )
    _syscall(_c_long(number("rt_sigprocmask")), _c_long(2), ctypes.c_char_p(bytes(8)), None, _c_long(8))


def outcome(loaded: _Loaded) -> tuple[int, int, bytes]:
    """As _native.outcome: what the child has reported so far."""
    return loaded.report()


def settle(loaded: _Loaded) -> None:
    """As _native.settle: nothing, for a child with a copy of our memory changes none of it."""
