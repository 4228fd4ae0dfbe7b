"""One change of an overlay put onto a plain directory tree.

    with Overlay(spec).open() as tree, Target(os.open(b"/some/copy", os.O_DIRECTORY | os.O_CLOEXEC)) as target:
        for change in Overlay(spec).changes():
            target.apply(change, tree)            # = commit(stage(change, tree))
        target.finish()                           # attributes of directories, deepest first

A change is *staged*: the new file, link, device or directory is made complete under a temporary name beside its place
(or in a directory of the caller's choice on the same file system). It is *committed* by one rename, so a path changes
at once or not at all. New metadata alone is set in place, unless the file has other names, which must not change.

The target may be rearranged by others meanwhile: everything is done by descriptors, no symbolic link is followed, no
other file system entered. Content of devices and fifos is never touched.
"""

from __future__ import annotations

import errno
import os
import stat
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from lamina.errors import Conflict, KernelError
from lamina.linux.constants import RENAME_EXCHANGE, RENAME_NOREPLACE
from lamina.linux.fd import Fd
from lamina.linux.files import renameat2
from lamina.overlay.changes import TYPES, Change, Entry
from lamina.overlay.copying import copy_content, set_mode, set_owner, set_times, set_xattrs
from lamina.overlay.lookup import open_beneath

if TYPE_CHECKING:
    from lamina.overlay.tree import Tree

_NEW = {
    "fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK,
}  # fmt: skip
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_REMADE = frozenset({"content", "target", "rdev"})


class Staged(NamedTuple):
    """A change that is ready to be committed.

    `parent` is the directory it belongs to, held open until then, None if there is nothing to do; `name` in
    `stage_fd` is the new entry, b"" if none is needed: a deletion, or metadata alone, whose `xattrs` are kept here.
    """

    change: Change
    parent: Fd | None
    stage_fd: int
    name: bytes
    xattrs: dict[str, bytes] | None = None


class Displaced(NamedTuple):
    """What stood where a change was committed: now `name` in the directory `dir_fd`, which the caller owns."""

    name: bytes
    dir_fd: Fd


