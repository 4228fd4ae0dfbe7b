"""Mounts: the new mount API (fsopen ... mount_setattr), the old one (mount, umount2, pivot_root).

Names, arguments and their order are the manual pages'. Every descriptor is close-on-exec. All of these raise
KernelError. What is mounted: statmount, listmount; /proc/<pid>/mountinfo is in `mountinfo`.
"""

from __future__ import annotations

import os
import struct
from errno import EINTR, ENODATA, EOVERFLOW

from lamina.errors import KernelError
from lamina.linux.call import encoded, opened, syscall
from lamina.linux.constants import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_CMD_CREATE_EXCL,
    FSCONFIG_CMD_RECONFIGURE,
    FSMOUNT_CLOEXEC,
    FSOPEN_CLOEXEC,
    FSPICK_CLOEXEC,
    LSMT_ROOT,
    MNT_ID_REQ_SIZE_VER0,
    MNT_ID_REQ_SIZE_VER1,
    OPEN_TREE_CLOEXEC,
    STATMOUNT_FS_SUBTYPE,
    STATMOUNT_FS_TYPE,
    STATMOUNT_MNT_BASIC,
    STATMOUNT_MNT_OPTS,
    STATMOUNT_MNT_POINT,
    STATMOUNT_MNT_ROOT,
    STATMOUNT_OPT_ARRAY,
    STATMOUNT_PROPAGATE_FROM,
    STATMOUNT_SB_BASIC,
    STATMOUNT_SB_SOURCE,
)
from lamina.linux.fd import Fd
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Path

MOUNT_ATTR = struct.Struct("=4Q")  # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
MNT_ID_REQ = struct.Struct("=IIQQQ")  # struct mnt_id_req: size, mnt_ns_fd, mnt_id, param, mnt_ns_id
# struct statmount up to its spare room: see MountStatus; those marked below are offsets of strings
STATMOUNT = struct.Struct("=IIQIIQIIQQIIQQQQQIIQIIIIIIQIIII")
STATMOUNT_SIZE = 512
_LONGEST_MESSAGE = 16384
_COMMANDS = {
    FSCONFIG_CMD_CREATE: "FSCONFIG_CMD_CREATE",
    FSCONFIG_CMD_RECONFIGURE: "FSCONFIG_CMD_RECONFIGURE",
    FSCONFIG_CMD_CREATE_EXCL: "FSCONFIG_CMD_CREATE_EXCL",
}
_MOST_STATMOUNT = 1 << 20
_BASICS = (
    STATMOUNT_SB_BASIC | STATMOUNT_MNT_BASIC | STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE
)


def fsopen(fsname: str | bytes, flags: int = FSOPEN_CLOEXEC) -> Fd:
    """A new, unconfigured file system context of type *fsname*. fsopen(2), since Linux 5.2."""
    return opened("fsopen", encoded(fsname), flags | FSOPEN_CLOEXEC, target=fsname)


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
        target=(_COMMANDS.get(cmd), key, value),
    )


def fsmount(fsfd: int, flags: int = FSMOUNT_CLOEXEC, attr_flags: int = 0) -> Fd:
    """The configured context *fsfd* as a mount that is attached nowhere yet. fsmount(2), since Linux 5.2.

    *attr_flags* are MOUNT_ATTR_*. The mount is gone when the descriptor is closed before move_mount().
    """
    return opened("fsmount", fsfd, flags | FSMOUNT_CLOEXEC, attr_flags)


def fspick(dirfd: int, path: Path, flags: int = FSPICK_CLOEXEC) -> Fd:
    """A context to reconfigure the file system mounted at *path*. fspick(2), since Linux 5.2."""
    return opened("fspick", dirfd, encoded(path), flags | FSPICK_CLOEXEC, target=path or dirfd)


def fsmessages(fsfd: int) -> list[str]:
    """What the kernel has written into the context's log since the last call: "e overlay: ...", oldest first.

    The letter is `e` for errors, `w` for warnings, `i` for information. The kernel keeps the last eight. fsopen(2).
    """
    messages: list[str] = []
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
        target=(from_path or from_dirfd, "to", to_path or to_dirfd),
    )


def open_tree(dirfd: int, path: Path, flags: int) -> Fd:
    """The mount or directory at *path* as a descriptor; with OPEN_TREE_CLONE a detached copy (a bind mount).

    open_tree(2), since Linux 5.2. AT_RECURSIVE copies what is mounted below as well.
    """
    return opened("open_tree", dirfd, encoded(path), flags | OPEN_TREE_CLOEXEC, target=path or dirfd)


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
    syscall("mount_setattr", dirfd, encoded(path), flags, attributes, MOUNT_ATTR.size, target=path or dirfd)


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


