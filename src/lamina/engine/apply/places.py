"""Directories below a root by descriptor, and the hidden directories in which entries wait for their turn.

Others may rearrange the host's directories meanwhile, and some of them are hostile: no symbolic link is followed, no
mount entered, nothing above the root reached (openat2(2)), and what is staged or set aside lies in directories of mode
0700 that this process made and holds open.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict

from lamina.engine.apply.hands import Hands
from lamina.errors import KernelError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    STATX_MNT_ID,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2, statx

BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
PATH_AT_ONCE = 4000  # below PATH_MAX: deeper trees are opened in several steps
MOST_OPEN = 64
DIRECTORY = os.O_PATH | os.O_DIRECTORY
GONE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EXDEV,
)  # what opening says of a directory that is not there


class Directories:
    """The directories below one, each opened when first needed; a few dozen are kept open."""

    def __init__(self, top: int, *, within: int = BENEATH | RESOLVE_NO_XDEV) -> None:
        """*top* stays the caller's and must outlive this. *within* are the RESOLVE_* flags."""
        self._top, self._within = top, within
        self._open: OrderedDict[bytes, Fd] = OrderedDict()

    def open(self, path: bytes) -> Fd:
        """The directory at the relative *path* (b"": the top), O_PATH; to be closed by nobody, valid while it is held.

        Raises KernelError: see GONE for the errno of what is no longer such a directory.
        """
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        if len(path) > PATH_AT_ONCE:
            cut = path.rindex(b"/", 0, PATH_AT_ONCE)
            nearer, rest = self.open(path[:cut]), path[cut + 1 :]
            with Fd(os.dup(nearer)) as base:
                found = Directories(base, within=self._within).open(rest)
        else:
            found = openat2(self._top, path or b".", DIRECTORY, resolve=self._within)
        self._open[path] = found
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)  # closed when nobody holds it
        return found

    def parent(self, path: bytes) -> tuple[Fd, bytes]:
        """The directory that holds *path*, and its name there. Raises KernelError as `open`."""
        above, _, name = path.rpartition(b"/")
        return self.open(above), name

    def status(self, path: bytes) -> os.stat_result | None:
        """What lstat(2) says of *path*; None if it, or a directory on the way, is not there."""
        try:
            if not path:
                return os.fstat(self.open(path))
            directory, name = self.parent(path)
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise

    def names(self, path: bytes) -> list[bytes]:
        """What is in the directory *path*. Raises OSError."""
        with Fd(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.open(path))) as listed:
            return [os.fsencode(name) for name in os.listdir(listed)]

    def close(self) -> None:
        """Forget what is open: the next look resolves paths anew."""
        self._open.clear()


class Host:
    """The tree that is changed, by the mount points of the overlays over it."""

    def __init__(self, root: bytes) -> None:
        """*root* is the path of a directory. Raises KernelError."""
        self.root = root
        try:
            self._top = Fd(os.open(root, DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise KernelError("open root", error.errno or errno.EIO, os.fsdecode(root)) from None
        self._mounts: dict[bytes, tuple[Fd, Directories]] = {}

    def below(self, mountpoint: bytes) -> Directories:
        """The directories of the file system at *mountpoint* (absolute, in the root). Raises KernelError."""
        known = self._mounts.get(mountpoint)
        if known is None:
            top = openat2(self._top, mountpoint.lstrip(b"/") or b".", DIRECTORY, resolve=BENEATH)
            known = self._mounts[mountpoint] = (top, Directories(top))
        return known[1]

    def forget(self) -> None:
        """Resolve every path anew from here on."""
        self._mounts.clear()

    def close(self) -> None:
        """Close everything."""
        self.forget()
        self._top.close()


def file_system(directory: int) -> tuple[int, int]:
    """What two directories must have in common for rename(2) between them: the mount, and (btrfs) the subvolume."""
    found = statx(directory, b"", AT_EMPTY_PATH)
    return found.mnt_id if found.mask & STATX_MNT_ID else _mount_id(directory), found.dev


def _mount_id(directory: int) -> int:
    """Before Linux 5.8 only /proc says it."""
    with open(f"/proc/self/fdinfo/{directory}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def make_private(hands: Hands, directory: int, name: bytes) -> Fd:
    """Make the directory *name*, open it for reading, and make sure that it is ours alone. Raises OSError."""
    hands.mkdir(directory, name)
    made = open_private(directory, name)
    if os.listdir(made):  # in a directory of somebody else's, who put another one of ours there
        raise KernelError(
            "make", errno.ENOTEMPTY, os.fsdecode(name), hint="this directory is not the one just made"
        )
    return made


def open_private(directory: int, name: bytes) -> Fd:
    """Open the directory *name*. Raises OSError; EPERM if somebody else's directory is there by now."""
    held = openat2(
        directory, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=BENEATH | RESOLVE_NO_XDEV
    )
    status = os.fstat(held)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise KernelError(
            "open", errno.EPERM, os.fsdecode(name), hint="this directory is not the one made before"
        )
    return held


def entry(directory: int, name: bytes) -> os.stat_result | None:
    """lstat(2) of *name* in *directory*; None if there is none."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def empty(hands: Hands, directory: Fd) -> None:
    """Remove everything in *directory*, however deep, with a handful of descriptors and no recursion.

    What is a directory in a directory is first moved up to the top, under a number. Raises OSError.
    """
    number = 0
    while names := os.listdir(directory):
        for name in map(os.fsencode, names):
            if not _remove(hands, directory, name):
                with _open_to_empty(hands, directory, name) as inner:
                    number = _move_up(hands, inner, directory, number)
                hands.rmdir(directory, name)


def _remove(hands: Hands, directory: int, name: bytes) -> bool:
    """Remove an entry, unless it is a directory with something in it."""
    status = entry(directory, name)
    if status is not None and stat.S_ISDIR(status.st_mode):
        try:
            hands.rmdir(directory, name)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    elif status is not None:
        hands.unlink(directory, name)
    hands.meter.path()
    return True


def _open_to_empty(hands: Hands, directory: int, name: bytes) -> Fd:
    with openat2(directory, name, DIRECTORY | os.O_NOFOLLOW, resolve=BENEATH | RESOLVE_NO_XDEV) as held:
        if os.geteuid() != 0 and os.fstat(held).st_mode & 0o700 != 0o700:
            hands.chmod(held, 0o700)
        return Fd(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held))


def _move_up(hands: Hands, inner: Fd, top: Fd, number: int) -> int:
    """Remove what is in *inner*; directories that are not empty go to *top* instead."""
    for name in map(os.fsencode, os.listdir(inner)):
        if not _remove(hands, inner, name):
            number += 1
            while entry(top, b"%d.old" % number) is not None:
                number += 1
            hands.rename(inner, name, top, b"%d.old" % number, 0)
    return number