class Target:
    """A plain directory tree, given as a descriptor of its root, that changes are put onto."""

    def __init__(self, root_fd: int, *, stage_fd: int | None = None, durable: bool = False) -> None:
        """*root_fd* and *stage_fd* stay the caller's.

        *stage_fd*: a directory to stage in, on the same file system; by default beside each entry. *durable*: fsync
        every file before it takes its place, and every directory in `finish`.
        """
        self._root_fd = root_fd
        self._stage_fd = stage_fd
        self._durable = durable
        self._staged: set[bytes] = set()
        self._entries: dict[bytes, Entry] = {}  # of directories that were made or changed
        self._times: dict[
            bytes, tuple[int, int]
        ] = {}  # of directories in which something was made or removed

    # -- one change

    def apply(self, change: Change, tree: Tree) -> None:
        """Stage and commit one change; nothing is left behind if it fails. Raises as they do."""
        staged = self.stage(change, tree)
        try:
            self.commit(staged)
        except BaseException:
            self.discard(staged)
            raise

    def stage(self, change: Change, tree: Tree) -> Staged:
        """Make what *change* brings, complete but for its name. *tree* is the whole stack.

        Raises OSError: no room, no permission, a parent that is not a directory (any more); Conflict where the target
        has another type of file than the change is about.
        """
        try:
            parent = self._parent(change.path)
        except KernelError as error:
            if error.errno not in _GONE or not change.implied:
                raise
            return Staged(change, None, -1, b"")  # it went with a directory above it
        if change.path:
            self._touch(change.path, parent)
        where = parent if self._stage_fd is None else self._stage_fd
        after = change.after
        if after is None:
            return Staged(change, parent, where, b"")
        node = tree.root / (b"/" + change.path)
        if self._in_place(change, parent):
            return Staged(change, parent, where, b"", node.xattrs())
        name = b".lamina-" + os.urandom(8).hex().encode()
        try:
            if change.link_to is not None:
                self._link(change.link_to, where, name)
            else:
                _make(node, after, where, name)
                self._complete(node, after, where, name)
        except BaseException:
            remove(where, name)
            raise
        self._staged.add(name)
        return Staged(change, parent, where, name)

    def commit(self, staged: Staged, *, keep: bool = False) -> Displaced | None:
        """Give it its name, in one step. With *keep*, what stood there is handed over, else it is removed.

        Raises Conflict where an added entry's name is taken, OSError.
        """
        change, parent, where = staged.change, staged.parent, staged.stage_fd
        path, after = change.path, change.after
        if parent is None:
            return None
        base = _base(path)
        if after is not None and after.type == "directory":
            self._entries[path] = after
        displaced: bytes | None = None
        if after is None:
            displaced = self._take_away(change, parent, where)
        elif not staged.name:
            assert staged.xattrs is not None
            self._set_in_place(parent, base, after, staged.xattrs)
        elif change.kind == "added":
            try:
                renameat2(where, staged.name, parent, base, RENAME_NOREPLACE)
            except KernelError as error:
                if error.errno != errno.EEXIST:
                    raise
                raise Conflict(f"add {os.fsdecode(path)}: the target has such an entry already") from None
        else:
            displaced = self._put_in_its_place(staged, parent, base, keep)
        self._staged.discard(staged.name)
        if displaced is not None and not keep:
            remove(where, displaced)
            displaced = None
        if displaced is None:
            parent.close()
            return None
        return Displaced(displaced, Fd(os.dup(where)))

    def discard(self, staged: Staged) -> None:
        """Remove what was staged and will not be committed. Idempotent."""
        if staged.name in self._staged:
            self._staged.remove(staged.name)
            remove(staged.stage_fd, staged.name)
        if staged.parent is not None:
            staged.parent.close()

    # -- all of them

    def finish(self) -> None:
        """Give directories their permissions and times, deepest first: earlier they would not have lasted.

        A directory without a change of its own keeps the times it had. Raises OSError.
        """
        for path in sorted(self._entries.keys() | self._times.keys(), reverse=True):
            try:
                fd = open_beneath(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
            except KernelError as error:
                if error.errno in _GONE:
                    continue  # it went later on
                raise
            with fd:
                entry = self._entries.get(path)
                if entry is not None:
                    set_mode(fd, entry.mode)
                    set_times(fd, os.fstat(fd).st_atime_ns, entry.mtime_ns)
                else:
                    set_times(fd, *self._times[path])
                if self._durable:
                    os.fsync(fd)
        self._entries.clear()
        self._times.clear()

    def close(self) -> None:
        """Forget what was not finished. Idempotent."""
        self._entries.clear()
        self._times.clear()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- how

    def _parent(self, path: bytes) -> Fd:
        """The directory that holds *path*; of the root, the root."""
        above = path.rpartition(b"/")[0]
        return open_beneath(self._root_fd, above, os.O_PATH | os.O_DIRECTORY)

    def _touch(self, path: bytes, parent: Fd) -> None:
        above = path.rpartition(b"/")[0]
        if above not in self._times:
            status = os.fstat(parent)
            self._times[above] = status.st_atime_ns, status.st_mtime_ns

    def _in_place(self, change: Change, parent: Fd) -> bool:
        """Whether only metadata differs, and nothing but this path would notice."""
        if change.kind != "changed" or change.what & _REMADE or change.link_to is not None:
            return False
        assert change.after is not None
        status = os.stat(_base(change.path), dir_fd=parent, follow_symlinks=False)
        if TYPES[status.st_mode >> 12] != change.after.type:
            raise Conflict(f"change {os.fsdecode(change.path)}: in the target it is no {change.after.type}")
        return change.after.type == "directory" or status.st_nlink == 1

    def _set_in_place(self, parent: Fd, base: bytes, after: Entry, xattrs: dict[str, bytes]) -> None:
        with open_beneath(parent, base, os.O_PATH) as fd:
            set_owner(fd, after.uid, after.gid)
            set_xattrs(fd, xattrs)
            if after.type == "directory":
                set_mode(fd, after.mode | stat.S_IRWXU)  # what is still to come must get in
            else:
                set_mode(fd, after.mode)
                set_times(fd, os.fstat(fd).st_atime_ns, after.mtime_ns)

    def _link(self, to: bytes, where: int, name: bytes) -> None:
        with self._parent(to) as directory:
            os.link(_base(to), name, src_dir_fd=directory, dst_dir_fd=where, follow_symlinks=False)

    def _complete(self, node: Tree, after: Entry, where: int, name: bytes) -> None:
        """Owner first, which takes setuid and capabilities away; times last."""
        with open_beneath(where, name, os.O_PATH) as fd:
            set_owner(fd, after.uid, after.gid)
            set_xattrs(fd, node.xattrs())
            if after.type != "directory":
                set_mode(fd, after.mode)
            set_times(fd, after.mtime_ns, after.mtime_ns)
        if self._durable and after.type == "file":
            with open_beneath(where, name, os.O_RDONLY) as file:
                os.fsync(file)

    def _put_in_its_place(self, staged: Staged, parent: Fd, base: bytes, keep: bool) -> bytes:
        """Exchange the new entry for the old one, which then has its name."""
        change = staged.change
        try:
            renameat2(staged.stage_fd, staged.name, parent, base, RENAME_EXCHANGE)
        except KernelError as error:
            kinds = {entry.type for entry in (change.before, change.after) if entry is not None}
            if error.errno != errno.EINVAL or keep or "directory" in kinds:
                raise
            # a file system that cannot exchange; what rename(2) leaves, for two names of one file, is removed
            os.rename(staged.name, base, src_dir_fd=staged.stage_fd, dst_dir_fd=parent)
        return staged.name

    def _take_away(self, change: Change, parent: Fd, where: int) -> bytes | None:
        name = b".lamina-" + os.urandom(8).hex().encode()
        try:
            renameat2(parent, _base(change.path), where, name, RENAME_NOREPLACE)
        except KernelError as error:
            if error.errno != errno.ENOENT or not change.implied:
                raise
            return None  # it went with a directory above it
        return name


def _base(path: bytes) -> bytes:
    return path.rpartition(b"/")[2] or b"."


def _make(node: Tree, after: Entry, where: int, name: bytes) -> None:
    """The new entry with its content, not yet with its attributes."""
    if after.type == "directory":
        os.mkdir(name, 0o700, dir_fd=where)
    elif after.type == "symlink":
        os.symlink(after.target or b"", name, dir_fd=where)
    elif after.type in _NEW:
        os.mknod(name, _NEW[after.type] | 0o600, after.rdev, dir_fd=where)
    else:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with (
            Fd(os.open(name, flags, 0o600, dir_fd=where)) as new,
            node.open_content(follow_symlinks=False) as old,
        ):
            copy_content(old, new)


def remove(dir_fd: int, name: bytes) -> None:
    """Remove an entry and everything below it, entering no other file system; nothing if it is not there.

    Raises OSError: EXDEV for a directory on which something is mounted.
    """
    pending = [name]
    while pending:
        path = pending[-1]
        above, _, base = path.rpartition(b"/")
        try:
            parent = open_beneath(dir_fd, above, os.O_PATH | os.O_DIRECTORY)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return
        with parent:
            try:
                os.unlink(base, dir_fd=parent)
            except FileNotFoundError:
                pass
            except IsADirectoryError:
                inside = _listing(parent, base)
                if inside:
                    pending += [b"%b/%b" % (path, entry) for entry in inside]
                    continue
                os.rmdir(base, dir_fd=parent)
        pending.pop()


def _listing(parent: Fd, base: bytes) -> list[bytes]:
    with open_beneath(parent, base, os.O_RDONLY | os.O_DIRECTORY) as fd:
        return list(map(os.fsencode, os.listdir(fd)))
