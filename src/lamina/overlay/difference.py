"""The walk behind `changes` and `between`: the trees of two stacks side by side, led by the layers that differ.

Two stacks have their lowest layers in common, as states of one container have, or a container and its image. Each one's
layers above these are its own. Where a directory continues in the same places of the common layers on both sides, only
names that an own layer has there can differ. Where it does not (it is opaque, or moved here by a redirect) both sides
are listed. A directory that is in nothing but the same places is not entered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from lamina.errors import Unsupported
from lamina.overlay.changes import Change, Entry, Known, Vanished, entry_of
from lamina.overlay.copying import same_content
from lamina.overlay.linked import Linked, joined_by_index
from lamina.overlay.lookup import Found, Hit, Layers, OpenDir, View
from lamina.overlay.spec import MountSpec

NOTHING: frozenset[str] = frozenset()
CAPABILITY = "security.capability"
# four times PATH_MAX: each entry of a chain of directories names all of those above it, and has each of them looked up,
# so what a container makes in a second could take a host's memory, and hours
LONGEST_PATH = 16 << 10


class _Below(NamedTuple):
    """A directory to enter: its path, and what each side has there."""

    path: bytes
    before: Found | None
    after: Found | None


class Side:
    """One of the two trees, and which of its layers are its own: those with a lower number than `common`.

    The others are the other tree's as well, as far from the bottom there as here. *known* may know of an entry of an
    own layer that it is another layer's: see `changes.between`.
    """

    def __init__(self, layers: Layers, first: int, common: int, known: Known | None = None) -> None:
        """The tree of *layers* from number *first* on. Raises KernelError for a layer that cannot be opened."""
        self.layers, self.common, self._known = layers, common, known
        self.view = View(layers, first=first)
        self.root = self.view.root

    def is_own(self, hit: Hit) -> bool:
        """Whether it is in a layer of this tree alone."""
        return hit.layer < self.common

    def own(self, hits: tuple[Hit, ...]) -> int:
        """How many of *hits*, which are top first, are in own layers."""
        return sum(hit.layer < self.common for hit in hits)

    def place(self, layer: int, path: bytes) -> tuple[int, bytes] | None:
        """What both sides call this place of a common layer; None of an own one."""
        if layer == -1:  # "the first data-only layer that has it"
            return (-1, path) if self.common <= self.layers.last else None
        return None if layer < self.common else (self.layers.last - layer, path)

    def same_as(self, layer: int, path: bytes) -> object:
        """What stands for the file there: two with the same are equal. None where only reading tells."""
        found: object = self.place(layer, path)
        if found is None and layer >= 0 and self._known is not None:
            found = self._known(self.layers.directories[layer], path)
        return found

    def places(self, hits: tuple[Hit, ...]) -> list[tuple[int, bytes] | None]:
        """`place` of each."""
        return [self.place(hit.layer, hit.path) for hit in hits]

    def tail(self, hits: tuple[Hit, ...]) -> list[tuple[int, bytes] | None]:
        """The places in common layers at which a directory with *hits* continues."""
        return self.places(hits[self.own(hits) :])

    def entry(self, found: Found) -> Entry:
        """The Entry of what was found."""
        hit = found.hits[0]
        return entry_of(found.status, self.layers.readlink(hit) if stat.S_ISLNK(hit.status.st_mode) else None)


def above(spec: MountSpec, number: int) -> tuple[Side, Side]:
    """Both sides of what the layers of *spec* with lower numbers than this did to the others. Raises KernelError."""
    layers = Layers(spec)
    try:
        return Side(layers, number, number), Side(layers, 0, number)
    except BaseException:
        layers.close()
        raise


def beside(before: MountSpec, after: MountSpec, known: Known | None = None) -> tuple[Side, Side]:
    """Both sides of what leads from one stack to the other. Raises KernelError for a layer that cannot be opened."""
    left = Layers(before)
    right = Layers(after, left)
    same = _common(left, right)
    try:
        return (
            Side(left, 0, left.last + 1 - same, known),
            Side(right, 0, right.last + 1 - same, known),
        )
    except BaseException:
        left.close()
        right.close()
        raise


def _common(left: Layers, right: Layers) -> int:
    """How many of the lowest layers two stacks have in common, and read in the same way."""
    marks = [
        (one.format, one.rules.follow, one.rules.metacopy, one.rules.reads_redirects, one.spec.datadirs)
        for one in (left, right)
    ]
    count = 0
    if marks[0] == marks[1]:
        for one, other in zip(reversed(left.spec.lowerdirs), reversed(right.spec.lowerdirs), strict=False):
            if one != other:
                break
            count += 1
    return count


class Difference:
    """One comparison. It holds the layers open until `run` is exhausted or closed."""

    def __init__(self, sides: tuple[Side, Side], vanished: Vanished) -> None:
        """Raises KernelError for a layer that cannot be opened, Unsupported for what only the kernel's index knows."""
        self.left, self.right = sides
        self.vanished = vanished
        self.linked = Linked(self)
        for layers in {id(side.layers): side.layers for side in sides}.values():
            if count := joined_by_index(layers):
                self.close()
                raise Unsupported(
                    f"compare layers: {count} hard-linked files were changed under names that the upper directory does"
                    " not have (index=on)",
                    remedy="mount the stack and compare there",
                )

    def close(self) -> None:
        """Close the layers. Idempotent."""
        self.left.layers.close()
        self.right.layers.close()

    def run(self) -> Iterator[Change]:
        """The changes, in order."""
        try:
            before, after = self.left.root, self.right.root
            change = self._change(b"", before, after)
            if change is not None:
                yield change
            open_directories = [self._directory(b"", before, after)]
            while open_directories:
                for step in open_directories[-1]:
                    if isinstance(step, Change):
                        yield step
                    else:
                        open_directories.append(self._directory(*step))
                        break
                else:
                    open_directories.pop()
        finally:
            self.close()

    def _directory(self, path: bytes, before: Found | None, after: Found | None) -> Iterator[Change | _Below]:
        """Changes of the entries of one directory, and the directories to enter at their places in the order."""
        pair = _Pair(self, before, after)
        later: list[tuple[bytes, _Below]] = []  # sorted as paths are: "a-b" comes between "a" and "a/c"
        try:
            for name in sorted(pair.names()):
                while later and later[0][0] < name:
                    # what is below may be deep: hold no descriptors meanwhile, they are opened again when needed
                    pair.close()
                    yield heappop(later)[1]
                entry = b"%b/%b" % (path, name) if path else name
                if len(entry) > LONGEST_PATH:
                    raise too_deep(entry)
                try:
                    old, new = pair.find(name)
                except OSError as error:
                    error.filename = "/" + os.fsdecode(entry)
                    raise
                change = self._change(entry, old, new, implied=pair.is_implied(name))
                if change is not None:
                    yield change
                if self._enter(old, new):
                    heappush(later, (name + b"/", _Below(entry, old, new)))
        finally:
            pair.close()
        while later:
            yield heappop(later)[1]

    def _enter(self, before: Found | None, after: Found | None) -> bool:
        if after is not None and after.is_dir:
            return before is None or not before.is_dir or not self._in_same_places(before, after)
        return before is not None and before.is_dir and self.vanished == "list"

    def _in_same_places(self, before: Found, after: Found) -> bool:
        if len(before.hits) != len(after.hits) or self.right.is_own(after.hits[0]):
            return False
        return self.left.places(before.hits) == self.right.places(after.hits)

    # -- one path

    def _change(
        self, path: bytes, before: Found | None, after: Found | None, *, implied: bool = False
    ) -> Change | None:
        if after is None:
            if before is None:
                return None
            return Change(
                path,
                "deleted",
                NOTHING,
                self.left.entry(before),
                None,
                implied=implied,
                vanished=self._lost(before),
            )
        link_to = self.linked.to(path, after)
        capable = CAPABILITY in after.hits[0].names
        if before is None:
            return Change(
                path,
                "added",
                NOTHING,
                None,
                self.right.entry(after),
                link_to=link_to,
                moved_from=self._moved(path, before, after),
                capabilities=capable,
            )
        if stat.S_IFMT(before.hits[0].status.st_mode) != stat.S_IFMT(after.hits[0].status.st_mode):
            return Change(
                path, "replaced", NOTHING, self.left.entry(before), self.right.entry(after),
                vanished=self._lost(before), link_to=link_to, moved_from=self._moved(path, before, after),
                capabilities=capable,
            )  # fmt: skip
        what = self.what(before, after)
        newly_linked = (
            link_to is not None and self.right.is_own(after.hits[0]) and self.linked.is_new(before, link_to)
        )
        if not what and not newly_linked:
            return None
        moved = self._moved(path, before, after)
        return Change(
            path, "changed", what, self.left.entry(before), self.right.entry(after), link_to=link_to,
            moved_from=moved, capabilities=capable,
        )  # fmt: skip

    def same(self, before: Found, after: Found) -> bool:
        """Whether nothing differs."""
        types = {stat.S_IFMT(found.hits[0].status.st_mode) for found in (before, after)}
        return len(types) == 1 and not self.what(before, after)

    def what(self, before: Found, after: Found) -> frozenset[str]:
        """In which respects two entries of the same type differ."""
        old, new = before.hits[0], after.hits[0]
        a, b = old.status, new.status
        kind = stat.S_IFMT(a.st_mode)
        side = Side.place if kind == stat.S_IFDIR else Side.same_as
        place = side(self.left, old.layer, old.path)
        if a is b or (place is not None and place == side(self.right, new.layer, new.path)):
            return NOTHING
        found = []
        if kind == stat.S_IFREG:
            if a.st_size != b.st_size or not self._same_content(before, after):
                found.append("content")
        elif kind == stat.S_IFLNK:
            if self.left.layers.readlink(old) != self.right.layers.readlink(new):
                found.append("target")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and a.st_rdev != b.st_rdev:
            found.append("rdev")
        if a.st_mode != b.st_mode:
            found.append("mode")
        if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
            found.append("owner")
        if a.st_mtime_ns != b.st_mtime_ns:
            found.append("times")
        if (old.names or new.names) and self.left.layers.xattrs(old) != self.right.layers.xattrs(new):
            found.append("xattrs")
        return frozenset(found)

    def _same_content(self, before: Found, after: Found) -> bool:
        assert before.content is not None
        assert after.content is not None
        place = self.left.same_as(*before.content)
        if place is not None and place == self.right.same_as(*after.content):
            return True  # a metacopy: only the attributes were copied up
        old, new = before.hits[0], after.hits[0]
        itself = after.content == (new.layer, new.path)
        if new.status.st_size == 0 and itself:
            return True
        if itself and before.content == (old.layer, old.path) and os.path.samestat(old.status, new.status):
            return True  # one file that two layers have: of a squashed layer and of those it was made of
        with self.left.layers.open_content(before) as a, self.right.layers.open_content(after) as b:
            return same_content(a, b)

    def _moved(self, path: bytes, before: Found | None, after: Found) -> bytes | None:
        own = self.right.own(after.hits)
        if not own or own == len(after.hits) or after.hits[own].path == path:
            return None
        if before is not None and self.left.tail(before.hits) == self.right.tail(after.hits):
            return None  # on both sides
        return after.hits[own].path

    # -- what vanished

    def _lost(self, before: Found) -> int | None:
        if not before.is_dir:
            return 0
        if self.vanished != "count":
            return None
        count = 0
        pending = [before]
        while pending:
            with OpenDir(self.left.layers, pending.pop().hits) as within:
                for name in within.names():
                    entry = self.left.view.find(within, name)
                    if entry is not None:
                        count += 1
                        if entry.is_dir:
                            pending.append(entry)
        return count


