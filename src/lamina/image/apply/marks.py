"""Whiteouts and opaque directories in the form that overlayfs reads, and which of both forms this process can write."""

from __future__ import annotations

import os
import stat
from errno import ENODATA, EOPNOTSUPP, EPERM

from lamina.linux.files import openat2
from lamina.overlay.layer import TRUSTED, USER, WHITEOUT_DEV

_NOT_THERE = (ENODATA, EOPNOTSUPP)
_HERE = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS


class Marks:
    """The marks of one layer, as overlayfs.rst, "whiteouts and opaque directories", has them.

    A whiteout is a device 0/0 wherever one can be made (in a user namespace since Linux 5.8), else an attribute.
    """

    def __init__(self, userxattr: bool) -> None:
        """*userxattr*: the attributes' family is `user.`, as in a mount with that option."""
        self.format = USER if userxattr else TRUSTED
        self._by_xattr = False

    def is_whiteout(self, directory: int, name: bytes, status: os.stat_result) -> bool:
        """Whether the entry *name*, with this status, is a whiteout."""
        if stat.S_ISCHR(status.st_mode):
            return status.st_rdev == WHITEOUT_DEV
        if not self._by_xattr or not stat.S_ISREG(status.st_mode) or status.st_size:
            return False
        return _value(b"/proc/self/fd/%d/%b" % (directory, name), self.format.whiteout) is not None

    def whiteout(self, directory: int, name: bytes) -> bool:
        """Hide *name* of the layers below. Whether that took a file. What the layer itself has there stays.

        A whiteout is about the layers below only, before or after the entries of its own layer (layer.md).
        """
        if not self._by_xattr:
            try:
                self.format.make_whiteout(directory, name)
                return True
            except FileExistsError:
                self._hide_below(directory, name)
                return False
            except PermissionError as error:
                if error.errno != EPERM:
                    raise
                self._by_xattr = True
        opaque = _value(directory, self.format.opaque)
        if opaque == b"y":
            return False  # nothing of below shows there anyway, and of the two marks only one can be set
        try:
            self.format.make_whiteout(directory, name, by_xattr=True)
        except FileExistsError:
            self._hide_below(directory, name)
            return False
        if opaque is None:
            self.format.set_opaque(directory, b"x")
        return True

    def _hide_below(self, directory: int, name: bytes) -> None:
        """The layer has *name* itself: of a directory nothing of below may show; anything else hides it as it is."""
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            with openat2(directory, name, os.O_RDONLY | os.O_DIRECTORY, resolve=_HERE) as fd:
                self.set_opaque(fd)

    def set_opaque(self, directory: int) -> None:
        """Hide everything of that name in the layers below."""
        if self._by_xattr and _value(directory, self.format.opaque) == b"x":
            for name in map(os.fsencode, os.listdir(directory)):
                if self.is_whiteout(directory, name, os.stat(name, dir_fd=directory, follow_symlinks=False)):
                    os.unlink(name, dir_fd=directory)
        self.format.set_opaque(directory)


def _value(place: int | bytes, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None
