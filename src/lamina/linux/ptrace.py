"""ptrace(2), as far as it takes to have another thread make one system call. x86-64; all raise KernelError.

Whoever seizes a thread is the only one who may make the other calls for it: this thread, not this process. A thread
that is seized goes on by itself when its tracer ends.
"""

from __future__ import annotations

import os
import struct

from lamina.linux._door import address
from lamina.linux.call import syscall

# linux/ptrace.h
PTRACE_CONT, PTRACE_DETACH, PTRACE_SYSCALL = 7, 17, 24
PTRACE_GETREGSET, PTRACE_SETREGSET = 0x4204, 0x4205
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
PTRACE_GETSIGMASK, PTRACE_SETSIGMASK = 0x420A, 0x420B
PTRACE_GET_RSEQ_CONFIGURATION, PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG = 0x420F, 0x4211
PTRACE_O_TRACESYSGOOD, PTRACE_O_SUSPEND_SECCOMP = 1, 1 << 21
PTRACE_EVENT_STOP = 128
NT_PRSTATUS = 1
_IOVEC = struct.Struct("=QQ")
_RSEQ = struct.Struct("=QIIII")  # struct ptrace_rseq_configuration: pointer, size, signature, flags, pad
_DISPATCH = struct.Struct("=QQQQ")  # struct ptrace_sud_config: mode, selector, offset, len
WALL, WNOTHREAD = 0x40000000, 0x20000000  # linux/wait.h: __WALL, __WNOTHREAD


def seize(tid: int, options: int = 0) -> None:
    """Become the tracer of the thread *tid*, which goes on. *options*: PTRACE_O_*. PTRACE_SEIZE, since Linux 3.4.

    EPERM where it is traced already, or not ours to trace.
    """
    syscall("ptrace", PTRACE_SEIZE, tid, 0, options, target=f"seize thread {tid}")


def interrupt(tid: int) -> None:
    """Have it stop: PTRACE_EVENT_STOP. PTRACE_INTERRUPT."""
    syscall("ptrace", PTRACE_INTERRUPT, tid, 0, 0, target=f"interrupt thread {tid}")


def resume(tid: int, request: int, signal: int = 0) -> None:
    """Have it go on: PTRACE_CONT, PTRACE_SYSCALL (up to where a system call begins or ends), PTRACE_DETACH."""
    syscall("ptrace", request, tid, 0, signal, target=f"resume thread {tid}")


def registers(tid: int) -> bytes:
    """The general registers, struct user_regs_struct; shorter for a program of 32 bits. PTRACE_GETREGSET."""
    buffer = bytearray(512)
    vector = bytearray(_IOVEC.pack(address(buffer), len(buffer)))
    syscall("ptrace", PTRACE_GETREGSET, tid, NT_PRSTATUS, vector, target=f"registers of thread {tid}")
    return bytes(buffer[: _IOVEC.unpack(vector)[1]])


def set_registers(tid: int, registers: bytes) -> None:
    """Set them all. PTRACE_SETREGSET."""
    buffer = bytearray(registers)
    vector = bytearray(_IOVEC.pack(address(buffer), len(buffer)))
    syscall("ptrace", PTRACE_SETREGSET, tid, NT_PRSTATUS, vector, target=f"registers of thread {tid}")


def blocked_signals(tid: int) -> int:
    """Bit n - 1 for each signal n that it blocks. PTRACE_GETSIGMASK, since Linux 3.11."""
    mask = bytearray(8)
    syscall("ptrace", PTRACE_GETSIGMASK, tid, len(mask), mask, target=f"signals of thread {tid}")
    return int.from_bytes(mask, "little")


def block_signals(tid: int, mask: int) -> None:
    """Set which it blocks. PTRACE_SETSIGMASK."""
    packed = mask.to_bytes(8, "little")
    syscall("ptrace", PTRACE_SETSIGMASK, tid, len(packed), packed, target=f"signals of thread {tid}")


def restartable_area(tid: int) -> int:
    """Where in its memory its struct rseq is (linux/rseq.h), 0 where it has none. PTRACE_GET_RSEQ_CONFIGURATION, since
    Linux 5.13; EIO before.
    """
    found = bytearray(_RSEQ.size)
    syscall("ptrace", PTRACE_GET_RSEQ_CONFIGURATION, tid, len(found), found, target=f"rseq of thread {tid}")
    return int(_RSEQ.unpack(found)[0])


def dispatches(tid: int) -> bool:
    """Whether its system calls are signals to it, for now or always: prctl(PR_SET_SYSCALL_USER_DISPATCH).
    PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, since Linux 6.4; EIO before.
    """
    found = bytearray(_DISPATCH.size)
    request = PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
    syscall("ptrace", request, tid, len(found), found, target=f"dispatch of thread {tid}")
    return bool(_DISPATCH.unpack(found)[0])


def stopped(tid: int) -> int | None:
    """The status of wait(2) of a thread that this one traces, once it has stopped or ended; None where it has not.

    Raises ChildProcessError where there is no such thread.
    """
    found, status = os.waitpid(tid, WALL | WNOTHREAD | os.WNOHANG)
    return status if found else None
