"""Between a chain of layers and a plain copy of what it shows: copying it out, and back only what differs.

`freeze(copy, lower, upper)` makes of an empty directory the upper of a stack over *lower* that shows what *copy* is:
the inverse of `copy` with that upper on top, as a property test says.
"""

from __future__ import annotations

import os
from errno import EPERM
from stat import S_ISCHR, S_ISDIR, S_ISLNK, S_ISREG

from lamina.linux.fd import Fd
from lamina.overlay.apply import Target
from lamina.overlay.changes import TYPES, Change, entry_of
from lamina.overlay.copying import listed, same_content
from lamina.overlay.layer import TRUSTED, USER, WHITEOUT_DEV
from lamina.overlay.lookup import open_beneath
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from lamina.overlay.changes import Entry
    from lamina.overlay.layer import LayerFormat
    from lamina.overlay.tree import Tree

    AnyTree: TypeAlias = "Tree | _Plain"

_ALL = frozenset({"mode", "owner", "times", "xattrs"})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Links = dict[tuple[int, int], bytes]


def copy(lower: MountSpec, directory: bytes) -> None:
    """Copy what the stack shows into the empty *directory*, which gets the attributes of its root. Raises OSError."""
    links: Links = {}
    with Overlay(lower).open() as tree, Fd(os.open(directory, _DIRECTORY)) as root, Target(root) as target:
        _set_root(tree, target)
        for node in _walk(tree):
            target.apply(_added(node, links), tree)
        target.finish()


def freeze(copied: bytes, lower: MountSpec, upper: bytes) -> None:
    """Write into the empty directory *upper* what differs between the tree *copied* and what *lower* shows.

    Raises OSError. In *copied* nobody writes meanwhile.
    """
    marks = USER if lower.userxattr else TRUSTED
    with (
        Fd(os.open(copied, _DIRECTORY)) as there,
        Overlay(lower).open() as below,
        Fd(os.open(upper, _DIRECTORY)) as root,
        Target(root) as target,
    ):
        tree = _Plain(there)
        _set_root(tree, target)
        _Freezing(tree, below, target, root, marks).run()
        target.finish()


class _Plain:
    """A path in a tree in which nothing is a mark: what Tree is for a stack, as far as Target and we ask."""

    __slots__ = ("_top", "parts")

    def __init__(self, top: int, parts: tuple[bytes, ...] = ()) -> None:
        self._top, self.parts = top, parts

    @property
    def root(self) -> _Plain:
        return _Plain(self._top)

    def __truediv__(self, path: bytes) -> _Plain:
        return _Plain(self._top, (*self.parts, *(name for name in path.split(b"/") if name)))

    def iterdir(self) -> Iterator[_Plain]:
        with self._open(os.O_RDONLY | os.O_DIRECTORY) as directory:
            for name in os.listdir(directory):
                yield _Plain(self._top, (*self.parts, os.fsencode(name)))

    def lstat(self) -> os.stat_result:
        with self._open(os.O_PATH) as entry:
            return os.fstat(entry)

    def readlink_bytes(self) -> bytes:
        with self._open(os.O_PATH) as entry:
            return os.readlink(b"", dir_fd=entry)

    def xattrs(self) -> dict[str, bytes]:
        with self._open(os.O_PATH) as entry:
            place = b"/proc/self/fd/%d" % entry
            return {name: os.getxattr(place, name) for name in listed(place)}

    def open_content(self, *, follow_symlinks: bool = False) -> Fd:
        return self._open(os.O_RDONLY)

    def _open(self, flags: int) -> Fd:
        return open_beneath(self._top, b"/".join(self.parts), flags | os.O_NOFOLLOW)


