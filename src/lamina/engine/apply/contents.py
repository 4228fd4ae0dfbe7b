"""Reading what a container made: one overlay's new entries, by descriptor.

Nearly every new entry is a plain one in the upper directory and is read there. What only the whole stack can answer
(a file whose content is still below, an entry that came along with a renamed directory) is read through its tree.
"""

from __future__ import annotations

import errno
import os
import stat

from lamina.engine.apply.attributes import Attributes, of_status
from lamina.engine.apply.places import GONE, Directories
from lamina.errors import KernelError
from lamina.linux.constants import RESOLVE_NO_XDEV
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.overlay.layer import TRUSTED, USER
from lamina.overlay.stack import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree


class New:
    """One new entry: its `status` (lstat), `attributes` as a mount shows them, `target` of a link, and its content."""

    def __init__(self, fd: Fd, xattrs: dict[str, bytes], tree: Tree | None) -> None:
        self._fd, self._tree = fd, tree
        self.status = os.fstat(fd)
        self.attributes: Attributes = of_status(self.status, xattrs)
        self.target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(self.status.st_mode) else b""

    def open(self) -> Fd:
        """A regular file's content, for reading. Raises OSError."""
        if self._tree is not None:
            return self._tree.open_content(follow_symlinks=False)
        return Fd(os.open(b"/proc/self/fd/%d" % self._fd, os.O_RDONLY | os.O_CLOEXEC))


class Contents:
    """The new entries of one overlay."""

    def __init__(self, spec: MountSpec) -> None:
        """Raises KernelError if the upper directory cannot be opened."""
        assert spec.upperdir is not None
        self._spec = spec
        self._format = USER if spec.userxattr else TRUSTED
        self._top = Fd(os.open(spec.upperdir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._upper = Directories(self._top)
        self._tree: Tree | None = None

    def read(self, path: bytes) -> New:
        """The entry at the relative *path* of the merged tree. Raises OSError."""
        try:
            fd = self._open(path)
        except KernelError as error:
            if error.errno not in GONE:
                raise
            return self._from_tree(path)
        names = _names(fd)
        if self._format.metacopy in names or self._format.is_whiteout(os.fstat(fd), names):
            return self._from_tree(path)
        place = b"/proc/self/fd/%d" % fd
        visible = {name: shown for name in names if (shown := self._format.to_visible(name)) is not None}
        return New(fd, {shown: os.getxattr(place, name) for name, shown in visible.items()}, None)

    def _open(self, path: bytes) -> Fd:
        if not path:
            return Fd(os.dup(self._upper.open(b"")))
        directory, name = self._upper.parent(path)
        return openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_NO_XDEV)

    def _from_tree(self, path: bytes) -> New:
        if self._tree is None:
            self._tree = Overlay(self._spec).open()
        found = self._tree / path
        return New(found.open_path(), found.xattrs(), found)

    def close(self) -> None:
        """Close the layers."""
        self._upper.close()
        self._top.close()
        if self._tree is not None:
            self._tree.close()


def _names(fd: int) -> list[str]:
    try:
        return os.listxattr(b"/proc/self/fd/%d" % fd)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []
