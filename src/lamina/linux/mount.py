"""Mounts: the new mount API (fsopen ... mount_setattr), the old one (mount, umount2, pivot_root).

Names, arguments and their order are the manual pages'. Every descriptor is close-on-exec. All of these raise
KernelError. statmount(2) and listmount(2) are in `statmount`, /proc/<pid>/mountinfo in `mountinfo`.
"""

from __future__ import annotations

import os
import struct
from errno import EINTR, ENODATA

from lamina.linux.call import encoded, shown, syscall
from lamina.linux.constants import FSMOUNT_CLOEXEC, FSOPEN_CLOEXEC, FSPICK_CLOEXEC, OPEN_TREE_CLOEXEC
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Path

MOUNT_ATTR = struct.Struct("=4Q")  # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
_LONGEST_MESSAGE = 16384


def fsopen(fsname: str | bytes, flags: int = FSOPEN_CLOEXEC) -> Fd:
    """A new, unconfigured file system context of type *fsname*. fsopen(2), since Linux 5.2."""
    return Fd(syscall("fsopen", encoded(fsname), flags | FSOPEN_CLOEXEC, target=fsname))


def fsconfig(fd: int, cmd: int, key: str | bytes | None, value: Path | None, aux: int = 0) -> None:
    """Set parameter *key* of the context *fd*, or carry out a command on it. fsconfig(2), since Linux 5.2.

    *cmd* is one of FSCONFIG_*. A string *value* is at most 255 bytes long (EINVAL else); for FSCONFIG_SET_FD the
    descriptor is *aux*, for FSCONFIG_SET_BINARY the length of *value*. Why the kernel refused is in `fsmessages`.
    """
    syscall(
        "fsconfig",
        fd,
        cmd,
        None if key is None else encoded(key),
        None if value is None else value if isinstance(value, bytes) else encoded(value),
        aux,
        target=" ".join(shown(word) for word in (key, value) if word is not None),
    )


def fsmount(fsfd: int, flags: int = FSMOUNT_CLOEXEC, attr_flags: int = 0) -> Fd:
    """The configured context *fsfd* as a mount that is attached nowhere yet. fsmount(2), since Linux 5.2.

    *attr_flags* are MOUNT_ATTR_*. The mount is gone when the descriptor is closed before move_mount().
    """
    return Fd(syscall("fsmount", fsfd, flags | FSMOUNT_CLOEXEC, attr_flags))


def fspick(dirfd: int, path: Path, flags: int = FSPICK_CLOEXEC) -> Fd:
    """A context to reconfigure the file system mounted at *path*. fspick(2), since Linux 5.2."""
    return Fd(syscall("fspick", dirfd, encoded(path), flags | FSPICK_CLOEXEC, target=_place(dirfd, path)))


def fsmessages(fsfd: int) -> list[str]:
    """What the kernel has written into the context's log since the last call: "e overlay: ...", oldest first.

    The letter is `e` for errors, `w` for warnings, `i` for information. The kernel keeps the last eight. fsopen(2).
    """
    messages = []
    while True:
        try:
            message = os.read(fsfd, _LONGEST_MESSAGE)
        except OSError as error:
            if error.errno == EINTR:
                continue
            if error.errno == ENODATA:
                return messages
            raise
        messages.append(message.decode("utf-8", "backslashreplace").rstrip("\n"))


def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int) -> None:
    """Attach a detached mount, or move an attached one. move_mount(2), since Linux 5.2.

    Empty paths with MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_EMPTY_PATH mean the descriptors themselves.
    """
    syscall(
        "move_mount",
        from_dirfd,
        encoded(from_path),
        to_dirfd,
        encoded(to_path),
        flags,
        target=f"{_place(from_dirfd, from_path)} to {_place(to_dirfd, to_path)}",
    )


def open_tree(dirfd: int, path: Path, flags: int) -> Fd:
    """The mount or directory at *path* as a descriptor; with OPEN_TREE_CLONE a detached copy (a bind mount).

    open_tree(2), since Linux 5.2. AT_RECURSIVE copies what is mounted below as well.
    """
    return Fd(
        syscall("open_tree", dirfd, encoded(path), flags | OPEN_TREE_CLOEXEC, target=_place(dirfd, path))
    )


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change the attributes (MOUNT_ATTR_*) and propagation (MS_SHARED, ...) of a mount, or with AT_RECURSIVE of a tree.

    mount_setattr(2), since Linux 5.12. To change the access time setting, MOUNT_ATTR__ATIME must be in *attr_clr*.
    """
    attributes = MOUNT_ATTR.pack(attr_set, attr_clr, propagation, userns_fd)
    place = _place(dirfd, path)
    syscall("mount_setattr", dirfd, encoded(path), flags, attributes, MOUNT_ATTR.size, target=place)


def mount(
    source: Path | None,
    target: Path,
    fstype: str | bytes | None,
    flags: int = 0,
    data: str | bytes | None = None,
) -> None:
    """Mount, remount, bind, move, or change the propagation of a mount: MS_* in *flags* says which. mount(2).

    *data* is cut off silently by the kernel behind 4,095 bytes.
    """
    syscall(
        "mount",
        None if source is None else encoded(source),
        encoded(target),
        None if fstype is None else encoded(fstype),
        flags,
        None if data is None else encoded(data),
        target=target,
    )


def umount2(target: Path, flags: int = 0) -> None:
    """Unmount what is mounted at *target*; *flags*: MNT_DETACH, MNT_FORCE, MNT_EXPIRE, UMOUNT_NOFOLLOW. umount(2)."""
    syscall("umount2", encoded(target), flags, target=target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make *new_root* the root of the mount namespace and move the old one to *put_old*. pivot_root(2).

    `pivot_root(".", ".")` puts the old root over the new one, from where umount2(".", MNT_DETACH) removes it.
    """
    syscall("pivot_root", encoded(new_root), encoded(put_old), target=new_root)


def _place(dirfd: int, path: Path) -> str:
    return shown(path) or f"descriptor {int(dirfd)}"
