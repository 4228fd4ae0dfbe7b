"""What the upper directory of a stack did to the layers below it, and what leads from one stack to another.

    for change in Overlay(spec).changes():
        print(change.kind, os.fsdecode(change.path), *change.what)
    for change in between(earlier, later): ...

The promise (a property test): applying the changes, in their order, to a copy of what the lower layers, or the first
stack, show gives exactly what the whole stack, or the second, shows. Their cost grows with the upper, or with the
layers that the two stacks do not have in common; those below are only looked up where one of these has an entry, and
walked where something of them vanished or moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from lamina.errors import InvalidInput
from lamina.overlay.spec import MountSpec

Kind = Literal["added", "changed", "deleted", "replaced"]
Vanished = Literal["list", "count", "none"]
# of a layer's directory and a path in it: what stands for the file there, see `between`
Known = Callable[[bytes, bytes], object]

# by the file type in st_mode (S_IFMT >> 12), inode(7)
TYPES = {1: "fifo", 2: "char", 4: "directory", 6: "block", 8: "file", 10: "symlink", 12: "socket"}


class Entry(NamedTuple):
    """One entry of a tree, as lstat(2) shows it.

    `type` is "file", "directory", "symlink", "char", "block", "fifo" or "socket"; `mode` the permission bits (0o7777);
    `size` in bytes; times in nanoseconds since 1970; `target` the text of a symbolic link, else None; `rdev` the
    number of a device, else 0. `dev` and `ino` are of the real file in its layer, not of a mount.
    """

    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes | None
    rdev: int
    nlink: int
    ino: int
    dev: int
    ctime_ns: int


class Change(NamedTuple):
    """One path that differs between two trees: what the lower layers of a stack show and what the whole stack does, or
    what two stacks do.

    path      relative to the overlay's root, no leading "/"; b"" is the root itself
    kind      "added", "changed", "deleted", or "replaced" by another type of file
    what      of "changed": which of content mode owner times xattrs target rdev differ. Empty when all that is new is
              that it is another name of `link_to`
    before    what the first tree, such as the lower layers, shows there; None of "added"
    after     what the second, such as the whole stack, shows; None of "deleted"
    implied   a deletion without a whiteout of its own: a directory above it was deleted, replaced or re-created
    vanished  of a deleted or replaced directory: how many entries were below it; None unless they were counted
    link_to   a hard link: the path of another name of the same file, which is unchanged or was changed earlier
    moved_from  of a directory renamed with a redirect: the path under which the layers below know it
    capabilities  whether the stack's file gives capabilities to whoever executes it (capabilities(7))
    """

    path: bytes
    kind: Kind
    what: frozenset[str]
    before: Entry | None
    after: Entry | None
    implied: bool = False
    vanished: int | None = 0
    link_to: bytes | None = None
    moved_from: bytes | None = None
    capabilities: bool = False

    @property
    def incidental(self) -> bool:
        """A directory of which nothing but the times differ: it happens when something in it comes or goes."""
        return (
            self.kind == "changed"
            and self.what == {"times"}
            and self.after is not None
            and self.after.type == "directory"
        )


def entry_of(status: os.stat_result, target: bytes | None = None) -> Entry:
    """The Entry for what lstat(2) said; *target* is the text of a symbolic link."""
    mode = status.st_mode
    return Entry(
        TYPES[mode >> 12], mode & 0o7777, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, target,
        status.st_rdev, status.st_nlink, status.st_ino, status.st_dev, status.st_ctime_ns,
    )  # fmt: skip


def changes(spec: MountSpec, *, vanished: Vanished = "list", above: int = 1) -> Iterator[Change]:
    """Every path that *spec*'s upper directory changed, sorted by path (parents before children).

    *above*: what all layers did whose numbers are lower than this; 0 is the upper directory, 1 the topmost lower one.

    Deleted, replaced and re-created directories say what vanished in them: *vanished* "list" gives every entry as an
    implied deletion of its own, "count" counts those below a deleted or replaced directory in its `vanished`, "none"
    does not look there. In a re-created directory each entry that is gone is always given.

    New metadata alone ("metacopy"), directories moved by redirects, and copies that are identical to the original are
    seen as what they are; the last are no changes. Without an upper directory there are none.
    Raises OSError (a layer that cannot be read, a malformed mark in it); Unsupported for a stack that was mounted with
    `index=on` and in which a hard link of a lower file was changed under one name but not under the others: only the
    kernel's index joins these. InvalidInput where nothing is below.
    """
    from lamina.overlay import difference

    _check(vanished)
    if spec.upperdir is None and above == 1:
        return iter(())
    if not 0 < above <= len(spec.lowerdirs):
        raise InvalidInput(
            f"compare the layers above {above} of a stack: it has {len(spec.lowerdirs)} lower ones"
        )
    return difference.Difference(difference.above(spec, above), vanished).run()


def between(
    before: MountSpec, after: MountSpec, *, vanished: Vanished = "list", known: Known | None = None
) -> Iterator[Change]:
    """Every path that differs between what two stacks show, sorted by path: what leads from *before* to *after*.

    The lowest lower directories that both have, as the same paths and with the same marks in force, are not read but
    where the others lead there: that is all that two states of a container cost. *known* spares reading more: two
    files for which it gives the same (and not None) are equal in content and attributes. As `changes` otherwise.
    """
    from lamina.overlay import difference

    _check(vanished)
    return difference.Difference(difference.beside(before, after, known), vanished).run()


def _check(vanished: Vanished) -> None:
    if vanished not in ("list", "count", "none"):
        raise InvalidInput(f'compare layers with vanished={vanished!r}: it is "list", "count" or "none"')
