"""The working directory of other processes, changed from outside: for those of a container whose root was replaced.

The kernel moves who is at the root itself; who is in a directory below stays in that of the old root. Such a process is
made to call chdir(2) with the path where it is: it is stopped as a debugger stops it (ptrace(2)) before it goes on in
the new root, and goes on as if nothing had been. Whatever is odd about a process is found out before the root is
replaced: then it is none that can be moved.

x86-64 alone. The call is made by the instruction that the vDSO has for it; nothing of the program is changed but some
bytes below its stack pointer, for that moment, where the path is. Its signals wait, and the filter of system calls that
it may have is not asked (PTRACE_O_SUSPEND_SECCOMP, which takes root).

Sources: ptrace(2), vdso(7), signal(7); the System V ABI of x86-64 (the red zone); arch/x86/kernel/signal.c, which
restarts a system call that was interrupted once the thread goes on.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from errno import EINVAL, EIO, ENOENT, EPERM, ESRCH
from stat import S_IXGRP, S_IXOTH, S_IXUSR

from lamina.errors import KernelError, TimeoutExpired
from lamina.linux.constants import AT_FDCWD, AT_STATX_DONT_SYNC, STATX_MNT_ID
from lamina.linux.fd import Fd
from lamina.linux.files import statx
from lamina.linux.numbers import number
from lamina.linux.ptrace import (
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_EVENT_STOP,
    PTRACE_O_SUSPEND_SECCOMP,
    PTRACE_O_TRACESYSGOOD,
    PTRACE_SYSCALL,
    block_signals,
    blocked_signals,
    dispatches,
    interrupt,
    registers,
    restartable_area,
    resume,
    seize,
    set_registers,
    stopped,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.runtime.holders import Directory

ENDED = (ENOENT, ESRCH)
SIGTRAP, SYSCALL_STOP = 5, 5 | 0x80
PATIENCE = 2.0  # seconds for a thread to stop, which takes microseconds
RED_ZONE = 128
# struct user_regs_struct of x86-64: r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags
# rsp ss fs_base gs_base ds es fs gs
REGISTERS = struct.Struct("=27Q")
_RAX, _RDI, _ORIG_RAX, _RIP, _CS, _RSP = 10, 14, 15, 16, 17, 19
_USER_64 = 0x33  # __USER_CS
_SYSCALL = b"\x0f\x05"
_AT_SYSINFO_EHDR = 33
_DAC = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
_LONGEST_PATH = 4000
_CLONE_VFORK = 0x4000
_ALL_SIGNALS = (1 << 64) - 1
_NONE = (1 << 64) - 1
# struct rseq_cs: version flags start_ip post_commit_offset abort_ip; where struct rseq says which it is in
_SEQUENCE, _RSEQ_CS = struct.Struct("=IIQQQ"), 8
_USERS = (
    1 << 47
)  # addresses of programs are below; those of some, with 57 bits, are above: there none has its code
_HIGHEST = (1 << 63) - 1  # of what lseek(2) and pread(2) take; registers have what the program likes


def is_possible() -> bool:
    """Whether this machine is one that this is written for."""
    return os.uname().machine == "x86_64"


def why_not(one: Directory) -> str:
    """What is odd about the process; "" where it can be moved. Raises OSError when it is gone."""
    with open(f"/proc/{one.pid}/task/{one.tid}/status", "rb", buffering=0) as file:
        text = file.read(1 << 14)
    status = dict(line.split(b":\t", 1) for line in text.splitlines() if b":\t" in line)
    if int(status[b"TracerPid"]):
        return "it is being traced"
    if status[b"State"][:1] in b"Tt":
        return "it is stopped"
    if any(_waits_for_a_child(int(tid)) for tid in os.listdir(f"/proc/{one.pid}/task")):
        return "it waits for its child to begin"
    if len(one.path) > _LONGEST_PATH or not one.path.startswith(b"/"):
        return "its path is too long, or has no beginning"
    if not _may_enter(status, one):
        return "it could not enter that directory again"
    return "" if _gate(one.tid) else "it has no vDSO"


def _waits_for_a_child(tid: int) -> bool:
    """Whether it is in a vfork(2), where nothing but its end stops it before the child has executed something."""
    try:
        with open(f"/proc/{tid}/syscall", "rb", buffering=0) as file:
            words = file.read(256).split()
    except OSError as error:
        if error.errno not in ENDED:
            raise
        return False
    call = int(words[0]) if words[0].isdigit() else -1
    if call == number("clone3"):
        where = int(words[1], 16)
        if where > _HIGHEST:  # nothing is there: the call fails at once, but who can say what comes next
            return True
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
            memory.seek(where)
            return bool(int.from_bytes(memory.read(8), "little") & _CLONE_VFORK)
    return call == number("vfork") or (call == number("clone") and bool(int(words[1], 16) & _CLONE_VFORK))


def _may_enter(status: dict[bytes, bytes], one: Directory) -> bool:
    """Whether its user may go the whole way, as far as can be told from here: without ACLs, and security modules."""
    if int(status[b"CapEff"], 16) & _DAC:
        return True
    uid, gid = int(status[b"Uid"].split()[3]), int(status[b"Gid"].split()[3])
    groups = {gid, *map(int, status[b"Groups"].split())}
    path = b""
    for name in one.path.split(b"/"):
        path += b"/" + name if name else b""
        there = os.lstat(b"/proc/%d/root%s" % (one.tid, path or b"/."))
        bit = S_IXUSR if there.st_uid == uid else S_IXGRP if there.st_gid in groups else S_IXOTH
        if not there.st_mode & bit or (
            bit != S_IXOTH and not there.st_mode & S_IXOTH and _has_acl(one.tid, path)
        ):
            return False
    return True


def _has_acl(tid: int, path: bytes) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(b"/proc/%d/root%s" % (tid, path or b"/."))
    except OSError:
        return True


def _gate(tid: int) -> int:
    """Where in its memory there is an instruction for a system call that is the kernel's own; 0 for nowhere."""
    with open(f"/proc/{tid}/auxv", "rb", buffering=0) as file:
        words = file.read(4096)
    for key, where in struct.iter_unpack("=QQ", words[: len(words) // 16 * 16]):
        if key == _AT_SYSINFO_EHDR:
            with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
                try:
                    memory.seek(where)
                    code = memory.read(1 << 13)
                except (OSError, ValueError, OverflowError):
                    return 0
            found = code.find(_SYSCALL) if code[:4] == b"\x7fELF" else -1
            return where + found if found > 0 else 0
    return 0


def _known(ask: Callable[[int], int], tid: int) -> int:
    """What *ask* says of the thread; 0 where this kernel does not tell, or does not have it."""
    try:
        return ask(tid)
    except KernelError as error:
        if error.errno not in (EINVAL, EIO):
            raise
        return 0


def _aborted(memory: int, area: int, at: int) -> int:
    """Where a thread goes on that was interrupted *at*: in the midst of a restartable sequence (rseq(2)) where that is
    aborted. The kernel, which does that for whoever has been interrupted, finds it outside of the sequence instead, at
    our system call, and forgets that it was in one. *area* is its struct rseq, 0 without one. What is there is the
    program's own affair: it may as well jump there itself.
    """
    try:
        (sequence,) = struct.unpack("=Q", os.pread(memory, 8, area + _RSEQ_CS)) if 0 < area < _USERS else (0,)
        found = os.pread(memory, _SEQUENCE.size, sequence) if 0 < sequence < _USERS else b""
    except (OSError, struct.error):  # nothing is there: the kernel ends it for that, but not on our account
        return at
    if len(found) != _SEQUENCE.size:
        return at
    _, _, start, length, abort = _SEQUENCE.unpack(found)
    return abort if start <= at < start + length and abort < _USERS else at


class Moving:
    """One process, from when it stands still until it goes on in its directory, now of the new root.

    All of this in one thread. Raises KernelError where it cannot be traced, ProcessLookupError where it has ended and
    its pid is another one's: a number cannot change hands once its process was seized. *plain*: the only filter of
    system calls that it has lets it change its directory, so it may be asked where we may not suspend it.
    """

    def __init__(self, one: Directory, *, plain: bool) -> None:
        self.one = one
        self._plain = plain
        self._seized: list[int] = []
        self._stopped: set[int] = set()
        self._end = 0.0  # until when its threads may take to stop, all of them together
        try:
            for name in os.listdir(f"/proc/{one.pid}/task"):
                self._have_stop(int(name))
            if one.tid not in self._seized:
                raise ProcessLookupError(ESRCH, os.strerror(ESRCH))
        except BaseException:
            self.let_go()
            raise

    def _have_stop(self, tid: int) -> None:
        """One that has ended is left out: the first one stays, as a zombie, as long as there are others."""
        try:
            self._seize(tid)
        except KernelError:
            if self._space_of(tid):
                raise
            return
        self._seized.append(tid)
        if self._space_of(tid) not in (self.one.space, 0):
            raise ProcessLookupError(ESRCH, os.strerror(ESRCH))
        try:
            interrupt(tid)
        except KernelError as error:
            if error.errno != ESRCH:  # it ends: which waiting for it will say
                raise

    def _space_of(self, tid: int) -> int:
        """Its mount namespace, as Directory has it; 0 where it has ended."""
        try:
            return os.stat(f"/proc/{self.one.pid}/task/{tid}/ns/mnt").st_ino
        except OSError as error:
            if error.errno not in ENDED:
                raise
            return 0

    def _seize(self, tid: int) -> None:
        try:
            seize(tid, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP)
        except KernelError as error:
            if error.errno not in (EPERM, EINVAL) or not self._plain:
                raise
            with open(f"/proc/{self.one.pid}/task/{tid}/status", "rb", buffering=0) as file:
                if b"\nSeccomp_filters:\t1\n" not in file.read(1 << 14):
                    raise
            seize(tid, PTRACE_O_TRACESYSGOOD)

    def move(self) -> str:
        """Have it change its directory, once nothing else holds it, and go on; why not, or "" when it did."""
        try:
            for tid in [*self._seized]:
                self._await_any(tid)
            return self._change() if self._is_there() else ""
        except (OSError, TimeoutExpired) as error:
            return "it has ended" if isinstance(error, ProcessLookupError | ChildProcessError) else str(error)
        finally:
            self.let_go()

    def _await_any(self, tid: int) -> None:
        """Those that end instead, but for the one that is to make the call, are out of it."""
        try:
            self._await(tid)
        except (ProcessLookupError, ChildProcessError):
            if tid == self.one.tid:
                raise
            self._seized.remove(tid)

    def let_go(self) -> None:
        """It goes on. One that has not stopped yet is waited for: only then it can be let go."""
        self._end = 0.0
        for tid in self._seized:
            try:
                self._halt(tid)
                resume(tid, PTRACE_DETACH)
            except TimeoutExpired:
                continue  # it goes on when this thread ends
            except OSError:  # it has ended, of which somebody else hears when we have
                with suppress(OSError):
                    stopped(tid)
        self._seized, self._stopped = [], set()

    def _is_there(self) -> bool:
        """Whether it still is in that directory: one that ran meanwhile may have left by itself."""
        link = f"/proc/{self.one.pid}/task/{self.one.tid}/cwd"
        return statx(AT_FDCWD, link, AT_STATX_DONT_SYNC, STATX_MNT_ID).mnt_id == self.one.mount

    def _change(self) -> str:
        tid, text = self.one.tid, self.one.path + b"\0"
        before, mask, gate = registers(tid), blocked_signals(tid), _gate(tid)
        values = list(REGISTERS.unpack(before)) if len(before) == REGISTERS.size else []
        if not values or values[_CS] != _USER_64 or not gate:
            return "it executes code of 32 bits"
        if _known(dispatches, tid):
            return "it answers its own system calls"
        place = (values[_RSP] - RED_ZONE - len(text)) & ~15
        if not 0 <= place <= _HIGHEST:
            return "there is no room below its stack"
        with Fd(os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)) as memory:
            there = os.pread(memory, len(text), place)
            if len(there) != len(text):
                return "there is no room below its stack"
            values[_RIP] = _aborted(memory, _known(restartable_area, tid), values[_RIP])
            before = REGISTERS.pack(*values)
            values[_RAX], values[_RDI], values[_ORIG_RAX], values[_RIP] = number("chdir"), place, _NONE, gate
            os.pwrite(memory, text, place)
            try:
                block_signals(tid, _ALL_SIGNALS)
                set_registers(tid, REGISTERS.pack(*values))
                self._go_to(tid, PTRACE_SYSCALL, SYSCALL_STOP)
                odd = self._is_another(tid, place)
                self._go_to(tid, PTRACE_SYSCALL, SYSCALL_STOP)
                result: int = REGISTERS.unpack(registers(tid))[_RAX]
            finally:
                self._end = 0.0
                self._halt(tid)
                os.pwrite(memory, there, place)
                set_registers(tid, before)
                block_signals(tid, mask)
        # once more through where signals are delivered: there an interrupted system call is begun again
        interrupt(tid)
        self._go_to(tid, PTRACE_CONT, SIGTRAP | PTRACE_EVENT_STOP << 8)
        if odd:
            return "it makes another system call than it was to"
        return os.strerror(-result + _NONE + 1) if result > _NONE - 4096 else ""

    def _is_another(self, tid: int, place: int) -> bool:
        """Whether the system call that it is about to make is not ours; then it makes none.

        What is where the vDSO was may be the program's own, in memory that others of it change just now, and its filter
        of system calls is not asked.
        """
        found = list(REGISTERS.unpack(registers(tid)))
        if (found[_ORIG_RAX], found[_RDI], found[_CS]) == (number("chdir"), place, _USER_64):
            return False
        found[_ORIG_RAX] = _NONE
        set_registers(tid, REGISTERS.pack(*found))
        return True

    def _halt(self, tid: int) -> None:
        """It stands still, wherever it has come to."""
        if tid not in self._stopped:
            interrupt(tid)
            self._await(tid)

    def _go_to(self, tid: int, request: int, wanted: int) -> None:
        """Have it go on until it stops as *wanted*; passed over is that somebody stops all of its process."""
        while True:
            self._stopped.discard(tid)
            resume(tid, request)
            if self._await(tid) >> 8 == wanted:
                return

    def _await(self, tid: int) -> int:
        """Its status once it has stopped. Raises ProcessLookupError where it has ended, TimeoutExpired."""
        pause = 0.0
        self._end = self._end or time.monotonic() + PATIENCE
        while (status := stopped(tid)) is None:
            if time.monotonic() > self._end:
                raise TimeoutExpired(f"thread {tid} does not stop")
            time.sleep(pause)
            pause = min(pause + 0.00002, 0.001)
        if not os.WIFSTOPPED(status):
            raise ProcessLookupError(ESRCH, os.strerror(ESRCH))
        self._stopped.add(tid)
        return status
