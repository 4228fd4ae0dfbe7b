"""Changes as people read them: a line each (`A`, `C`, `D`, `R`), counted, and as JSON for programs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lamina.cli.quoting import quote
from lamina.cli.style import Style
from lamina.engine.quantities import size

if TYPE_CHECKING:
    from lamina.engine.apply.values import HostChange

LETTERS = {"added": "A", "changed": "C", "deleted": "D", "replaced": "R"}
ORDER = ("deleted", "replaced", "changed", "added")
# what is lost comes first, then what gives somebody rights, then the rest
GRAVE = ("deleted", "replaced")
LEGEND = "A added   C changed   D deleted   R replaced by another kind of file"
PLAIN = ("file", "directory", "symlink")
FIELDS = ("type", "mode", "uid", "gid", "size", "mtime_ns", "target", "rdev", "nlink")


class Listing:
    """A set of changes, told in full, in short, or in numbers.

    What was deleted together with a directory above it is one line with a count, unless *full*. A directory in which
    something came or went, and nothing else happened, is neither listed nor counted; but one that was emptied and is
    still there has a line, with the count.
    """

    def __init__(self, changes: Iterable[HostChange], full: bool = False) -> None:
        found = list(changes)
        self.below = {} if full else _counted_below(found)
        self.changes = [change for change in found if not change.incidental]
        self.shown = [
            change
            for change in found
            if full or not change.implied
            if not change.incidental or change.path in self.below
        ]

    def ranked(self) -> list[HostChange]:
        """The changes that get a line of their own: deletions first, what was replaced, what gives rights, the rest."""
        return sorted(self.shown, key=self._rank)

    def is_grave(self, change: HostChange) -> bool:
        """Whether it may not be missed: something is gone with it, or somebody would get new rights by it."""
        return self._rank(change) <= len(GRAVE)

    def _rank(self, change: HostChange) -> int:
        emptied = change.kind == "changed" and change.path in self.below
        rank = ORDER.index("deleted" if emptied else change.kind)
        if rank < len(GRAVE):
            return rank
        return len(GRAVE) if change.gives else rank + 1

    def line(
        self, change: HostChange, style: Style, *, sizes: bool = False, along: Sequence[HostChange] = ()
    ) -> str:
        """`C /etc/motd`, and what the name alone does not tell; with *sizes* how much it grew or shrank. *along* is
        what came with it and has no line.
        """
        said = "" if change.incidental else remark(change)
        if lost := self.below.get(change.path):
            said += f"  (and {lost:,} below it deleted)"
        if along:
            said += f"  (and {len(along):,} below it)"
        if sizes:
            said += f"  +{size(written([change, *along]))}" if along else growth(change)
        return style(change.kind, f"{LETTERS[change.kind]} {display(change)}") + style("weak", said)

    def lines(self, style: Style) -> Iterator[str]:
        """A line a change, by path."""
        return (self.line(change, style) for change in self.shown)

    def by_kind(self, style: Style) -> Iterator[str]:
        """A line a change with sizes, deletions first."""
        return (self.line(change, style, sizes=True) for change in self.ranked())

    def total(self, style: Style) -> str:
        """`48,213 deleted, 2 changed, 14 added (26.0 kB written)`: every one is counted."""
        counts = Counter(change.kind for change in self.changes)
        if not counts:
            return "nothing changed"
        parts = [style(kind, f"{counts[kind]:,} {kind}") for kind in ORDER if counts[kind]]
        bytes_ = written(self.changes)
        return ", ".join(parts) + (f" ({size(bytes_)} written)" if bytes_ else "")


def display(change: HostChange) -> str:
    """The path, quoted, a directory with a slash in the end."""
    entry = change.after or change.before
    is_directory = entry is not None and entry.type == "directory" and change.path != b"/"
    return quote(change.path + b"/" if is_directory else change.path)


def remark(change: HostChange) -> str:
    """What the name alone does not tell: a link's target, a kind, which attributes changed, what executing it gives."""
    before, after = change.before, change.after
    arrow, said = "", []
    if change.link_to is not None:
        arrow = f"  = {quote(change.link_to)}"
    elif (
        after is not None
        and after.type == "symlink"
        and after.target is not None
        and change.kind != "replaced"
    ):
        arrow = f"  → {quote(after.target)}"
    elif change.kind == "replaced" and before is not None and after is not None:
        said.append(f"{before.type} → {after.type}")
    elif change.kind == "changed":
        said += _attributes(change)
    elif change.kind == "added" and after is not None and after.type not in ("file", "directory"):
        said.append(after.type)
    said += change.gives
    return arrow + (f"  ({', '.join(said)})" if said else "")


