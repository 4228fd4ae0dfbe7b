"""Removing a tree that a container has written: nothing in it is trusted, nothing outside it is touched."""

from __future__ import annotations

import os
from errno import EACCES, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, EPERM
from stat import S_ISDIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Remove = Callable[[bytes], None]

# descriptors held at once; what lies deeper is moved up first
DEEPEST = 32
# of what was removed, those at most that are closed at the end of the process
MOST_LINGERING = 64
_lingering: list[int] | None = None


def linger() -> list[int]:
    """From now on descriptors of what is removed stay open, in this list, for a process that will end in a moment, but
    has somebody to tell the outcome before.

    A file system gives blocks back when the last descriptor is closed. Mounted with `discard` it may wait for the disk
    then, as ext4 without a journal does: a tenth of a millisecond for each directory, several on a disk that is busy.
    """
    global _lingering
    if _lingering is None:
        _lingering = []
        os.register_at_fork(after_in_child=_let_go)
    return _lingering


def _let_go() -> None:
    """A fork may live for long."""
    global _lingering
    for descriptor in _lingering or ():
        os.close(descriptor)
    _lingering = None


def hold(name: bytes, parent: int | None = None) -> None:
    """Open *name*, which is about to be removed, if descriptors of such files are to linger."""
    if _lingering is None or len(_lingering) >= MOST_LINGERING:
        return
    try:
        _lingering.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent))
    except OSError:  # it costs time, and nothing else
        pass


def empty(grave: bytes, remove: Remove) -> None:
    """Remove a directory that was moved away, whose `lock` is held. That goes last: as long as it is there, what is
    left can be told from what is going on. Raises what *remove* raises.
    """
    for entry in os.listdir(grave):
        if entry != b"lock":
            remove(grave + b"/" + entry)
    try:
        os.unlink(grave + b"/lock")
    except FileNotFoundError:
        pass
    hold(grave)
    try:
        os.rmdir(grave)
    except OSError as error:
        # gone; or somebody who buries too has just locked it anew, and removes it
        if error.errno not in (ENOENT, ENOTEMPTY):
            raise


def remove_tree(path: bytes, removed: Callable[[], None] | None = None) -> None:
    """Remove the file or directory *path* and everything below it. Missing is fine. *removed* is called for each.

    Links are removed, never followed; works by descriptors, so what is exchanged meanwhile cannot lead outside;
    any depth, any name length. Directories of one's own that were made unreadable are opened up.
    Raises PermissionError for entries of another user (a container's subordinate ids).
    """
    above, _, name = path.rpartition(b"/")
    try:
        parent = os.open(above or b"/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        hold(name, parent)
        if not _remove_leaf(name, parent):
            _Remover(parent, name, removed).run()
        if removed is not None:
            removed()
    finally:
        os.close(parent)


def _remove_leaf(name: bytes, parent: int) -> bool:
    """Remove *name* if that takes one call: no directory, or an empty one."""
    try:
        os.unlink(name, dir_fd=parent)
        return True
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        pass
    except PermissionError:  # POSIX: what unlink says to a directory; on Linux: really no permission
        if not S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
    return _remove_empty(name, parent)


def _remove_empty(name: bytes, parent: int) -> bool:
    """Remove the directory *name* if it is empty; what else it is, or why not, the next call finds out."""
    try:
        os.rmdir(name, dir_fd=parent)
        return True
    except FileNotFoundError:
        return True
    except OSError:
        return False


class _Remover:
    """Walks down with a stack of open directories. `moved` numbers what was moved up to the top directory."""

    def __init__(self, parent: int, name: bytes, removed: Callable[[], None] | None) -> None:
        self.parent, self.name, self.removed = parent, name, removed
        self.moved = 0

    def run(self) -> None:
        top = _open_directory(self.name, self.parent)
        if top is None:
            return
        try:
            # what is too deep is moved up into the top directory and found there in the next round
            while self._empty(top, top, 1):
                pass
        finally:
            os.close(top)
        os.rmdir(self.name, dir_fd=self.parent)

    def _empty(self, directory: int, top: int, depth: int) -> bool:
        """Empty the open *directory*; whether something was moved up instead of removed."""
        again = False
        with os.scandir(
            directory
        ) as found:  # all of them first: what is removed meanwhile could shift the rest
            entries = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in found]
        for child, is_directory in entries:
            hold(child, directory)
            if _remove_empty(child, directory) if is_directory else _remove_leaf(child, directory):
                if self.removed is not None:
                    self.removed()
                continue
            if depth >= DEEPEST:
                self.moved += 1
                os.rename(child, b".lamina-%d-%s" % (self.moved, os.urandom(8).hex().encode()),
                          src_dir_fd=directory, dst_dir_fd=top)  # fmt: skip
                again = True
                continue
            below = _open_directory(child, directory)
            if below is None:
                continue
            try:
                again |= self._empty(below, top, depth + 1)
            finally:
                os.close(below)
            os.rmdir(child, dir_fd=directory)
            if self.removed is not None:
                self.removed()
        return again


def _open_directory(name: bytes, parent: int) -> int | None:
    """Open a directory for emptying it; None if it is gone or no directory any more."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, ELOOP):
            return None
        if error.errno not in (EACCES, EPERM):
            raise
        descriptor = _unlock(name, parent, flags)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        try:
            os.fchmod(descriptor, 0o700)
        except PermissionError:
            pass  # the next call says what is missing
    return descriptor


def _unlock(name: bytes, parent: int, flags: int) -> int:
    """Open a directory that its owner, who we hope to be, may not read."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # by descriptor: chmod(2) on a name would follow a link put there meanwhile
        os.chmod(b"/proc/self/fd/%d" % path, 0o700)
    finally:
        os.close(path)
    return os.open(name, flags, dir_fd=parent)
