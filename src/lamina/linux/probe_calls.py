"""Questions about system calls; see `probe`.

A call is asked with arguments that cannot work. Its absence (ENOSYS) and a ban (EPERM, from the seccomp filter of a
container we may be in) are a No; "you cannot mean that", whatever the errno, is a Yes.
"""

from __future__ import annotations

import os
from errno import EBADF, EFAULT, ENOSYS, EPERM

from lamina.errors import KernelError, LaminaError
from lamina.linux import constants as c
from lamina.linux.call import syscall
from lamina.linux.probe import No, Yes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Argument
    from lamina.linux.probe import Answer, Host

_NOWHERE = 0x7FFFFFFF  # no process has so many descriptors (fs.nr_open is at most 0x7fffffc0)


def clone3(host: Host) -> Answer:
    """Whether processes can be made with clone3(2), into namespaces and with a pidfd at once"""
    return _present(host, "5.3", "clone3", None, 0)


def clone_clear_sighand(host: Host) -> Answer:
    """Whether a new process can have all signal handlers reset (CLONE_CLEAR_SIGHAND)"""
    return host.clone3 and _by_version(host, "5.5", "CLONE_CLEAR_SIGHAND")


def clone_into_cgroup(host: Host) -> Answer:
    """Whether a process can be born in its control group (CLONE_INTO_CGROUP, cgroup v2 only)"""
    from lamina.linux.namespaces import CLONE_ARGS

    if not host.clone3:
        return host.clone3
    # the descriptor is looked at before anything is made, and there is no such descriptor
    args = CLONE_ARGS.pack(c.CLONE_INTO_CGROUP, 0, 0, 0, c.SIGCHLD, 0, 0, 0, 0, 0, _NOWHERE)
    if _errno("clone3", args, len(args)) == EBADF:
        return Yes("5.7")
    return No(f"kernel {host.release}: CLONE_INTO_CGROUP is there since 5.7")


def pidfd_open(host: Host) -> Answer:
    """Whether processes can be held by descriptor (pidfd_open, pidfd_send_signal)"""
    sending = _present(host, "5.1", "pidfd_send_signal", -1, 0, None, 0)
    return sending and _present(host, "5.3", "pidfd_open", -1, 0)


def pidfd_getfd(host: Host) -> Answer:
    """Whether a descriptor of another process can be duplicated"""
    return _present(host, "5.6", "pidfd_getfd", -1, 0, 0)


def pidfd_info(host: Host) -> Answer:
    """Whether a pidfd tells about its process (PIDFD_GET_INFO)"""
    from lamina.linux import process

    if not host.pidfd_open:
        return host.pidfd_open
    try:
        with process.pidfd_open(os.getpid()) as pidfd:
            process.pidfd_get_info(pidfd, c.PIDFD_INFO_PID)
    except KernelError as error:
        return No(f"kernel {host.release}: PIDFD_GET_INFO is there since 6.13 ({error.strerror})")
    return Yes("6.13")


def pidfd_exit_status(host: Host) -> Answer:
    """Whether a pidfd tells the exit status to who is not the parent"""
    return host.pidfd_info and _by_version(host, "6.15", "PIDFD_INFO_EXIT")


def waitid_pidfd(host: Host) -> Answer:
    """Whether a child can be waited for by descriptor (P_PIDFD)"""
    # EBADF where P_PIDFD is known, EINVAL where not
    if _errno("waitid", c.P_PIDFD, _NOWHERE, None, c.WEXITED | c.WNOHANG, None) == EBADF:
        return Yes("5.4")
    return No(f"kernel {host.release}: waitid(2) takes P_PIDFD since 5.4")


def close_range(host: Host) -> Answer:
    """Whether all descriptors can be closed, or marked close-on-exec, in one call"""
    if not (there := _present(host, "5.9", "close_range", 1, 0, 0)):
        return there
    if _errno("close_range", _NOWHERE, _NOWHERE, c.CLOSE_RANGE_CLOEXEC):
        return No(f"kernel {host.release}: CLOSE_RANGE_CLOEXEC is there since 5.11")
    return Yes("5.11")


def openat2(host: Host) -> Answer:
    """Whether paths can be resolved inside a root (openat2, RESOLVE_IN_ROOT)"""
    return _present(host, "5.6", "openat2", -1, b"", None, 0)


def seccomp(host: Host) -> Answer:
    """Whether system calls can be filtered"""
    # EFAULT: filters are there, and NULL is none
    if _errno("seccomp", c.SECCOMP_SET_MODE_FILTER, 0, None) == EFAULT:
        return Yes("3.17")
    return No(f"kernel {host.release} was built without CONFIG_SECCOMP_FILTER")


