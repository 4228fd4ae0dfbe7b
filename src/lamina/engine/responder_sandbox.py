"""Where the process that answers for names lives, and what it gives up before it reads what containers send.

It has control groups of its own: those of whoever started the network's first container (a unit of systemd, a session)
would take it along when they end. What it sees of this machine is two directories of the store, what it may ask of
the kernel the calls below. It stays root by its number, whose files those are, without a capability.
"""

from __future__ import annotations

import os

from lamina.engine.design import CGROUP_PARENT, cgroup_path
from lamina.errors import LaminaError
from lamina.linux.capabilities import CAPABILITIES, CapabilitySets, capget, capset
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    CLONE_NEWNS,
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_STRING,
    MNT_DETACH,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
    OPEN_TREE_CLONE,
)
from lamina.linux.mount import (
    fsconfig,
    fsmount,
    fsopen,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    umount2,
)
from lamina.linux.namespaces import unshare
from lamina.linux.seccomp import set_mode_filter
from lamina.runtime.cgroups import create, find, read_layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.fd import Fd
    from lamina.runtime.cgroups import Cgroup
    from lamina.store.root import Store

# nobody may write to the topmost control groups (cgroupfs makes them 0555), from which the group above ours is removed
TO_LEAVE = 1 << CAPABILITIES["CAP_DAC_OVERRIDE"]
_NAMES = "names."
_HARMLESS = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
_FIONBIO = 0x5421  # ioctl(2) of setblocking()
_CALLS = """
accept accept4 bind brk clock_getres clock_gettime clock_nanosleep close connect exit exit_group fcntl flock fstat futex
getdents64 getpid getrandom getsockname getpeername getsockopt gettid inotify_add_watch inotify_init1 inotify_rm_watch
listen lseek lstat madvise mmap mprotect mremap munmap nanosleep newfstatat open openat poll ppoll pread64 read readlink
readlinkat recvfrom recvmsg restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sched_yield sendmsg sendto
setsockopt shutdown sigaltstack stat statx write
""".split()  # noqa: SIM905
_INTERNET = (2, 10)  # AF_INET, AF_INET6


def profile() -> dict[str, Any]:
    """The calls of who answers, as `linux.seccomp` of the OCI specification: no other program, process, mount, kind of
    socket. Whatever else it tries is refused.
    """
    allowed: list[dict[str, Any]] = [{"names": _CALLS, "action": "SCMP_ACT_ALLOW"}]
    for name, at, values in (("socket", 0, _INTERNET), ("ioctl", 1, (_FIONBIO,))):
        allowed += [
            {
                "names": [name],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": at, "value": value, "op": "SCMP_CMP_EQ"}],
            }
            for value in values
        ]
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": allowed}


def program(store: Store) -> bytes:
    """The same, compiled; read from the store's cache where it was compiled before."""
    from lamina.runtime.seccomp import filter_for

    return filter_for(profile(), store.cache).program()


# -- its place among the control groups


def settle(table: str, network: str) -> Cgroup | None:
    """Move this process into groups of its own. None where this user may make none: it stays where it is."""
    sweep(table, network)
    try:
        group = create(
            cgroup_path(f"{_NAMES}{table}.{network}.{os.getpid()}"), {}, everywhere=True, own_parent=True
        )
    except (OSError, LaminaError):
        return None
    if group is None:
        return None
    try:
        for tasks in group.tasks.values():
            os.write(tasks, b"0")
        if group.v2 is not None:
            _enter(b"cgroup.procs", group.v2)
    except OSError:
        leave(group)
        return None
    group.close()
    return group


def leave(group: Cgroup) -> None:
    """Remove the groups, in which nobody but this process is left: it goes to where the machine's own are. Whoever has
    given up what it could do keeps `TO_LEAVE` among what is permitted, for this.
    """
    permitted = capget().permitted
    capset(CapabilitySets(permitted, permitted, 0))
    layout = read_layout()
    for root in {*layout.v1.values(), *([layout.v2] if layout.v2 is not None else ())}:
        try:
            _enter(root + (b"/cgroup.procs" if root == layout.v2 else b"/tasks"))
        except (
            OSError
        ):  # a v2 tree that is not the machine's own: `sweep` and `system check` find what is left
            continue
    try:
        group.close()
        group.remove()
    except (OSError, LaminaError):
        pass


def _enter(file: bytes, directory: Fd | None = None) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def left(table: str, network: str = "") -> list[str]:
    """The groups of those who answered for the names of a network (or of any), in which nobody is: they were killed."""
    begin = f"{_NAMES}{table}.{network}{'.' if network else ''}"
    layout = read_layout()
    found: dict[str, bool] = {}
    for root in {*layout.v1.values(), *([layout.v2] if layout.v2 is not None else ())}:
        try:
            names = os.listdir(os.fsdecode(root) + f"/{CGROUP_PARENT}")
        except OSError:
            continue
        for name in names:
            # who has just begun is not in it yet
            if name.startswith(begin) and not _lives(name.rpartition(".")[2]):
                place = f"{os.fsdecode(root)}/{CGROUP_PARENT}/{name}"
                found[name] = found.get(name, True) and _is_empty(place)
    return sorted(name for name, empty in found.items() if empty)


def _lives(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b") ")[2][:1] not in (b"Z", b"X", b"")
    except OSError:
        return False


def _is_empty(place: str) -> bool:
    try:
        with open(f"{place}/cgroup.procs", "rb", buffering=0) as file:
            return not file.read(64)
    except OSError:
        return True


def sweep(table: str, network: str = "") -> None:
    """Remove such groups."""
    for name in left(table, network):
        try:
            find(cgroup_path(name), own_parent=True).remove()
        except (OSError, LaminaError):
            continue


# -- what it sees and may do


def confine(places: tuple[bytes, ...], filtered: bytes) -> None:
    """From now on this process sees the directories *places* alone, and writes to nothing; it has no capability, and
    makes no system call that *filtered* does not allow. Raises KernelError.
    """
    unshare(CLONE_NEWNS)
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    shown = [(path, _copy(path)) for path in places]
    with fsopen("tmpfs") as context:
        fsconfig(context, FSCONFIG_SET_STRING, "mode", "0700")
        fsconfig(context, FSCONFIG_CMD_CREATE, None, None)
        with fsmount(context, attr_flags=_HARMLESS) as root:
            move_mount(root, "", AT_FDCWD, places[0], MOVE_MOUNT_F_EMPTY_PATH)
            os.chdir(places[0])
    for path, tree in shown:
        os.makedirs(b"." + path, 0o700, exist_ok=True)
        with tree:
            move_mount(tree, "", AT_FDCWD, b"." + path, MOVE_MOUNT_F_EMPTY_PATH)
    mount_setattr(AT_FDCWD, ".", 0, attr_set=MOUNT_ATTR_RDONLY)
    pivot_root(".", ".")
    umount2(".", MNT_DETACH)
    os.chdir("/")
    capset(CapabilitySets(0, 0, 0))
    set_mode_filter(filtered)


def _copy(path: bytes) -> Fd:
    tree = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE)
    mount_setattr(tree, "", AT_EMPTY_PATH, attr_set=_HARMLESS | MOUNT_ATTR_RDONLY)
    return tree
