"""One change of an overlay put onto a plain directory tree.

    with Overlay(spec).open() as tree, Target(os.open(b"/some/copy", os.O_DIRECTORY | os.O_CLOEXEC)) as target:
        for change in Overlay(spec).changes():
            target.apply(change, tree)            # = commit(stage(change, tree))
        target.finish()                           # attributes of directories, deepest first

A change is *staged*: the new file, link, device or directory is made complete under a temporary name beside its place
(or in a directory of the caller's choice on the same file system). It is *committed* by one rename, so every path
changes at once or not at all. The target may be rearranged by others meanwhile: everything is done by descriptors, no
symbolic link is followed, no other file system entered.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from lamina.linux.fd import Fd
from lamina.overlay.changes import Change

if TYPE_CHECKING:
    from lamina.overlay.tree import Tree


class Staged(NamedTuple):
    """A change that is ready to be committed. `name` in `stage_fd` is the new entry, b"" if none is needed."""

    change: Change
    name: bytes
    stage_fd: Fd


class Displaced(NamedTuple):
    """What stood where a change was committed: now `name` in the directory `dir_fd`, which the caller owns."""

    name: bytes
    dir_fd: Fd


class Target:
    """A plain directory tree, given as a descriptor of its root, that changes are put onto."""

    def __init__(self, root_fd: int, *, stage_fd: int | None = None, durable: bool = False) -> None:
        """*root_fd* stays the caller's. *stage_fd*: where to stage, on the same file system; by default beside each
        entry. *durable*: fsync every file before it takes its place, and every directory in `finish`."""
        raise NotImplementedError

    def stage(self, change: Change, tree: Tree) -> Staged:
        """Make what *change* brings, complete but for its name. *tree* is the whole stack. Raises OSError, Conflict."""
        raise NotImplementedError

    def commit(self, staged: Staged, *, keep: bool = False) -> Displaced | None:
        """Give it its name, in one step. With *keep*, what stood there is handed over, else it is removed."""
        raise NotImplementedError

    def discard(self, staged: Staged) -> None:
        """Remove what was staged and will not be committed. Idempotent."""
        raise NotImplementedError

    def apply(self, change: Change, tree: Tree) -> None:
        """Stage and commit one change; nothing is left behind if it fails."""
        raise NotImplementedError

    def finish(self) -> None:
        """Give directories their permissions and times, deepest first: earlier they would not have lasted."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget what was not finished."""
        raise NotImplementedError

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
