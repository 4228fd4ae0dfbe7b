"""Making many small files: what unpacking a layer does tens of thousands of times.

One file takes five system calls and a few microseconds each; from Python, each also costs giving the interpreter's
lock away and getting it back from whoever took it meanwhile. `create_files` makes a whole batch in compiled code
without the lock, or one by one in Python where that was not compiled (decision record 0024 has the figures).
"""

from __future__ import annotations

import os

from lamina.errors import KernelError

try:
    from lamina.linux._native import create_files as _create_files
except ImportError:  # no compiler when the package was built: `lamina info` says so
    _create_files = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    # directory, name in it, permission bits, uid and gid (-1 and -1: as they come), seconds, nanoseconds, content
    NewFile = tuple[int, bytes, int, int, int, int, int, bytes | bytearray | memoryview]

CALLS = ("openat", "write", "fchown", "fchmod", "utimensat", "close")
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def create_files(files: list[NewFile]) -> tuple[int, KernelError | None]:
    """Make each of *files*, none of which may exist, with its content, then owner, mode and times.

    Names have no "/" in them and are not followed. Returns how many were made, and why not the next one (None: all
    were): EEXIST where its name is taken; after any other error it is there, but not complete.
    """
    create = create_files_one_by_one if _create_files is None else _create_files
    made, call, errno = create(files)
    return made, None if call < 0 else KernelError(CALLS[call], errno, os.fsdecode(files[made][1]))


def create_files_one_by_one(files: list[NewFile]) -> tuple[int, int, int]:
    """As _native.create_files: how many were made, which of CALLS failed then (-1: none), and its errno."""
    for made, (directory, name, mode, uid, gid, seconds, nanoseconds, data) in enumerate(files):
        step = 0
        try:
            fd = os.open(name, NEW, 0o600, dir_fd=directory)
            try:
                step = 1
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest) :]
                if uid != -1 or gid != -1:
                    step = 2
                    os.fchown(fd, uid, gid)
                if mode != 0o600:
                    step = 3
                    os.fchmod(fd, mode)
                step = 4
                when = seconds * 1_000_000_000 + nanoseconds
                os.utime(fd, ns=(when, when))
                step = 5
            finally:
                os.close(fd)
        except OSError as error:
            return made, step, error.errno or 0
    return len(files), -1, 0
