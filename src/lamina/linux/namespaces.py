"""Namespaces: unshare, setns, clone3, and asking a namespace what it is. namespaces(7).

All raise KernelError.
"""

from __future__ import annotations

import os
import struct

from lamina.linux.call import opened, syscall
from lamina.linux.constants import (
    CLONE_INTO_CGROUP,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    CLONE_PIDFD,
    CLONE_THREAD,
    CLONE_VM,
    NS_GET_MNTNS_ID,
    NS_GET_NSTYPE,
    NS_GET_OWNER_UID,
    NS_GET_PARENT,
    NS_GET_USERNS,
    SIGCHLD,
    flag_names,
)
from lamina.linux.fd import Fd

# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size,
# cgroup
CLONE_ARGS = struct.Struct("=11Q")
PIDFD = struct.Struct("=i")

# the file in /proc/<pid>/ns: the flag that makes such a namespace
NAMESPACES: dict[str, int] = {
    "user": CLONE_NEWUSER,
    "mnt": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "net": CLONE_NEWNET,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (CLONE_NEW*), or undo sharing between threads. unshare(2).

    CLONE_NEWPID and CLONE_NEWTIME concern the children only. EINVAL for CLONE_NEWUSER in a process with threads.
    """
    syscall("unshare", flags, target=lambda: flag_names("CLONE_", flags))


def setns(fd: int, nstype: int = 0) -> None:
    """Move the calling thread into the namespace *fd* (a file of /proc/<pid>/ns). setns(2).

    Since Linux 5.8 *fd* may be a pidfd and *nstype* several CLONE_NEW* flags. EINVAL for the own user namespace.
    """
    syscall("setns", fd, nstype, target=lambda: flag_names("CLONE_", nstype))


def clone3(flags: int = 0, *, exit_signal: int = SIGCHLD, cgroup: int = -1) -> tuple[int, Fd | None]:
    """Fork, with namespaces and a cgroup for the child. clone3(2), since Linux 5.3.

    Returns (0, None) in the child; in the parent its pid and, with CLONE_PIDFD in *flags*, a pidfd. With
    CLONE_INTO_CGROUP (since 5.7) *cgroup* is a descriptor of a cgroup v2 directory (EBADF for a v1 one).

    For processes with one thread only. Neither libc nor the interpreter knows of this fork: with threads, the child
    may find an allocator's lock or the interpreter's own taken for ever. os.getpid() is right in the child, hooks of
    os.register_at_fork() are not run. A program with threads starts processes with `lamina.linux.program`.
    Raises ValueError for flags that share memory (CLONE_VM, CLONE_THREAD), CLONE_INTO_CGROUP without *cgroup*, or when
    there is more than one thread.
    """
    if flags & (CLONE_VM | CLONE_THREAD):
        raise ValueError("clone3: a Python process cannot share its memory with the child")
    if flags & CLONE_INTO_CGROUP and cgroup < 0:
        raise ValueError("clone3: CLONE_INTO_CGROUP needs a descriptor of a cgroup")
    if _threads() > 1:
        raise ValueError("clone3: this process has several threads")
    from lamina.linux._door import address

    pidfd = bytearray(PIDFD.size)
    pointer = address(pidfd) if flags & CLONE_PIDFD else 0
    args = CLONE_ARGS.pack(flags, pointer, 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0))
    pid = syscall("clone3", args, len(args), target=lambda: flag_names("CLONE_", flags))
    if pid == 0:
        return 0, None
    return pid, Fd(PIDFD.unpack(pidfd)[0]) if flags & CLONE_PIDFD else None


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # no procfs here: the caller must know
        return 1


def ns_type(fd: int) -> int:
    """Which kind of namespace *fd* is: one of CLONE_NEW*. ioctl_nsfs(2), NS_GET_NSTYPE."""
    return syscall("ioctl", fd, NS_GET_NSTYPE, None, target="NS_GET_NSTYPE")


def ns_owner(fd: int) -> Fd:
    """The user namespace that owns the namespace *fd*. ioctl_nsfs(2), NS_GET_USERNS. EPERM when above our own."""
    return opened("ioctl", fd, NS_GET_USERNS, None, target="NS_GET_USERNS")


def ns_parent(fd: int) -> Fd:
    """The parent of a pid or user namespace. ioctl_nsfs(2), NS_GET_PARENT. EPERM when above our own."""
    return opened("ioctl", fd, NS_GET_PARENT, None, target="NS_GET_PARENT")


def ns_mount_id(fd: int) -> int:
    """The id of the mount namespace *fd*, as statmount(2) and listmount(2) take it. ioctl_nsfs(2), NS_GET_MNTNS_ID.

    Since Linux 6.11; ENOTTY before.
    """
    identity = bytearray(8)
    syscall("ioctl", fd, NS_GET_MNTNS_ID, identity, target="NS_GET_MNTNS_ID")
    return int(struct.unpack("=Q", identity)[0])


def ns_owner_uid(fd: int) -> int:
    """Who made the user namespace *fd*, as a uid in ours. ioctl_nsfs(2), NS_GET_OWNER_UID."""
    uid = bytearray(4)
    syscall("ioctl", fd, NS_GET_OWNER_UID, uid, target="NS_GET_OWNER_UID")
    return int(struct.unpack("=I", uid)[0])
