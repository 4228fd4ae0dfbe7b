"""An upper directory copied as it is stored, with the marks of overlayfs: what becomes of it where it cannot be moved.

Content is shared with the original where the file system can (a reflink takes the same time for any size). Nobody
writes to the upper meanwhile; by descriptors, so that no link in it leads anywhere.
"""

from __future__ import annotations

import os
import stat

from lamina.errors import Unsupported
from lamina.linux.fd import Fd
from lamina.overlay.copying import copy_content, listed, set_mode, set_owner, set_times, set_xattrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def copy_upper(source: bytes, target: bytes, asked: dict[str, Any]) -> None:
    """Copy the tree *source* of the container whose record is *asked* to *target*, which is made. Raises OSError."""
    from lamina.engine.within import inside, maps_of

    maps = maps_of(asked)
    if maps is None:
        copy_stored(source, target)
    else:
        inside(maps, copy_stored, source, target)


def copy_stored(source: bytes, target: bytes) -> None:
    """As `copy_upper`, where the ids of the files are at hand. What there is of *target* is removed first. Raises
    Unsupported for directories that lie too deep in one another, OSError.
    """
    from lamina.store.tree import remove_tree

    remove_tree(target)
    os.mkdir(target, 0o700)
    with Fd(os.open(source, _DIRECTORY)) as here, Fd(os.open(target, _DIRECTORY)) as there:
        try:
            _Copy(there).directory(here, there, b"")
        except RecursionError:
            raise Unsupported(
                f"copy {os.fsdecode(source)}: its directories lie too deep in one another",
                remedy="nobody needs such: remove them, or stop the container, which copies nothing",
            ) from None


class _Copy:
    def __init__(self, top: int) -> None:
        self.top = top
        self.links: dict[tuple[int, int], bytes] = {}  # the first name of each file that has several

    def directory(self, here: int, there: int, path: bytes) -> None:
        """Everything in the open directory *here* to the open directory *there*, and its attributes last."""
        for name in sorted(map(os.fsencode, os.listdir(here))):
            self._entry(here, there, name, b"%b/%b" % (path, name) if path else name)
        _attributes(here, there, os.fstat(here))

    def _entry(self, here: int, there: int, name: bytes, path: bytes) -> None:
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=there)
            with (
                Fd(os.open(name, _DIRECTORY, dir_fd=here)) as old,
                Fd(os.open(name, _DIRECTORY, dir_fd=there)) as new,
            ):
                self.directory(old, new, path)
            return
        if found.st_nlink > 1:
            file = found.st_dev, found.st_ino
            if (first := self.links.get(file)) is not None:
                os.link(first, name, src_dir_fd=self.top, dst_dir_fd=there, follow_symlinks=False)
                return
            self.links[file] = path
        self._leaf(here, there, name, found, kind)

    def _leaf(self, here: int, there: int, name: bytes, found: os.stat_result, kind: int) -> None:
        if kind == stat.S_IFREG:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with (
                Fd(os.open(name, _FILE, dir_fd=here)) as old,
                Fd(os.open(name, flags, 0o600, dir_fd=there)) as new,
            ):
                copy_content(old, new)
                _attributes(old, new, found)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=there)
        path = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        with Fd(os.open(name, path, dir_fd=here)) as old, Fd(os.open(name, path, dir_fd=there)) as new:
            _attributes(old, new, found)


def _attributes(old: int, new: int, found: os.stat_result) -> None:
    """In this order: each of the first takes some of the next away."""
    set_owner(new, found.st_uid, found.st_gid)
    set_mode(new, stat.S_IMODE(found.st_mode))
    source = b"/proc/self/fd/%d" % old
    set_xattrs(new, {name: os.getxattr(source, name) for name in listed(source)})
    set_times(new, found.st_atime_ns, found.st_mtime_ns)
