"""The walk behind `changes`: the lower layers' tree and the whole stack's, side by side, led by the upper directory.

Where a directory merges exactly what is below it, only the names in the upper directory can differ. Where it does not
(it is opaque, or moved here by a redirect) both sides are listed. A directory whose layers are the same on both sides
is not entered.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from lamina.errors import Unsupported
from lamina.overlay.changes import Change, Entry, Vanished, entry_of
from lamina.overlay.linked import Linked, joined_by_index
from lamina.overlay.lookup import Found, Hit, Layers, OpenDir, View
from lamina.overlay.spec import MountSpec

NOTHING: frozenset[str] = frozenset()
CAPABILITY = "security.capability"
_AT_ONCE = 1 << 20
# four times PATH_MAX: each entry of a chain of directories names all of those above it, and has each of them looked up,
# so what a container makes in a second could take a host's memory, and hours
LONGEST_PATH = 16 << 10


class _Below(NamedTuple):
    """A directory to enter: its path, and what each side has there."""

    path: bytes
    before: Found | None
    after: Found | None


class Difference:
    """One comparison. It holds the layers open until `run` is exhausted or closed."""

    def __init__(self, spec: MountSpec, vanished: Vanished) -> None:
        """Raises KernelError for a layer that cannot be opened, Unsupported for what only the kernel's index knows."""
        self.layers = Layers(spec)
        self.merged = View(self.layers)
        self.below = View(self.layers, upper=False)
        self.vanished = vanished
        self.linked = Linked(self)
        self.roots = self.below.root, self.merged.root
        if count := joined_by_index(self.layers):
            raise Unsupported(
                f"compare layers: {count} hard-linked files were changed under names that the upper directory does not"
                " have (index=on)",
                remedy="mount the stack and compare there",
            )

    def run(self) -> Iterator[Change]:
        """The changes, in order."""
        try:
            before, after = self.roots
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
            self.layers.close()

    def _directory(self, path: bytes, before: Found | None, after: Found | None) -> Iterator[Change | _Below]:
        """Changes of the entries of one directory, and the directories to enter at their places in the order."""
        left = before if before is not None and before.is_dir else None
        right = after if after is not None and after.is_dir else None
        ours = OpenDir(self.layers, right.hits if right else ())
        upper_only = bool(left and right and right.hits[0].layer == 0 and _same(right.hits[1:], left.hits))
        theirs = ours if upper_only else OpenDir(self.layers, left.hits if left else ())
        in_upper = ours.listing(0) if right and right.hits[0].layer == 0 else frozenset()
        names = in_upper if upper_only else ours.names() | theirs.names()
        later: list[tuple[bytes, _Below]] = []  # sorted as paths are: "a-b" comes between "a" and "a/c"
        try:
            for name in sorted(names):
                while later and later[0][0] < name:
                    # what is below may be deep: hold no descriptors meanwhile, they are opened again when needed
                    ours.close()
                    theirs.close()
                    yield heappop(later)[1]
                entry = b"%b/%b" % (path, name) if path else name
                if len(entry) > LONGEST_PATH:
                    raise _too_deep(entry)
                new = self._find(self.merged, ours, name, entry) if right else None
                old = self._old(theirs, name, entry, new, upper_only) if left else None
                change = self._change(entry, old, new, implied=name not in in_upper)
                if change is not None:
                    yield change
                if self._enter(old, new):
                    heappush(later, (name + b"/", _Below(entry, old, new)))
        finally:
            ours.close()
            theirs.close()
        while later:
            yield heappop(later)[1]

    def _find(self, view: View, within: OpenDir, name: bytes, path: bytes) -> Found | None:
        try:
            return view.find(within, name)
        except OSError as error:
            error.filename = "/" + os.fsdecode(path)
            raise

    def _old(
        self, theirs: OpenDir, name: bytes, path: bytes, new: Found | None, upper_only: bool
    ) -> Found | None:
        if (
            upper_only
            and new is not None
            and len(new.hits) > 1
            and self.layers.format.redirect not in new.hits[0].names
        ):
            return Found(new.hits[1:], None)  # a merged directory: what is below was met already
        return self._find(self.below, theirs, name, path)

    def _enter(self, before: Found | None, after: Found | None) -> bool:
        if after is not None and after.is_dir:
            return before is None or not before.is_dir or not _same(after.hits, before.hits)
        return before is not None and before.is_dir and self.vanished == "list"

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
                self.entry(before),
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
                self.entry(after),
                link_to=link_to,
                moved_from=self._moved(path, after),
                capabilities=capable,
            )
        if stat.S_IFMT(before.hits[0].status.st_mode) != stat.S_IFMT(after.hits[0].status.st_mode):
            return Change(
                path, "replaced", NOTHING, self.entry(before), self.entry(after), vanished=self._lost(before),
                link_to=link_to, moved_from=self._moved(path, after), capabilities=capable,
            )  # fmt: skip
        what = self.what(before, after)
        newly_linked = (
            link_to is not None and after.hits[0].layer == 0 and self.linked.is_new(before, link_to)
        )
        if not what and not newly_linked:
            return None
        moved = self._moved(path, after)
        return Change(
            path, "changed", what, self.entry(before), self.entry(after), link_to=link_to, moved_from=moved,
            capabilities=capable,
        )  # fmt: skip

    def entry(self, found: Found) -> Entry:
        """The Entry of what was found."""
        hit = found.hits[0]
        return entry_of(found.status, self.layers.readlink(hit) if stat.S_ISLNK(hit.status.st_mode) else None)

    def same(self, before: Found, after: Found) -> bool:
        """Whether nothing differs."""
        types = {stat.S_IFMT(found.hits[0].status.st_mode) for found in (before, after)}
        return len(types) == 1 and not self.what(before, after)

    def what(self, before: Found, after: Found) -> frozenset[str]:
        """In which respects two entries of the same type differ."""
        old, new = before.hits[0], after.hits[0]
        a, b = old.status, new.status
        if a is b or (old.layer == new.layer and old.path == new.path):
            return NOTHING
        found = []
        kind = stat.S_IFMT(a.st_mode)
        if kind == stat.S_IFREG:
            if a.st_size != b.st_size or not self._same_content(before, after):
                found.append("content")
        elif kind == stat.S_IFLNK:
            if self.layers.readlink(old) != self.layers.readlink(new):
                found.append("target")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK) and a.st_rdev != b.st_rdev:
            found.append("rdev")
        if a.st_mode != b.st_mode:
            found.append("mode")
        if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
            found.append("owner")
        if a.st_mtime_ns != b.st_mtime_ns:
            found.append("times")
        if (old.names or new.names) and self.layers.xattrs(old) != self.layers.xattrs(new):
            found.append("xattrs")
        return frozenset(found)

    def _same_content(self, before: Found, after: Found) -> bool:
        if before.content == after.content:
            return True  # a metacopy: only the attributes were copied up
        hit = after.hits[0]
        if hit.status.st_size == 0 and after.content == (hit.layer, hit.path):
            return True
        with self.layers.open_content(before) as a, self.layers.open_content(after) as b:
            while True:
                old, new = os.read(a, _AT_ONCE), os.read(b, _AT_ONCE)
                if old != new:
                    return False
                if not old:
                    return True

    def _moved(self, path: bytes, after: Found) -> bytes | None:
        hits = after.hits
        if len(hits) > 1 and hits[0].layer == 0 and hits[1].path != path:
            return hits[1].path
        return None

    # -- what vanished

    def _lost(self, before: Found) -> int | None:
        if not before.is_dir:
            return 0
        if self.vanished != "count":
            return None
        count = 0
        pending = [before]
        while pending:
            with OpenDir(self.layers, pending.pop().hits) as within:
                for name in within.names():
                    entry = self.below.find(within, name)
                    if entry is not None:
                        count += 1
                        if entry.is_dir:
                            pending.append(entry)
        return count


def _too_deep(path: bytes) -> Unsupported:
    return Unsupported(
        f"compare layers: a path of more than {LONGEST_PATH} bytes, which begins with /{os.fsdecode(path[:60])!s}",
        remedy="nobody needs one: remove it there, or the container (lamina rm)",
    )


def _same(some: tuple[Hit, ...], others: tuple[Hit, ...]) -> bool:
    return len(some) == len(others) and all(
        a.layer == b.layer and a.path == b.path for a, b in zip(some, others, strict=True)
    )
