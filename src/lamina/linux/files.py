"""Files: opening below a root, renaming, cloning and identifying them, as far as the standard library cannot.

Names, arguments and their order are the manual pages'. Every descriptor is close-on-exec.
"""

from __future__ import annotations

import os
import struct
from errno import EAGAIN

from lamina.errors import KernelError
from lamina.linux.call import encoded, opened, syscall
from lamina.linux.constants import (
    AT_SYMLINK_NOFOLLOW,
    FICLONE,
    MAX_HANDLE_SZ,
    SIOCUNIXFILE,
    STATX_BASIC_STATS,
    STATX_BTIME,
    STATX_MNT_ID,
)
from lamina.linux.fd import Fd
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Path

OPEN_HOW = struct.Struct("=3Q")  # struct open_how: flags, mode, resolve
FILE_HANDLE = struct.Struct("=Ii")  # struct file_handle: handle_bytes, handle_type; the handle follows
# struct statx up to stx_subvol: mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask,
# atime, btime, ctime, mtime (seconds, nanoseconds), rdev, dev (major, minor), mnt_id, two alignments, subvol
STATX = struct.Struct("=IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIIIQIIQ")
STATX_SIZE = 256
_MOST_TRIES = 1000  # of openat2
# struct statfs of a 64-bit machine: type, bsize, blocks, bfree, bavail, files, ffree, fsid, namelen, frsize, flags
STATFS = struct.Struct("=7Q2i3Q32x")


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> Fd:
    """Open *path* as openat(2) does, restricted by RESOLVE_* in *resolve*. openat2(2), since Linux 5.6.

    RESOLVE_IN_ROOT treats *dirfd* as "/": neither links nor ".." leave it. Raises KernelError: ELOOP for a forbidden
    link, EXDEV for a way out with RESOLVE_BENEATH. Where a ".." raced with a rename or a mount, of anybody's on this
    machine, the kernel says EAGAIN, and is asked again.
    """
    how = OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    for left in range(_MOST_TRIES, -1, -1):
        try:
            return opened("openat2", dirfd, encoded(path), how, OPEN_HOW.size, target=path or dirfd)
        except KernelError as error:
            if error.errno != EAGAIN or not left:
                raise
    raise AssertionError


def renameat2(olddirfd: int, oldpath: Path, newdirfd: int, newpath: Path, flags: int = 0) -> None:
    """Rename with RENAME_NOREPLACE (EEXIST), RENAME_EXCHANGE or RENAME_WHITEOUT. renameat2(2); raises KernelError."""
    syscall(
        "renameat2",
        olddirfd,
        encoded(oldpath),
        newdirfd,
        encoded(newpath),
        flags,
        target=(oldpath, "to", newpath),
    )


@value
class Statx:
    """What statx(2) said. `mask` tells which fields are real (STATX_*); times are in nanoseconds since 1970.

    `attributes` holds the STATX_ATTR_* that are known (`attributes_mask`). `mnt_id` is the mount's number as in
    mountinfo, or its unique one where STATX_MNT_ID_UNIQUE was asked for and is in `mask`.
    """

    mask: int
    blksize: int
    attributes: int
    attributes_mask: int
    mode: int
    nlink: int
    uid: int
    gid: int
    ino: int
    size: int
    blocks: int
    atime_ns: int
    btime_ns: int
    ctime_ns: int
    mtime_ns: int
    rdev: int
    dev: int
    mnt_id: int
    subvol: int


def statx(
    dirfd: int,
    path: Path,
    flags: int = AT_SYMLINK_NOFOLLOW,
    mask: int = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID,
) -> Statx:
    """A file's attributes, with what os.stat() lacks: birth time, mount id, immutable and other attributes. statx(2).

    An empty *path* with AT_EMPTY_PATH means *dirfd* itself. Raises KernelError.
    """
    buffer = bytearray(STATX_SIZE)
    syscall("statx", dirfd, encoded(path), flags, mask, buffer, target=path or dirfd)
    f = STATX.unpack_from(buffer)
    access, birth, change, modification = (f[i] * 1_000_000_000 + f[i + 1] for i in (11, 13, 15, 17))
    return Statx(
        mask=f[0], blksize=f[1], attributes=f[2], nlink=f[3], uid=f[4], gid=f[5], mode=f[6], ino=f[7], size=f[8],
        blocks=f[9], attributes_mask=f[10], atime_ns=access, btime_ns=birth, ctime_ns=change, mtime_ns=modification,
        rdev=os.makedev(f[19], f[20]), dev=os.makedev(f[21], f[22]), mnt_id=f[23], subvol=f[26],
    )  # fmt: skip


