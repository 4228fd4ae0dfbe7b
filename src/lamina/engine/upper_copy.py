"""An upper directory copied as it is stored, with the marks of overlayfs: what becomes of it where it cannot be moved.

Content is shared with the original where the file system can (a reflink takes the same time for any size). Nobody
writes to the upper meanwhile; by descriptors, so that no link in it leads anywhere.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENOENT, ENOTDIR

from lamina.errors import Conflict, Unsupported
from lamina.linux.fd import Fd
from lamina.overlay.copying import copy_content, listed, set_mode, set_owner, set_times, set_xattrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.image.apply.ids import IdMap

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# what is another thing, or gone, since it was looked at
_CHANGED = (ENOENT, ENOTDIR, ELOOP)
_HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_upper(
    source: bytes, target: bytes, asked: dict[str, Any], *, shared: bool = False, ids: IdMap | None = None
) -> None:
    """Copy the tree *source* of the container whose record is *asked* to *target*, which is made. *shared*: others may
    be at work in it, against us even; what is gone when it is looked at is left out. *ids* are what the owners become.
    Raises OSError.
    """
    from lamina.engine.within import inside, maps_of

    maps = maps_of(asked)
    if maps is None:
        copy_stored(source, target, shared, ids)
    else:
        inside(maps, copy_stored, source, target, shared, ids)


def copy_stored(source: bytes, target: bytes, shared: bool = False, ids: IdMap | None = None) -> None:
    """As `copy_upper`, where the ids of the files are at hand. What there is of *target* is removed first. Raises
    Unsupported for directories that lie too deep in one another, OSError.
    """
    from lamina.store.tree import remove_tree

    remove_tree(target)
    os.mkdir(target, 0o700)
    with Fd(os.open(source, _DIRECTORY)) as here, Fd(os.open(target, _DIRECTORY)) as there:
        try:
            _Copy(there, shared, ids).directory(here, there, b"")
        except RecursionError:
            raise Unsupported(
                f"copy {os.fsdecode(source)}: its directories lie too deep in one another",
                remedy="nobody needs such: remove them, or stop the container, which copies nothing",
            ) from None


class _Copy:
    def __init__(self, top: int, shared: bool, ids: IdMap | None) -> None:
        self.top, self.shared, self.ids = top, shared, ids
        self.links: dict[tuple[int, int], bytes] = {}  # the first name of each file that has several

    def directory(self, here: int, there: int, path: bytes) -> None:
        """Everything in the open directory *here* to the open directory *there*, and its attributes last."""
        for name in sorted(map(os.fsencode, os.listdir(here))):
            try:
                self._entry(here, there, name, b"%b/%b" % (path, name) if path else name)
            except OSError as error:
                if not self.shared or error.errno not in _CHANGED:
                    raise
        self._attributes(here, there, os.fstat(here))

    def _entry(self, here: int, there: int, name: bytes, path: bytes) -> None:
        # held before it is looked at, it is this one, whatever its name means by then: else whoever exchanges names
        # would have content of his with another's owner and set-user-ID bit, or a device of his opened
        with Fd(os.open(name, _HELD, dir_fd=here)) as held:
            found = os.fstat(held)
            kind = stat.S_IFMT(found.st_mode)
            if kind != stat.S_IFDIR:
                self._file(held, there, name, path, found, kind)
                return
            with Fd(os.open(b"/proc/self/fd/%d" % held, _DIRECTORY & ~os.O_NOFOLLOW)) as old:
                os.mkdir(name, 0o700, dir_fd=there)
                with Fd(os.open(name, _DIRECTORY, dir_fd=there)) as new:
                    held.close()
                    self.directory(old, new, path)

    def _file(
        self, held: int, there: int, name: bytes, path: bytes, found: os.stat_result, kind: int
    ) -> None:
        file = found.st_dev, found.st_ino
        if found.st_nlink > 1 and (first := self.links.get(file)) is not None:
            os.link(first, name, src_dir_fd=self.top, dst_dir_fd=there, follow_symlinks=False)
            return
        self._leaf(held, there, name, found, kind)
        if found.st_nlink > 1:
            self.links[file] = path

    def _leaf(self, held: int, there: int, name: bytes, found: os.stat_result, kind: int) -> None:
        if kind == stat.S_IFREG:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with (
                _opened(held, name) as old,
                Fd(os.open(name, flags, 0o600, dir_fd=there)) as new,
            ):
                copy_content(old, new)
                self._attributes(old, new, found)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(b"", dir_fd=held), name, dir_fd=there)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=there)
        with Fd(os.open(name, _HELD, dir_fd=there)) as new:
            self._attributes(held, new, found)

    def _attributes(self, old: int, new: int, found: os.stat_result) -> None:
        """In this order: each of the first takes some of the next away."""
        source, ids = b"/proc/self/fd/%d" % old, self.ids
        attributes = {name: os.getxattr(source, name) for name in listed(source)}
        uid, gid = found.st_uid, found.st_gid
        if ids is not None:
            attributes = {name: ids.xattr(name, content) for name, content in attributes.items()}
            uid, gid = ids.uid(uid), ids.gid(gid)
        set_owner(new, uid, gid)
        set_mode(new, stat.S_IMODE(found.st_mode))
        set_xattrs(new, attributes)
        set_times(new, found.st_atime_ns, found.st_mtime_ns)


def _opened(held: int, name: bytes) -> Fd:
    """The file *held* (O_PATH), to be read. Somebody may have it for himself; the kernel has asked him to give it
    up, and he cannot while he stands still for us.
    """
    try:
        return Fd(os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except BlockingIOError:
        raise Conflict(
            f"copy {os.fsdecode(name)}: a program has a lease on this file (F_SETLEASE, fcntl(2))",
            remedy="it was asked to give it up: try again, or end it; /proc/locks says which it is",
        ) from None