def too_deep(path: bytes) -> Unsupported:
    """The error for a path of more than LONGEST_PATH bytes."""
    return Unsupported(
        f"read layers: a path of more than {LONGEST_PATH} bytes, which begins with /{os.fsdecode(path[:60])!s}",
        remedy="nobody needs one: remove it there, or the container (lamina rm)",
    )


class _Pair:
    """A directory as both sides have it, held open while its names are looked up; one side may have none."""

    def __init__(self, difference: Difference, before: Found | None, after: Found | None) -> None:
        left, right = self.left, self.right = difference.left, difference.right
        old = before.hits if before is not None and before.is_dir else ()
        new = after.hits if after is not None and after.is_dir else ()
        self.old, self.new = old, new
        self.old_own, self.new_own = left.own(old), right.own(new)
        self.merged = bool(old and new) and left.tail(old) == right.tail(new)
        self.recreated = not self.merged and len(old) > self.old_own
        self.ours = OpenDir(right.layers, new)
        # the same directories: what is looked up on the left begins below the upper
        one = self.merged and left.layers is right.layers and self.new_own == 1 and new[0].layer == 0
        self.theirs = self.ours if one else OpenDir(left.layers, old)
        self.said: frozenset[bytes] = frozenset()

    def names(self) -> set[bytes]:
        """Every name that may differ. Raises OSError."""
        self.said = self.said.union(*map(self.ours.listing, range(self.new_own)))
        if self.merged:
            return set(self.said).union(*map(self.theirs.listing, range(self.old_own)))
        return self.ours.names() | self.theirs.names()

    def find(self, name: bytes) -> tuple[Found | None, Found | None]:
        """What each side has of that name. Raises OSError."""
        new = self.right.view.find(self.ours, name) if self.new else None
        old = None
        if self.old:
            old = self._met(new) or self.left.view.find(self.theirs, name)
        return old, new

    def _met(self, new: Found | None) -> Found | None:
        """A merged directory that only the right side wrote to: what is below was met when that was looked up."""
        if not self.merged or self.old_own or new is None or not new.is_dir:
            return None
        own = self.right.own(new.hits)
        redirect = self.right.layers.format.redirect
        if not own or own == len(new.hits) or any(redirect in hit.names for hit in new.hits[:own]):
            return None
        lower = self.left.layers.last - self.right.layers.last  # the same layer has another number there
        below = new.hits[own:]
        return Found(tuple(hit._replace(layer=hit.layer + lower) for hit in below) if lower else below, None)

    def is_implied(self, name: bytes) -> bool:
        """Whether it is gone, if it is, with the directory, or because that was made again."""
        return not self.new or (self.recreated and name not in self.said)

    def close(self) -> None:
        """Close the directories. They are opened again when needed."""
        self.ours.close()
        self.theirs.close()
