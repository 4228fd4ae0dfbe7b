"""What of forks is taken over into their parent, path by path, and the layer that consists of it: where the files of
both can be reached (engine/within), so that everything here is a function of stacks and values.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lamina.engine.apply.values import below
from lamina.engine.comparing import changes_between
from lamina.errors import KernelError
from lamina.overlay.apply import Target, remove
from lamina.overlay.changes import Change, entry_of
from lamina.overlay.copying import same_content
from lamina.overlay.lookup import open_beneath
from lamina.overlay.merging import Collision, is_gone, is_idle, merge, resolved
from lamina.overlay.stack import Overlay
from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree

_CONTENT = frozenset({"content", "target", "rdev"})
OURS, THEIRS = "ours", "theirs"


@value
class Sides:
    """One place: what the parent is there, and of each fork what both began with and what it is."""

    at: bytes
    ours: MountSpec
    bases: tuple[MountSpec, ...]
    theirs: tuple[MountSpec, ...]


@value
class Taken:
    """What a path becomes: as the fork of that `number` has it. `whole`: the parent had changed it too, so that its
    content is made anew; `linked`: the other name of the file is as that fork has it.
    """

    change: Change
    number: int
    whole: bool
    linked: bool


@value
class Clash:
    """A path (absolute) that a fork and the parent changed, or a fork before it, whose name is `other` then ("": the
    parent): what each did ("added", "changed", "deleted" or "replaced"), and who is followed: "ours" (the parent, or
    that other fork), "theirs", or "" where nobody has said.
    """

    path: bytes
    fork: str
    other: str
    ours: str
    theirs: str
    decided: str


@value
class Decision:
    """Of one place: what is taken, by path, and what clashed."""

    at: bytes
    taken: dict[bytes, Taken]
    clashes: tuple[Clash, ...]


def decide(
    sides: Sequence[Sides], forks: Sequence[str], prefer: str | int, made: frozenset[bytes]
) -> list[Decision]:
    """What is taken over of the *forks*, one after the other. *prefer* is "ours", "theirs", the number of a fork, or
    "". *made* are mount points that are nobody's doing. Raises OSError.
    """
    return [_Place(side, forks, prefer, made).run() for side in sides]


class _Place:
    def __init__(self, sides: Sides, forks: Sequence[str], prefer: str | int, made: frozenset[bytes]) -> None:
        self.sides, self.forks, self.prefer, self.made = sides, forks, prefer, made
        self.taken: dict[bytes, Taken] = {}
        self.clashes: list[Clash] = []

    def run(self) -> Decision:
        with ExitStack() as held:
            ours = held.enter_context(Overlay(self.sides.ours).open())
            trees = [held.enter_context(Overlay(spec).open()) for spec in self.sides.theirs]
            for number in range(len(trees)):
                self._fork(number, ours, trees)
        return Decision(self.sides.at, dict(sorted(self.taken.items())), tuple(self.clashes))

    def _changes(self, base: MountSpec, spec: MountSpec) -> dict[bytes, Change]:
        found = changes_between([(self.sides.at, base, spec)], made=self.made)
        return {one.change.path: one.change for one in found}

    def _fork(self, number: int, ours: Tree, trees: list[Tree]) -> None:
        base = self.sides.bases[number]
        mine = self._changes(base, self.sides.ours)
        so_far = {**mine, **{path: one.change for path, one in self.taken.items()}}
        theirs = self._changes(base, self.sides.theirs[number])

        def same(path: bytes) -> bool:
            before = self.taken.get(path)
            here = ours if before is None else trees[before.number]
            return same_entry(here / (b"/" + path), trees[number] / (b"/" + path))

        merged = merge(so_far, theirs, same)
        for collision in merged.collisions:
            self.clashes.append(self._clash(collision, number))
        new = resolved(merged, lambda collision: self._decided(collision, number) == THEIRS)
        for path, change in new.items():
            if is_gone(change):  # what was taken from forks before goes with the directory
                for inner in [one for one in self.taken if one.startswith(path + b"/") and one not in new]:
                    del self.taken[inner]
        for path, change in new.items():
            to = change.link_to
            linked = to is not None and (to in new or (to not in so_far and to not in self.taken))
            whole = path in so_far and not is_idle(so_far[path])
            self.taken[path] = Taken(change, number, whole, linked)

    def _decided(self, collision: Collision, number: int) -> str:
        """Who is followed."""
        if isinstance(self.prefer, str):
            return self.prefer
        if number == self.prefer:
            return THEIRS
        before = self.taken.get(collision.ours.path)
        return OURS if before is not None and before.number == self.prefer else ""

    def _clash(self, collision: Collision, number: int) -> Clash:
        before = self.taken.get(collision.ours.path)
        return Clash(
            below(self.sides.at, collision.path),
            self.forks[number],
            "" if before is None else self.forks[before.number],
            collision.ours.kind,
            collision.theirs.kind,
            self._decided(collision, number),
        )


def same_entry(one: Tree, other: Tree) -> bool:
    """Whether two entries are alike in everything but their times, what is in directories aside."""
    a, b = one.lstat(), other.lstat()
    if (
        a.st_mode != b.st_mode
        or (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid)
        or one.xattrs() != other.xattrs()
    ):
        return False
    if stat.S_ISREG(a.st_mode):
        return a.st_size == b.st_size and _same_content(one, other)
    if stat.S_ISLNK(a.st_mode):
        return one.readlink_bytes() == other.readlink_bytes()
    return a.st_rdev == b.st_rdev


def _same_content(one: Tree, other: Tree) -> bool:
    with one.open_content(follow_symlinks=False) as a, other.open_content(follow_symlinks=False) as b:
        return same_content(a, b)


def write(root: int, taken: Mapping[bytes, Taken], theirs: Sequence[MountSpec]) -> None:
    """Make each path of *taken* below the directory *root*, a mount of the parent's stack, what its fork has. Raises
    OSError, Conflict.
    """
    with ExitStack() as held:
        trees = [held.enter_context(Overlay(spec).open()) for spec in theirs]
        target = held.enter_context(Target(root))
        for path in sorted(taken):
            one = taken[path]
            _put(root, target, one, trees[one.number])
        target.finish()


def _put(root: int, target: Target, one: Taken, tree: Tree) -> None:
    change = one.change
    path, after = change.path, change.after
    above, _, name = path.rpartition(b"/")
    if after is None:
        try:
            with open_beneath(root, above, os.O_PATH | os.O_DIRECTORY) as parent:
                remove(parent, name)
        except KernelError:
            if _held(root, above) == "directory":
                raise
        return  # it went with a directory above it, which may be something else by now
    _restore(root, target, above, tree)
    kind = _held(root, path)
    link_to = change.link_to if one.linked else None
    what = change.what
    if kind == "directory" and after.type == "directory":
        kept = change._replace(kind="changed", what=frozenset({"mode"}), link_to=None)
    elif kind == after.type and not (
        one.whole or what & _CONTENT or change.link_to or change.kind != "changed"
    ):
        kept = change
    else:
        if kind is not None:
            with open_beneath(root, above, os.O_PATH | os.O_DIRECTORY) as parent:
                remove(parent, name)
        kept = change._replace(kind="added", what=frozenset(), before=None, link_to=link_to)
    target.apply(kept, tree)


def _restore(root: int, target: Target, path: bytes, tree: Tree) -> None:
    """Make the directories above an entry that the parent has no longer as the fork has them."""
    if not path or _held(root, path) == "directory":
        return
    above, _, name = path.rpartition(b"/")
    _restore(root, target, above, tree)
    if _held(root, path) is not None:
        with open_beneath(root, above, os.O_PATH | os.O_DIRECTORY) as parent:
            remove(parent, name)
    entry = entry_of((tree / (b"/" + path)).lstat())
    target.apply(Change(path, "added", frozenset(), None, entry), tree)


def _held(root: int, path: bytes) -> str | None:
    """The type of what is there, None for nothing."""
    try:
        with open_beneath(root, path, os.O_PATH) as found:
            return entry_of(os.fstat(found)).type
    except OSError as error:
        import errno

        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
