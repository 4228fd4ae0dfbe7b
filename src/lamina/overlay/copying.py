"""Content and attributes of one file, from descriptor to descriptor.

Descriptors may be O_PATH where nothing is read or written through them; attributes are then reached by way of
/proc/self/fd, which also acts on a symbolic link itself.
"""

from __future__ import annotations

import errno
import os
import stat

from lamina.errors import KernelError
from lamina.linux.files import copy_file_range, ficlone

# what the system itself puts on every new file
GIVEN = frozenset({"security.selinux", "security.SMACK64", "security.ima", "security.evm"})
_AT_ONCE = 1 << 20
_NO_CLONE = (
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.EBADF,
    errno.EPERM,
)
_NO_RANGE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EIO)


def copy_content(source: int, destination: int) -> None:
    """Make the empty file *destination* equal to *source*: by sharing the data, else by copying what is not a hole.

    Raises OSError (ENOSPC and so on). A source that shrinks meanwhile ends with a hole.
    """
    try:
        ficlone(destination, source)
    except KernelError as error:
        if error.errno not in _NO_CLONE:
            raise
    else:
        return
    size = os.fstat(source).st_size
    start = 0
    while start < size:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            if error.errno != errno.EINVAL:  # a file system that does not know holes
                raise
            end = size
        start = _copy_range(source, destination, start, min(end, size))
    os.truncate(destination, size)


def same_content(one: int, other: int) -> bool:
    """Whether two regular files have the same bytes. What is a hole in both is not read: whoever makes one, of any
    size, has no price to pay for it. Raises OSError.
    """
    at = 0
    while True:
        begins = [_data_from(file, at) for file in (one, other)]
        known = [begin for begin in begins if begin is not None]
        if not known:
            return os.fstat(one).st_size == os.fstat(other).st_size
        at = min(known)
        piece = os.pread(one, _AT_ONCE, at)
        if piece != os.pread(other, _AT_ONCE, at):
            return False
        at += len(piece) or _AT_ONCE


def _data_from(file: int, at: int) -> int | None:
    """Where there is data, at *at* or behind it; None if there is a hole up to the end. Raises OSError."""
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno != errno.EINVAL:  # a file system that does not know holes
            raise
        return at if at < os.fstat(file).st_size else None


def _copy_range(source: int, destination: int, start: int, end: int) -> int:
    in_kernel = True
    while start < end:
        if in_kernel:
            try:
                done = copy_file_range(source, destination, min(end - start, 1 << 30), start, start)
            except KernelError as error:
                if error.errno not in _NO_RANGE:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(end - start, _AT_ONCE), start)
            done = os.pwrite(destination, data, start) if data else 0
        if done == 0:
            return end
        start += done
    return end


def set_owner(fd: int, uid: int, gid: int) -> None:
    """Change the owner unless it is the same already. Raises OSError."""
    status = os.fstat(fd)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.chown(b"/proc/self/fd/%d" % fd, uid, gid)


def set_xattrs(fd: int, wanted: dict[str, bytes]) -> None:
    """Make the extended attributes exactly *wanted*: what a directory's default ACL left there goes.

    Labels that the system gives every new file stay if none are wanted. Raises OSError, naming the attribute.
    """
    place = b"/proc/self/fd/%d" % fd
    for name in listed(place):
        if name not in wanted and name not in GIVEN:
            os.removexattr(place, name)
    for name, content in wanted.items():
        try:
            if os.getxattr(place, name) == content:
                continue
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        try:
            os.setxattr(place, name, content)
        except OSError as error:
            error.filename = name
            raise


def listed(place: bytes) -> list[str]:
    """The names of a file's attributes; none where the file system has none."""
    try:
        return os.listxattr(place)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def set_mode(fd: int, mode: int) -> None:
    """Change the permission bits; symbolic links have none."""
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        os.chmod(b"/proc/self/fd/%d" % fd, mode)


def set_times(fd: int, atime_ns: int, mtime_ns: int) -> None:
    """Set both times, in nanoseconds."""
    os.utime(b"/proc/self/fd/%d" % fd, ns=(atime_ns, mtime_ns))