class _Freezing:
    """Walks both trees at once; `made` are the directories of the upper so far."""

    def __init__(self, tree: _Plain, below: Tree, target: Target, root: int, marks: LayerFormat) -> None:
        self.tree, self.below, self.target, self.root, self.marks = tree, below, target, root, marks
        self.groups, self.groups_below = _groups(tree), _groups(below)
        self.links: Links = {}
        self.made: set[bytes] = {b""}

    def run(self) -> None:
        self._hide_marks(b"", self.tree)
        self._directory(self.tree, self.below)

    def _directory(self, tree: _Plain, below: Tree | None) -> None:
        here = {node.parts[-1]: node for node in tree.iterdir()}
        there = {} if below is None else {node.parts[-1]: node for node in below.iterdir()}
        for name in sorted(there.keys() - here.keys()):
            self._whiteout(there[name])
        for name in sorted(here):
            self._entry(here[name], there.get(name))

    def _entry(self, node: _Plain, old: Tree | None) -> None:
        status, before = node.lstat(), None if old is None else old.lstat()
        if not S_ISDIR(status.st_mode):
            if old is None or before is None or not self._same(node, status, old, before):
                self._bring(node, status)
            return
        merged = old if before is not None and S_ISDIR(before.st_mode) else None
        if merged is None or not _same_attributes(node, status, merged, merged.lstat()):
            self._bring(node, status)
            if old is not None and merged is None:
                self._mark_opaque(_path(node))
        self._directory(node, merged)

    def _same(self, node: _Plain, status: os.stat_result, old: Tree, before: os.stat_result) -> bool:
        """Whether the lower layers show exactly this already, under the same names."""
        path = _path(node)
        if self.groups.get(path) != self.groups_below.get(path):
            return False
        if not _same_attributes(node, status, old, before):
            return False
        if S_ISREG(status.st_mode):
            return status.st_size == before.st_size and _same_content(node, old)
        if S_ISLNK(status.st_mode):
            return node.readlink_bytes() == old.readlink_bytes()
        return status.st_rdev == before.st_rdev

    def _bring(self, node: _Plain, status: os.stat_result) -> None:
        """Put the entry into the upper, with the directories above it."""
        path = _path(node)
        self._above(path)
        if path in self.made:
            return
        if S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEV:
            raise OSError(EPERM, "a device 0/0 means a deletion in a layer", path)
        change = _added(node, self.links)
        self.target.apply(change, self.tree)  # type: ignore[arg-type]  # see _Plain
        if S_ISDIR(status.st_mode):
            self.made.add(path)
        if change.link_to is None:
            self._hide_marks(path, node)

    def _above(self, path: bytes) -> None:
        above = path.rpartition(b"/")[0]
        if above not in self.made:
            node = self.tree / above
            self._bring(node, node.lstat())

    def _whiteout(self, old: Tree) -> None:
        path = _path(old)
        self._above(path)
        above, _, name = path.rpartition(b"/")
        with self._open(above) as parent:
            status = os.fstat(parent)
            self.marks.make_whiteout(parent, name)
            os.utime(parent, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _mark_opaque(self, path: bytes) -> None:
        with self._open(path) as directory:
            self.marks.set_opaque(directory)

    def _hide_marks(self, path: bytes, node: _Plain) -> None:
        """Attributes that look like overlayfs' own are kept under the name that a mount would keep them under."""
        for name, content in node.xattrs().items():
            if name.startswith(self.marks.prefix):
                above, _, last = path.rpartition(b"/")
                with self._open(above) as parent:
                    place = b"/proc/self/fd/%d/%s" % (parent, last)
                    os.setxattr(place, self.marks.to_disk(name), content, follow_symlinks=False)
                    os.removexattr(place, name, follow_symlinks=False)

    def _open(self, path: bytes) -> Fd:
        return open_beneath(self.root, path, os.O_RDONLY | os.O_DIRECTORY)


def _set_root(tree: AnyTree, target: Target) -> None:
    after = _entry(tree)
    target.apply(Change(b"", "changed", _ALL, after, after), tree)  # type: ignore[arg-type]  # see _Plain


def _walk(tree: AnyTree) -> Iterator[AnyTree]:
    """Everything below, parents first."""
    waiting = [tree]
    while waiting:
        for node in sorted(waiting.pop().iterdir(), key=_path):
            yield node
            if S_ISDIR(node.lstat().st_mode):
                waiting.append(node)


def _groups(tree: AnyTree) -> dict[bytes, frozenset[bytes]]:
    """For each name of a file that has several in the tree: all of them."""
    found: dict[tuple[int, int], list[bytes]] = {}
    for node in _walk(tree):
        status = node.lstat()
        if status.st_nlink > 1 and not S_ISDIR(status.st_mode):
            found.setdefault((status.st_dev, status.st_ino), []).append(_path(node))
    groups = [frozenset(names) for names in found.values() if len(names) > 1]
    return {name: group for group in groups for name in group}


def _path(node: AnyTree) -> bytes:
    return b"/".join(node.parts)


def _entry(node: AnyTree) -> Entry:
    status = node.lstat()
    return entry_of(status, node.readlink_bytes() if S_ISLNK(status.st_mode) else None)


def _added(node: AnyTree, links: Links) -> Change:
    """The entry as one that is new; of a hard link's names the later ones are links to the first."""
    after, path = _entry(node), _path(node)
    first = path
    if after.nlink > 1 and after.type != "directory":
        first = links.setdefault((after.dev, after.ino), path)
    return Change(path, "added", frozenset(), None, after, link_to=None if first == path else first)


def _same_attributes(node: AnyTree, status: os.stat_result, old: AnyTree, before: os.stat_result) -> bool:
    return (
        TYPES[status.st_mode >> 12] == TYPES[before.st_mode >> 12]
        and status.st_mode == before.st_mode
        and (status.st_uid, status.st_gid) == (before.st_uid, before.st_gid)
        and status.st_mtime_ns == before.st_mtime_ns
        and node.xattrs() == old.xattrs()
    )


def _same_content(node: AnyTree, old: AnyTree) -> bool:
    with node.open_content(follow_symlinks=False) as ours, old.open_content(follow_symlinks=False) as theirs:
        return same_content(ours, theirs)
