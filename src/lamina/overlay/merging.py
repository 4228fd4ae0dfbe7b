"""Two sides changed the same tree: what of one can be taken over by the other, and where they contradict each other.

    decided = merge(ours, theirs, same)            # {path: Change} of each, since the tree that both began with
    decided.taken, decided.collisions

What one side alone changed is as that side has it. What both changed is a collision, unless both made the same of it:
type, permissions, owner, content and attributes, whenever that was. So is a directory that one side removed, or made
something else, and in which the other side made or changed something; the directory's times, which change with every
entry, count for nothing. A file is one thing here: lines of texts are not merged.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lamina.overlay.changes import Change

    Changes = Mapping[bytes, Change]


@value
class Collision:
    """A path about which the two sides do not agree: `ours` and `theirs` are what they did, of which one may be about
    a directory above it.
    """

    path: bytes
    ours: Change
    theirs: Change


@value
class Merged:
    """What of theirs is taken: what nobody but them changed; and what is to be decided, by path."""

    taken: dict[bytes, Change]
    collisions: tuple[Collision, ...]


def merge(ours: Changes, theirs: Changes, same: Callable[[bytes], bool]) -> Merged:
    """What becomes of both. *same* says whether the two sides have the same at a path where both have something."""
    return _Merge(ours, theirs, same).run()


def resolved(merged: Merged, prefer: Callable[[Collision], bool]) -> dict[bytes, Change]:
    """What is taken of theirs, where *prefer* decides for them or for us about each collision."""
    taken = dict(merged.taken)
    for collision in merged.collisions:
        if prefer(collision):
            taken[collision.theirs.path] = collision.theirs
    for collision in merged.collisions:
        if not prefer(collision) and is_gone(collision.theirs):
            # ours stays, in whatever directory it is
            taken.pop(collision.theirs.path, None)
    return dict(sorted(taken.items()))


def is_gone(change: Change) -> bool:
    """Whether there is no directory at its path any more."""
    return change.after is None or change.after.type != "directory"


def is_idle(change: Change) -> bool:
    """Whether it says no more than that something happened in a directory."""
    return change.incidental or (change.kind == "changed" and not change.what and change.link_to is None)


class _Merge:
    def __init__(self, ours: Changes, theirs: Changes, same: Callable[[bytes], bool]) -> None:
        self.ours, self.theirs, self.same = ours, theirs, same
        self.paths = sorted(ours)
        self.taken: dict[bytes, Change] = {}
        self.collisions: dict[bytes, Collision] = {}

    def run(self) -> Merged:
        for path in sorted(self.theirs):
            theirs = self.theirs[path]
            if not is_idle(theirs):
                self._one(path, theirs)
        found = tuple(self.collisions[path] for path in sorted(self.collisions))
        return Merged(self.taken, found)

    def _one(self, path: bytes, theirs: Change) -> None:
        if (above := self._gone_above(path)) is not None:
            if theirs.after is not None:
                self._collide(path, above, theirs)
            return  # both removed it
        ours = self.ours.get(path)
        if ours is not None and not is_idle(ours):
            if not self._agree(path, ours, theirs):
                self._collide(path, ours, theirs)
            return
        if is_gone(theirs) and (inside := list(self._made_below(path))):
            for change in inside:
                self._collide(change.path, change, theirs)
            return
        self.taken[path] = theirs

    def _agree(self, path: bytes, ours: Change, theirs: Change) -> bool:
        if ours.after is None or theirs.after is None:
            return ours.after is theirs.after
        return self.same(path)

    def _gone_above(self, path: bytes) -> Change | None:
        """What we did to a directory above it, if that is one no more."""
        while path:
            path = path.rpartition(b"/")[0]
            found = self.ours.get(path)
            if path and found is not None and is_gone(found):
                return found
        return None

    def _made_below(self, path: bytes) -> Iterator[Change]:
        """What we made or changed below it."""
        start = bisect_left(self.paths, path + b"/")
        for name in self.paths[start:]:
            if not name.startswith(path + b"/"):
                break
            found = self.ours[name]
            if found.after is not None and not is_idle(found):
                yield found

    def _collide(self, path: bytes, ours: Change, theirs: Change) -> None:
        self.collisions.setdefault(path, Collision(path, ours, theirs))