def _attributes(change: HostChange) -> list[str]:
    """`mode 644 → 755`, `owner 0:0 → 1000:1000`, `times`; new content has new times, and they are not worth a word."""
    said = []
    for what in ("mode", "owner", "target", "rdev", "xattrs", "times"):
        if what not in change.what or (what == "times" and "content" in change.what):
            continue
        before, after = change.before, change.after
        if what == "mode" and before is not None and after is not None:
            said.append(f"mode {before.mode:o} → {after.mode:o}")
        elif what == "owner" and before is not None and after is not None:
            said.append(f"owner {before.uid}:{before.gid} → {after.uid}:{after.gid}")
        else:
            said.append(what)
    return said


def growth(change: HostChange) -> str:
    """How many bytes came and went: `+1.2 kB`, `-284 B`, `1.2 kB → 1.3 kB`."""
    if change.kind == "changed" and "content" not in change.what:
        return ""
    before, after = (
        (e.size if e is not None and e.type == "file" else None) for e in (change.before, change.after)
    )
    if before is None:
        return "" if after is None else f"  +{size(after)}"
    return f"  -{size(before)}" if after is None else f"  {size(before)} → {size(after)}"


def dockers(changes: Iterable[HostChange]) -> list[str]:
    """As docker's diff has them: `A`, `C` or `D` and the path, by path. Directories in which something came or went are
    changed; of what is gone with the directory that it was in only that is told; of the root nothing.
    """
    found, letters = list(changes), {**LETTERS, "replaced": "C"}
    gone = {change.path for change in found if change.kind in GRAVE}
    told = [
        (change.path, letters[change.kind])
        for change in found
        if len(change.path) > 1 and not (change.implied and change.path.rpartition(b"/")[0] in gone)
    ]
    return [f"{letter} {os.fsdecode(path)}" for path, letter in sorted(told)]


def record(change: HostChange) -> dict[str, Any]:
    """A change for a template: Kind is its letter, What was changed of it, Size that of a file that is there now."""
    after = change.after
    entry = after or change.before
    return {
        "Kind": LETTERS[change.kind],
        "Path": os.fsdecode(change.path),
        "What": ",".join(sorted(change.what)),
        "Type": "" if entry is None else entry.type,
        "Size": after.size if after is not None and after.type == "file" else 0,
    }


def document(change: HostChange) -> dict[str, Any]:
    """A change for programs. Paths are absolute; a byte that is not UTF-8 is a lone surrogate (`os.fsencode`)."""
    return {
        "path": change.path,
        "kind": change.kind,
        "what": sorted(change.what),
        "before": _entry(change.before),
        "after": _entry(change.after),
        "implied": change.implied,
        "incidental": change.incidental,
        "link_to": change.link_to,
        "capabilities": change.capabilities,
    }


def _entry(entry: object | None) -> dict[str, Any] | None:
    return None if entry is None else {name: getattr(entry, name) for name in FIELDS}


def written(changes: Iterable[HostChange]) -> int:
    """How many bytes are new in regular files."""
    return sum(change.after.size for change in changes if change.after and _is_written(change))


def folded(changes: Iterable[HostChange]) -> list[tuple[HostChange, list[HostChange]]]:
    """Each change, parents before children, and below a new directory what is new in it; devices and the like apart."""
    found: list[tuple[HostChange, list[HostChange]]] = []
    tops: dict[bytes, list[HostChange]] = {}
    for change in changes:
        above = change.path
        while above and change.kind == "added" and change.after is not None and change.after.type in PLAIN:
            above = above.rpartition(b"/")[0]
            if above in tops:
                tops[above].append(change)
                break
        else:
            along: list[HostChange] = []
            found.append((change, along))
            if change.kind == "added" and change.after is not None and change.after.type == "directory":
                tops[change.path] = along
    return found


def _is_written(change: HostChange) -> bool:
    fresh = change.kind in ("added", "replaced") or "content" in change.what
    return fresh and change.after is not None and change.after.type == "file" and change.link_to is None


def _counted_below(changes: Iterable[HostChange]) -> dict[bytes, int]:
    """By the path of each change that gets a line: how many implied deletions went with it.

    Parents come before children, so the line an implied one belongs to is the newest above it.
    """
    counted: dict[bytes, int] = {}
    line_of: dict[bytes, bytes] = {}
    for change in changes:
        above = line_of.get(change.path.rpartition(b"/")[0] or b"/", change.path)
        line_of[change.path] = above if change.implied else change.path
        if change.implied:
            counted[above] = counted.get(above, 0) + 1
    return counted
