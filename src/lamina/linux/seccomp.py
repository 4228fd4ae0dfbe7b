"""seccomp(2): installing a filter, and what the kernel offers. All raise KernelError. Compiling is not done here."""

from __future__ import annotations

import struct
from errno import EFAULT, EINVAL, EOPNOTSUPP

from lamina.errors import KernelError
from lamina.linux.call import syscall
from lamina.linux.constants import (
    PR_GET_SECCOMP,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    SECCOMP_GET_ACTION_AVAIL,
    SECCOMP_GET_NOTIF_SIZES,
    SECCOMP_SET_MODE_FILTER,
)
from lamina.linux.fd import Fd

SOCK_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
SOCK_FPROG = struct.Struct("@HP")  # struct sock_fprog: len, filter
NOTIF_SIZES = struct.Struct("=3H")  # struct seccomp_notif_sizes: notif, response, data
_ACTION = struct.Struct("=I")


def set_mode_filter(program: bytes, flags: int = 0) -> Fd | None:
    """Install a BPF *program* (packed SOCK_FILTER) on the calling thread, for good. seccomp(2).

    *flags*: SECCOMP_FILTER_FLAG_*; with NEW_LISTENER the descriptor for user notifications is returned.
    EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL for a malformed program.
    Raises ValueError if *program* is no whole number of instructions, or none.
    """
    if not program or len(program) % SOCK_FILTER.size:
        raise ValueError("seccomp: the program is no list of instructions")
    from lamina.linux._door import address

    buffer = bytearray(program)
    prog = SOCK_FPROG.pack(len(program) // SOCK_FILTER.size, address(buffer))
    result = syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, prog, target="SECCOMP_SET_MODE_FILTER")
    return Fd(result) if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER else None


def get_action_avail(action: int) -> bool:
    """Whether the kernel knows a filter's return value SECCOMP_RET_*. seccomp(2), since Linux 4.14."""
    try:
        syscall("seccomp", SECCOMP_GET_ACTION_AVAIL, 0, bytearray(_ACTION.pack(action)))
    except KernelError as error:
        if error.errno != EOPNOTSUPP:
            raise
        return False
    return True


def has_filter_flag(flag: int) -> bool:
    """Whether the kernel knows SECCOMP_FILTER_FLAG_*: it looks at the flags before it reads the filter, here none.
    seccomp(2), since Linux 3.17.
    """
    if flag == SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV:
        flag |= SECCOMP_FILTER_FLAG_NEW_LISTENER  # has no meaning without
    try:
        syscall("seccomp", SECCOMP_SET_MODE_FILTER, flag, None, target="SECCOMP_SET_MODE_FILTER")
    except KernelError as error:
        if error.errno not in (EFAULT, EINVAL):
            raise
        return error.errno == EFAULT
    raise AssertionError("seccomp(2) has read a filter at address 0")


def get_notif_sizes() -> tuple[int, int, int]:
    """The sizes of the kernel's seccomp_notif, seccomp_notif_resp and seccomp_data. seccomp(2), since Linux 5.0."""
    buffer = bytearray(NOTIF_SIZES.size)
    syscall("seccomp", SECCOMP_GET_NOTIF_SIZES, 0, buffer, target="SECCOMP_GET_NOTIF_SIZES")
    notif, response, data = NOTIF_SIZES.unpack(buffer)
    return notif, response, data


def get_seccomp_mode() -> int:
    """The calling thread's mode: 0 none, 2 filtered (one in strict mode does not live to tell). prctl(2)."""
    return syscall("prctl", PR_GET_SECCOMP, 0, 0, 0, 0, target="PR_GET_SECCOMP")