@value
class MountStatus:
    """What statmount(2) said. `mask` tells which fields are real (STATMOUNT_*); the others are 0, b"" or ().

    `mnt_id` and `mnt_parent_id` are unique for as long as the system runs, the `_old` ones are those of mountinfo.
    `mnt_attr` are MOUNT_ATTR_*, `mnt_propagation` is MS_PRIVATE and its kin. `opt_array` has the file system's own
    options with nothing escaped (since Linux 6.13), `mnt_opts` as one string, escaped (6.11).
    """

    mask: int
    sb_dev: int
    sb_magic: int
    sb_flags: int
    mnt_id: int
    mnt_parent_id: int
    mnt_id_old: int
    mnt_parent_id_old: int
    mnt_attr: int
    mnt_propagation: int
    mnt_peer_group: int
    mnt_master: int
    propagate_from: int
    mnt_ns_id: int
    supported_mask: int
    fs_type: bytes
    fs_subtype: bytes
    sb_source: bytes
    mnt_root: bytes
    mnt_point: bytes
    mnt_opts: bytes
    opt_array: tuple[bytes, ...]


def statmount(mnt_id: int, mask: int = _BASICS, *, mnt_ns_id: int = 0) -> MountStatus:
    """What the kernel knows of the mount with the unique *mnt_id* (statx(2) with STATX_MNT_ID_UNIQUE). statmount(2).

    Since Linux 6.8. *mask* says what is wanted (STATMOUNT_*). ENOENT when there is no such mount, EPERM when it cannot
    be reached from the caller's root.
    """
    request, room = _request(mnt_id, mask, mnt_ns_id), 4096
    while True:
        buffer = bytearray(room)
        try:
            syscall("statmount", request, buffer, room, 0, target=f"mount {mnt_id}")
        except KernelError as error:
            if error.errno != EOVERFLOW or room >= _MOST_STATMOUNT:
                raise
            room *= 4
        else:
            return _status(buffer)


def listmount(
    mnt_id: int = LSMT_ROOT, last_mnt_id: int = 0, number: int = 1024, flags: int = 0, *, mnt_ns_id: int = 0
) -> list[int]:
    """The unique ids of up to *number* mounts below *mnt_id*, in the order they were made, after *last_mnt_id*.

    listmount(2), since Linux 6.8. When *number* of them came back there may be more: ask again from the last one.
    """
    buffer = bytearray(8 * number)
    found = syscall(
        "listmount", _request(mnt_id, last_mnt_id, mnt_ns_id), buffer, number, flags, target="mounts"
    )
    return [identity for (identity,) in struct.iter_unpack("=Q", buffer[: 8 * found])]


def _request(mnt_id: int, param: int, mnt_ns_id: int) -> bytes:
    size = MNT_ID_REQ_SIZE_VER1 if mnt_ns_id else MNT_ID_REQ_SIZE_VER0
    return MNT_ID_REQ.pack(size, 0, mnt_id, param, mnt_ns_id)


def _status(buffer: bytearray) -> MountStatus:
    (
        _, mnt_opts, mask, major, minor, sb_magic, sb_flags, fs_type, mnt_id, mnt_parent_id, mnt_id_old,
        mnt_parent_id_old, mnt_attr, mnt_propagation, mnt_peer_group, mnt_master, propagate_from, mnt_root, mnt_point,
        mnt_ns_id, fs_subtype, sb_source, opt_num, opt_array, _, _, supported_mask, _, _, _, _,
    ) = STATMOUNT.unpack_from(buffer)  # fmt: skip

    def string(bit: int, offset: int) -> bytes:
        start = STATMOUNT_SIZE + offset
        return bytes(buffer[start : buffer.index(0, start)]) if mask & bit else b""

    options: list[bytes] = []
    if mask & STATMOUNT_OPT_ARRAY:
        options = bytes(buffer[STATMOUNT_SIZE + opt_array :]).split(b"\0", opt_num)[:opt_num]
    return MountStatus(
        mask=mask,
        sb_dev=os.makedev(major, minor),
        sb_magic=sb_magic,
        sb_flags=sb_flags,
        mnt_id=mnt_id,
        mnt_parent_id=mnt_parent_id,
        mnt_id_old=mnt_id_old,
        mnt_parent_id_old=mnt_parent_id_old,
        mnt_attr=mnt_attr,
        mnt_propagation=mnt_propagation,
        mnt_peer_group=mnt_peer_group,
        mnt_master=mnt_master,
        propagate_from=propagate_from if mask & STATMOUNT_PROPAGATE_FROM else 0,
        mnt_ns_id=mnt_ns_id,
        supported_mask=supported_mask,
        fs_type=string(STATMOUNT_FS_TYPE, fs_type),
        fs_subtype=string(STATMOUNT_FS_SUBTYPE, fs_subtype),
        sb_source=string(STATMOUNT_SB_SOURCE, sb_source),
        mnt_root=string(STATMOUNT_MNT_ROOT, mnt_root),
        mnt_point=string(STATMOUNT_MNT_POINT, mnt_point),
        mnt_opts=string(STATMOUNT_MNT_OPTS, mnt_opts),
        opt_array=tuple(options),
    )