@value
class Statfs:
    """What statfs(2) said: `type` is a ..._MAGIC; sizes are in blocks of `frsize` bytes, `flags` are ST_*."""

    type: int
    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    fsid: tuple[int, int]
    namelen: int
    frsize: int
    flags: int


def statfs(path: Path) -> Statfs:
    """The file system that *path* lies on, with its type, which os.statvfs() cannot tell. statfs(2)."""
    return _statfs("statfs", encoded(path))


def fstatfs(fd: int) -> Statfs:
    """As statfs() for an open file, O_PATH or not. statfs(2)."""
    return _statfs("fstatfs", fd)


def _statfs(call: str, file: int | bytes) -> Statfs:
    buffer = bytearray(STATFS.size)
    syscall(call, file, buffer, target=file)
    kind, bsize, blocks, bfree, bavail, files, ffree, low, high, namelen, frsize, flags = STATFS.unpack(
        buffer
    )
    return Statfs(kind, bsize, blocks, bfree, bavail, files, ffree, (low, high), namelen, frsize, flags)


def ficlone(dest_fd: int, src_fd: int) -> None:
    """Make the file *dest_fd* share all data of *src_fd*, copied only when written. ioctl_ficlone(2).

    Raises KernelError: EOPNOTSUPP where the file system cannot, EXDEV across file systems.
    """
    syscall("ioctl", dest_fd, FICLONE, int(src_fd), target="FICLONE")


def unix_file(sock: int) -> Fd:
    """The file that the AF_UNIX socket *sock* is bound to, whatever its name is by now, as an O_PATH descriptor.

    SIOCUNIXFILE, in linux/un.h, since Linux 4.12. ENOENT where it is bound to none, EPERM without CAP_NET_ADMIN over
    the socket's network namespace; of other sockets EINVAL, ENOTTY or what their protocol says.
    """
    return opened("ioctl", sock, SIOCUNIXFILE, None, target="SIOCUNIXFILE")  # close-on-exec


def copy_file_range(
    fd_in: int,
    fd_out: int,
    length: int,
    offset_in: int | None = None,
    offset_out: int | None = None,
    flags: int = 0,
) -> int:
    """Copy up to *length* bytes inside the kernel; returns how many, 0 at the end of the input. copy_file_range(2).

    Without offsets the descriptors' own positions are used and moved. Raises KernelError: EXDEV where the file
    systems do not do it together, EINVAL for files that are not regular, EBADF for one opened with O_APPEND.
    """
    positions = [None if o is None else bytearray(o.to_bytes(8, "little")) for o in (offset_in, offset_out)]
    return syscall("copy_file_range", fd_in, positions[0], fd_out, positions[1], length, flags)


@value
class FileHandle:
    """A file's name for its file system, for as long as the file exists. `mount_id` as in mountinfo, 0 if unknown."""

    handle_type: int
    handle: bytes
    mount_id: int = 0


def name_to_handle_at(dirfd: int, path: Path, flags: int = 0) -> FileHandle:
    """The handle of a file; links are not followed unless AT_SYMLINK_FOLLOW is given. name_to_handle_at(2).

    Raises KernelError: EOPNOTSUPP where the file system has no handles.
    """
    buffer = bytearray(FILE_HANDLE.size + MAX_HANDLE_SZ)
    FILE_HANDLE.pack_into(buffer, 0, MAX_HANDLE_SZ, 0)
    mount_id = bytearray(8)  # an int; 64 bits with AT_HANDLE_MNT_ID_UNIQUE
    syscall("name_to_handle_at", dirfd, encoded(path), buffer, mount_id, flags, target=path or dirfd)
    length, handle_type = FILE_HANDLE.unpack_from(buffer)
    handle = bytes(buffer[FILE_HANDLE.size : FILE_HANDLE.size + length])
    return FileHandle(handle_type, handle, int.from_bytes(mount_id, "little"))


def open_by_handle_at(mount_fd: int, handle: FileHandle, flags: int) -> Fd:
    """Open the file a handle names, on the file system of *mount_fd*. open_by_handle_at(2).

    Raises KernelError: EPERM without CAP_DAC_READ_SEARCH, ESTALE when the file is gone.
    """
    packed = FILE_HANDLE.pack(len(handle.handle), handle.handle_type) + handle.handle
    return opened("open_by_handle_at", mount_fd, bytearray(packed), flags | os.O_CLOEXEC, target="handle")
