"""Extended attributes with names as bytes, as they are: by descriptor, and by path without following links.

`os.getxattr` and its kin decode names and cannot act on an O_PATH descriptor. xattr(7). All raise KernelError:
ENODATA for a name that is not there, EOPNOTSUPP where the file system has no such attributes, ERANGE never.
A descriptor may be O_PATH: the kernel then refuses with EBADF, use the l* functions on /proc/self/fd/N instead.
"""

from __future__ import annotations

from errno import ERANGE

from lamina.errors import KernelError
from lamina.linux.call import encoded, syscall
from lamina.linux.constants import XATTR_LIST_MAX, XATTR_SIZE_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.linux.call import Path

# most values are tiny: one call with this much room, a second one only if it was too small
_FIRST_TRY = 1024


def fgetxattr(fd: int, name: str | bytes) -> bytes:
    """The value of one attribute of an open file. getxattr(2)."""
    return _read("fgetxattr", fd, encoded(name), XATTR_SIZE_MAX)


def fsetxattr(fd: int, name: str | bytes, value: bytes, flags: int = 0) -> None:
    """Set one attribute of an open file; *flags* is 0, XATTR_CREATE or XATTR_REPLACE. setxattr(2)."""
    syscall("fsetxattr", fd, encoded(name), value, len(value), flags, target=(fd, name))


def flistxattr(fd: int) -> list[bytes]:
    """The names of an open file's attributes, in the file system's order. listxattr(2)."""
    return _read("flistxattr", fd, None, XATTR_LIST_MAX).split(b"\0")[:-1]


def fremovexattr(fd: int, name: str | bytes) -> None:
    """Remove one attribute of an open file. removexattr(2)."""
    syscall("fremovexattr", fd, encoded(name), target=(fd, name))


def lgetxattr(path: Path, name: str | bytes) -> bytes:
    """The value of one attribute of *path*, a link not followed. getxattr(2)."""
    return _read("lgetxattr", encoded(path), encoded(name), XATTR_SIZE_MAX)


def lsetxattr(path: Path, name: str | bytes, value: bytes, flags: int = 0) -> None:
    """Set one attribute of *path*, a link not followed; *flags* is 0, XATTR_CREATE or XATTR_REPLACE. setxattr(2)."""
    syscall("lsetxattr", encoded(path), encoded(name), value, len(value), flags, target=(path, name))


def llistxattr(path: Path) -> list[bytes]:
    """The names of the attributes of *path*, a link not followed. listxattr(2)."""
    return _read("llistxattr", encoded(path), None, XATTR_LIST_MAX).split(b"\0")[:-1]


def lremovexattr(path: Path, name: str | bytes) -> None:
    """Remove one attribute of *path*, a link not followed. removexattr(2)."""
    syscall("lremovexattr", encoded(path), encoded(name), target=(path, name))


def _read(call: str, file: int | bytes, name: bytes | None, most: int) -> bytes:
    room = _FIRST_TRY
    while True:
        buffer = bytearray(room)
        words = (file, buffer, room) if name is None else (file, name, buffer, room)
        try:
            length = syscall(call, *words, target=(file, name))
        except KernelError as error:
            if error.errno != ERANGE or room == most:
                raise
            room = most
        else:
            return bytes(buffer[:length])
