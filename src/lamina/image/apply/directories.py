"""The directories that entries are put into, held open while it is their turn.

An archive is mostly in the order of its directories, so each is opened once and its entries follow. While it is open
it may have lost what would spread to its new entries, a set-group-id bit and a default ACL, and its time changes with
each of them. Both are put back when it is closed. So nothing has to be remembered to the end, however many directories
an archive has.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENODATA, ENOENT, ENOTDIR, EOPNOTSUPP, EXDEV

from lamina.errors import InvalidInput, KernelError
from lamina.image.apply.attributes import DEFAULT_ACL
from lamina.linux.constants import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from lamina.linux.files import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.linux.fd import Fd

PLAINLY = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
BY_LINKS = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_LISTABLE = os.O_RDONLY | os.O_DIRECTORY
HELD = 48  # directories open at once; a process may often hold no more than 1024 descriptors
_ALIASES = 4096


class NoDirectory(InvalidInput):
    """An entry is below something that is no directory in the same layer."""


class Directory:
    """One that is open. `path` has no links in it; `mtime_ns` is the time it is to have when it is closed."""

    __slots__ = ("acl", "fd", "gid", "mode", "mtime_ns", "path", "waiting")

    def __init__(self, path: bytes, fd: Fd, status: os.stat_result) -> None:
        self.path = path
        self.fd = fd
        self.gid = status.st_gid
        self.mode: int | None = None  # what to put back
        self.acl: bytes | None = None
        self.mtime_ns = status.st_mtime_ns
        self.waiting = False  # whether files are still to be made in it
        if status.st_mode & stat.S_ISGID:
            self.mode = stat.S_IMODE(status.st_mode)
            os.fchmod(fd, self.mode & ~stat.S_ISGID)

    def settle(self, mode: int, mtime_ns: int, acl: bytes | None) -> None:
        """Give it its permissions now, and the rest when it is closed."""
        self.mode = mode if mode & stat.S_ISGID else None
        os.fchmod(self.fd, mode & ~stat.S_ISGID)
        self.mtime_ns = mtime_ns
        if acl is not None:
            self.acl = acl

    def take_acl(self) -> None:
        """Take the default ACL away meanwhile."""
        try:
            self.acl = os.getxattr(self.fd, DEFAULT_ACL)
            os.removexattr(self.fd, DEFAULT_ACL)
        except OSError as error:
            if error.errno not in (ENODATA, EOPNOTSUPP):
                raise

    def close(self) -> None:
        """Put back what was taken away, then the time."""
        with self.fd:
            if self.mode is not None:
                os.fchmod(self.fd, self.mode)
            if self.acl is not None:
                os.setxattr(self.fd, DEFAULT_ACL, self.acl)
            os.utime(self.fd, ns=(self.mtime_ns, self.mtime_ns))


class Directories:
    """Those of one layer."""

    def __init__(
        self,
        root: int,
        before_close: Callable[[], None],
        pending: Callable[[bytes], None],
        clear: Callable[[Directory, bytes], bool],
        made: Callable[[Directory, bool], None],
    ) -> None:
        """*root* stays the caller's.

        *before_close* is called before any is closed; *pending* is told of each path before it is looked at; *clear*
        takes away a whiteout, and says whether it was one; *made* is told which directory is new, and whether it is
        opaque.
        """
        self._root = root
        self._before_close, self._pending, self._clear, self._made = before_close, pending, clear, made
        self._open: dict[bytes, Directory] = {}
        self._aliases: dict[bytes, bytes] = {}
        self.acls = False  # whether any directory has a default ACL
        self._home = os.readlink(b"/proc/self/fd/%d" % root).rstrip(b"/")
        self.root = Directory(b"", openat2(root, b".", _LISTABLE), os.fstat(root))

    def get(self, path: bytes) -> Directory:
        """The directory at *path*, links on the way followed inside the root; what is missing is made.

        Raises InvalidInput where something that is no directory is in the way; OSError.
        """
        found = self.held(path)
        if found is not None:
            return found
        if (alias := self._aliases.get(path)) is not None:
            return self.get(alias)
        return self._find(path) or self._make(path)

    def find(self, path: bytes) -> Directory | None:
        """As `get`, but None where it is missing, or something else is there."""
        path = self._aliases.get(path, path)
        return self.held(path) or self._find(path)

    def _find(self, path: bytes) -> Directory | None:
        self._pending(path)
        try:
            fd = openat2(self._root, path, _LISTABLE, resolve=PLAINLY)
        except KernelError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return None
            if error.errno == ELOOP:
                return self._by_links(path)
            raise
        return self.hold(path, fd)

    def _by_links(self, path: bytes) -> Directory | None:
        self._before_close()  # a link may lead to what is still to be made
        try:
            fd = openat2(self._root, path, _LISTABLE, resolve=BY_LINKS)
        except KernelError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return None
            if error.errno in (ELOOP, EXDEV):
                raise InvalidInput(f"unpack layer: the links on the way to {path!r} lead nowhere") from error
            raise
        real = os.readlink(b"/proc/self/fd/%d" % fd)
        if real != self._home and not real.startswith(self._home + b"/"):
            fd.close()
            raise InvalidInput(f"unpack layer: the links on the way to {path!r} lead out of the layer")
        real = real[len(self._home) + 1 :]
        if len(self._aliases) >= _ALIASES:
            self._aliases.clear()
        self._aliases[path] = real
        if not real or real in self._open:
            fd.close()
            return self.held(real)
        return self.hold(real, fd)

    def _make(self, path: bytes) -> Directory:
        """One that no entry has described: 0755, root's, as old as can be, so that it is the same every time."""
        above, _, base = path.rpartition(b"/")
        parent = self.get(above)
        real = b"%b/%b" % (parent.path, base) if parent.path else base
        self._pending(real)
        opaque = False
        try:
            os.mkdir(base, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            if not self._clear(parent, base):
                raise NoDirectory(
                    f"unpack layer: an entry is below {path!r}, which is no directory"
                ) from None
            opaque = True  # it was deleted below, and begins anew
            os.mkdir(base, 0o700, dir_fd=parent.fd)
        found = self.hold(real, openat2(parent.fd, base, _LISTABLE, resolve=PLAINLY))
        self._made(found, opaque)
        return found

    def hold(self, path: bytes, fd: Fd) -> Directory:
        """Keep a directory that was just opened, its path without links."""
        held = self._open
        if len(held) >= HELD:
            oldest = held.pop(next(iter(held)))
            if oldest.waiting:
                self._before_close()
            oldest.close()
        found = held[path] = Directory(path, fd, os.fstat(fd))
        if self.acls:
            found.take_acl()
        return found

    def held(self, path: bytes) -> Directory | None:
        """The directory, if it is open; it stays so until as many others as are held were asked for."""
        if not path:
            return self.root
        found = self._open.pop(path, None)
        if found is not None:
            self._open[path] = found  # the last to be closed
        return found

    def forget_links(self) -> None:
        """Something was taken away: links may lead elsewhere now."""
        self._aliases.clear()

    def close_below(self, path: bytes) -> None:
        """Close what is open at and below *path*, which is to be removed; everything but the root for b""."""
        self._before_close()
        self._aliases.clear()
        for held in [held for held in self._open if held == path or not path or held.startswith(path + b"/")]:
            self._open.pop(held).close()

    def abandon(self) -> None:
        """Close everything without putting anything back: after an error."""
        for found in self._open.values():
            found.fd.close()
        self._open.clear()
        self.root.fd.close()