_ACTIONS = (
    ("SCMP_ACT_KILL_PROCESS", c.SECCOMP_RET_KILL_PROCESS),
    ("SCMP_ACT_KILL_THREAD", c.SECCOMP_RET_KILL_THREAD),
    ("SCMP_ACT_TRAP", c.SECCOMP_RET_TRAP),
    ("SCMP_ACT_ERRNO", c.SECCOMP_RET_ERRNO),
    ("SCMP_ACT_NOTIFY", c.SECCOMP_RET_USER_NOTIF),
    ("SCMP_ACT_TRACE", c.SECCOMP_RET_TRACE),
    ("SCMP_ACT_LOG", c.SECCOMP_RET_LOG),
    ("SCMP_ACT_ALLOW", c.SECCOMP_RET_ALLOW),
)


def seccomp_actions(host: Host) -> tuple[str, ...]:
    """What a filter can answer, in the OCI specification's words"""
    from lamina.linux.seccomp import get_action_avail

    try:
        return tuple(name for name, action in _ACTIONS if get_action_avail(action))
    except KernelError:  # before 4.14 nobody could ask
        return ()


def seccomp_notify(host: Host) -> Answer:
    """Whether a filter can ask a supervisor (user notifications)"""
    if "SCMP_ACT_NOTIFY" in host.seccomp_actions:
        return Yes("5.0")
    return No(f"kernel {host.release}: SECCOMP_RET_USER_NOTIF is there since 5.0")


def keyrings(host: Host) -> Answer:
    """Whether a container can have a session key ring of its own"""
    return _present(host, "2.6", "keyctl", c.KEYCTL_GET_KEYRING_ID, c.KEY_SPEC_THREAD_KEYRING, 0)


def landlock(host: Host) -> Answer:
    """Whether a program can restrict itself to some directories (Landlock)"""
    try:
        version = syscall("landlock_create_ruleset", None, 0, 1)
    except LaminaError as error:
        return No(f"{error} (Landlock is there since 5.13, where it was configured)")
    return Yes("5.13", f"ABI {version}")


def mount_api(host: Host) -> Answer:
    """Whether mounts are made by descriptor: fsopen, fsmount, open_tree, move_mount"""
    # of these open_tree is the one that needs no privilege to say what is wrong with its arguments
    tree = _present(host, "5.2", "open_tree", _NOWHERE, b"", c.AT_EMPTY_PATH)
    if not tree or _errno("fsopen", None, c.FSOPEN_CLOEXEC) != ENOSYS:
        return tree
    return No(f"kernel {host.release} has no fsopen(2) (since 5.2)")


def mount_setattr(host: Host) -> Answer:
    """Whether a whole tree of mounts can be made read-only, nosuid, private, ... at once"""
    return _present(host, "5.12", "mount_setattr", -1, b"", 0, None, 0)


def idmapped_mounts(host: Host) -> Answer:
    """Whether a mount can show other owners than the disk has (each file system must support it as well)"""
    return host.mount_setattr and Yes("5.12")


def move_mount_beneath(host: Host) -> Answer:
    """Whether a mount can be slipped beneath another (MOVE_MOUNT_BENEATH)"""
    return host.mount_api and _by_version(host, "6.5", "MOVE_MOUNT_BENEATH")


def statmount(host: Host) -> Answer:
    """Whether a mount can be looked at without parsing /proc/self/mountinfo"""
    return _present(host, "6.8", "statmount", None, None, 0, 1)


def listmount(host: Host) -> Answer:
    """Whether mounts can be listed by their unique ids"""
    return _present(host, "6.8", "listmount", None, None, 0, 0xFF00)


def statmount_options(host: Host) -> Answer:
    """Whether statmount(2) gives a file system's options one by one, unescaped (STATMOUNT_OPT_ARRAY)"""
    return host.statmount and _by_version(host, "6.13", "STATMOUNT_OPT_ARRAY")


def open_tree_attr(host: Host) -> Answer:
    """Whether a mount can be copied and idmapped again in one call"""
    return _present(host, "6.15", "open_tree_attr", -1, b"", 0, None, 0)


def _errno(name: str, *args: Argument) -> int:
    try:
        syscall(name, *args)
    except KernelError as error:
        return error.errno or 0
    except LaminaError:  # no number on this machine
        return ENOSYS
    return 0


def _present(host: Host, since: str, name: str, *args: Argument) -> Answer:
    errno = _errno(name, *args)
    if errno == ENOSYS:
        return No(f"kernel {host.release} has no {name}(2) (since {since})")
    if errno == EPERM:
        return No(f"{name}(2) is forbidden here, by the seccomp filter of a container it seems")
    return Yes(since)


def _by_version(host: Host, since: str, what: str) -> Answer:
    if host.at_least(since):
        return Yes(since)
    return No(f"kernel {host.release}: {what} is there since {since}")
