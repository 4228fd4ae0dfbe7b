"""Processes by descriptor, and what a process can say about itself: pidfd_*, waitid, close_range, prctl.

Names, arguments and their order are the manual pages'. All raise KernelError.
"""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENOENT, ESRCH

from lamina.errors import KernelError
from lamina.linux.call import opened, syscall
from lamina.linux.constants import (
    CLOSE_RANGE_CLOEXEC,
    PIDFD_GET_INFO,
    PIDFD_INFO_CGROUPID,
    PIDFD_INFO_CREDS,
    PIDFD_INFO_EXIT,
    PIDFD_INFO_PID,
    PIDFD_INFO_SIZE_VER0,
    WEXITED,
    constant_name,
)
from lamina.linux.fd import Fd
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Argument

# struct pidfd_info, first version: mask, cgroupid, pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid,
# exit_code
PIDFD_INFO = struct.Struct("=QQ11Ii")
KCMP_FILES, KCMP_FS = 2, 3  # linux/kcmp.h: descriptors; root, working directory and umask


def pidfd_open(pid: int, flags: int = 0) -> Fd:
    """A descriptor for the process *pid*, readable once it has ended. pidfd_open(2), since Linux 5.3.

    It names this very process for ever, unlike the number. ESRCH when there is none, also where the number is that of
    a thread by now: of one kernels say EINVAL, and ENOENT since Linux 6.9. *flags*: PIDFD_NONBLOCK.
    """
    try:
        return opened("pidfd_open", pid, flags, target=f"process {pid}")  # always close-on-exec
    except KernelError as error:
        if flags or pid <= 0 or error.errno not in (EINVAL, ENOENT):
            raise
        raise KernelError("pidfd_open", ESRCH, f"process {pid}") from None


def pidfd_send_signal(pidfd: int, sig: int, flags: int = 0) -> None:
    """Send a signal to the process behind *pidfd*, never to another one. pidfd_send_signal(2), since Linux 5.1.

    ESRCH when it has ended and was waited for. *flags*: PIDFD_SIGNAL_PROCESS_GROUP and its kin since Linux 6.9.
    """
    syscall("pidfd_send_signal", pidfd, sig, None, flags, target=f"signal {sig}")


def pidfd_getfd(pidfd: int, targetfd: int, flags: int = 0) -> Fd:
    """A duplicate of another process's descriptor. pidfd_getfd(2), since Linux 5.6. EPERM unless we may ptrace it."""
    return opened("pidfd_getfd", pidfd, targetfd, flags, target=f"descriptor {targetfd}")  # close-on-exec


def kcmp(pid1: int, pid2: int, type: int) -> bool:
    """Whether two threads have the resource KCMP_* in common. kcmp(2), since Linux 3.5.

    EPERM unless we may ptrace both, ENOSYS where the kernel was built without.
    """
    return syscall("kcmp", pid1, pid2, type, 0, 0, target=f"threads {pid1} and {pid2}") == 0


@value
class PidfdInfo:
    """What PIDFD_GET_INFO said; a field whose bit (PIDFD_INFO_*) is not in `mask` is 0, `exit_status` None.

    `exit_status` is a status as from waitpid(2): os.waitstatus_to_exitcode() explains it.
    """

    mask: int
    cgroupid: int
    pid: int
    tgid: int
    ppid: int
    ruid: int
    rgid: int
    euid: int
    egid: int
    suid: int
    sgid: int
    fsuid: int
    fsgid: int
    exit_status: int | None


def pidfd_get_info(
    pidfd: int, mask: int = PIDFD_INFO_PID | PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID | PIDFD_INFO_EXIT
) -> PidfdInfo:
    """What the kernel knows of the process behind *pidfd*, its exit status included, also for who is not its parent.

    pidfd_open(2) names the ioctl; since Linux 6.13, the exit status (once the process has been waited for) since
    6.15. ENOTTY on older kernels, ESRCH after the process is gone where there is no exit status to tell.
    """
    buffer = bytearray(PIDFD_INFO_SIZE_VER0)
    struct.pack_into("=Q", buffer, 0, mask)
    syscall("ioctl", pidfd, PIDFD_GET_INFO, buffer, target="PIDFD_GET_INFO")
    fields = list(PIDFD_INFO.unpack(buffer))
    if not fields[0] & PIDFD_INFO_EXIT:
        fields[-1] = None
    return PidfdInfo(*fields)


@value
class Ended:
    """What waitid(2) said of a child. `status` is its exit status if `code` is os.CLD_EXITED, else a signal."""

    pid: int
    uid: int
    code: int
    status: int

    @property
    def returncode(self) -> int:
        """As in subprocess: the exit status, or minus the signal that ended it."""
        return self.status if self.code == os.CLD_EXITED else -self.status


def waitid(idtype: int, id: int, options: int = WEXITED) -> Ended | None:
    """Wait for a child: P_PIDFD and a pidfd, P_PID and a number, P_ALL and 0. waitid(2).

    None with WNOHANG when nothing has happened. ECHILD when it is no child of ours. Unlike the other calls here it
    goes on after a signal was handled.
    """
    try:
        said = os.waitid(idtype, id, options)
    except OSError as error:
        kind = constant_name("P_P", idtype)
        raise KernelError(
            "waitid", error.errno or 0, f"{kind} {int(id)}" if idtype else "any child"
        ) from None
    return None if said is None else Ended(said.si_pid, said.si_uid, said.si_code, said.si_status)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = CLOSE_RANGE_CLOEXEC) -> None:
    """Mark all descriptors from *first* to *last* close-on-exec, or with *flags* 0 close them. close_range(2).

    Since Linux 5.9, CLOSE_RANGE_CLOEXEC since 5.11.
    """
    syscall("close_range", first, last, flags, target=f"{first} to {last}")


def prctl(option: int, arg2: Argument = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Operate on the calling thread or process; what the arguments mean is up to *option* (PR_*). prctl(2).

    *arg2* may be bytes, or a bytearray to be filled in: PR_SET_NAME, PR_GET_NAME.
    """
    return syscall("prctl", option, arg2, arg3, arg4, arg5, target=lambda: constant_name("PR_", option))


def setfsuid(uid: int) -> int:
    """Have the calling thread make and reach files as the user *uid*; whom it did so as before. setfsuid(2).

    It reports no error; a second call with -1 says what is in force. From 0 to another id it takes the capabilities
    over files away, unless SECBIT_NO_SETUID_FIXUP is set.
    """
    return syscall("setfsuid", uid)


def setfsgid(gid: int) -> int:
    """The same of the group. setfsgid(2)."""
    return syscall("setfsgid", gid)
