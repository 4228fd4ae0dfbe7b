"""What a thread passes on to its children that /proc does not show: how it is scheduled, where its memory is, what it
emulates. The calling thread's own.

Names, arguments and their order are the manual pages'. All raise KernelError.
"""

from __future__ import annotations

from lamina.linux.call import syscall

# linux/ioprio.h, linux/personality.h
IOPRIO_WHO_PROCESS = 1
_ASK = 0xFFFFFFFF
# struct sched_attr, with the clamps of 5.3: size, policy, flags, nice, priority, runtime, deadline, period, and these
_SCHED_ATTR = 56
_NODES = 1024  # the most that a kernel is built for


def sched_getattr(pid: int = 0, flags: int = 0) -> bytes:
    """The struct sched_attr of the thread *pid*, 0 for the caller. sched_setattr(2)."""
    found = bytearray(_SCHED_ATTR)
    syscall("sched_getattr", pid, found, _SCHED_ATTR, flags)
    return bytes(found)


def ioprio_get(which: int = IOPRIO_WHO_PROCESS, who: int = 0) -> int:
    """The priority of input and output: a class in the upper bits, and a level. ioprio_set(2)."""
    return syscall("ioprio_get", which, who)


def personality() -> int:
    """The execution domain and its flags, unchanged. personality(2)."""
    return syscall("personality", _ASK)


def get_mempolicy() -> tuple[bytes, bytes]:
    """The policy by which the thread gets memory, and its nodes. get_mempolicy(2); ENOSYS without NUMA."""
    mode, nodes = bytearray(4), bytearray(_NODES // 8)
    syscall("get_mempolicy", mode, nodes, _NODES, None, 0)
    return bytes(mode), bytes(nodes)
