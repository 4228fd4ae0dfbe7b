"""Changes as people read them: a line each (`A`, `C`, `D`, `R`), counted, and as JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lamina.cli.quoting import quote
from lamina.cli.style import Style

if TYPE_CHECKING:
    from typing import Protocol

    class Entry(Protocol):
        """What is known of a file; see `lamina.Change`."""

        type: str
        mode: int
        uid: int
        gid: int
        size: int
        mtime_ns: int
        target: bytes | None
        rdev: int
        nlink: int

    class AnyChange(Protocol):
        """A change below an overlay's root, or the same by its path on the host."""

        @property
        def path(self) -> bytes: ...
        @property
        def kind(self) -> str: ...
        @property
        def what(self) -> frozenset[str]: ...
        @property
        def before(self) -> Any: ...
        @property
        def after(self) -> Any: ...
        @property
        def implied(self) -> bool: ...
        @property
        def link_to(self) -> bytes | None: ...


LETTERS = {"added": "A", "changed": "C", "deleted": "D", "replaced": "R"}
# what is lost comes first
ORDER = ("deleted", "replaced", "changed", "added")
LEGEND = "A added   C changed   D deleted   R replaced by another kind of file"
FIELDS = ("type", "mode", "uid", "gid", "size", "mtime_ns", "target", "rdev", "nlink")


class Listing:
    """A set of changes, told in full, in short, or in numbers.

    What was deleted together with a directory above it is one line with a count, unless *full*.
    """

    def __init__(self, changes: Iterable[AnyChange], full: bool = False) -> None:
        self.changes = [change for change in changes if not getattr(change, "incidental", False)]
        self.full = full
        self.below = _counted_below(self.changes)

    def shown(self) -> list[AnyChange]:
        """The changes that get a line of their own."""
        return [change for change in self.changes if self.full or not change.implied]

    def lines(self, style: Style) -> Iterator[str]:
        """A line a change, by path."""
        for change in self.shown():
            letter, name = LETTERS[change.kind], display(change)
            yield style(change.kind, f"{letter} {name}") + style("weak", self._remark(change))

    def by_kind(self, style: Style) -> Iterator[str]:
        """The same lines, deletions first, then what was replaced, changed, added."""
        ranked = sorted(self.shown(), key=lambda change: ORDER.index(change.kind))
        for change in ranked:
            letter, name = LETTERS[change.kind], display(change)
            yield style(change.kind, f"{letter} {name}") + style(
                "weak", self._remark(change) + growth(change)
            )

    def counts(self) -> Counter[str]:
        """How many of each kind, everything counted, also what went with a directory."""
        return Counter(change.kind for change in self.changes)

    def total(self, style: Style) -> str:
        """`48,213 deleted, 2 changed, 14 added (26.0 kB)`: one line."""
        counts = self.counts()
        if not counts:
            return "nothing changed"
        parts = [style(kind, f"{counts[kind]:,} {kind}") for kind in ORDER if counts[kind]]
        written = sum(c.after.size for c in self.changes if _has_new_content(c))
        return ", ".join(parts) + (f" ({size(written)} written)" if written else "")

    def _remark(self, change: AnyChange) -> str:
        lost = 0 if self.full else self.below.get(change.path, 0)
        return remark(change) + (f"  (and {lost:,} below it deleted)" if lost else "")


def display(change: AnyChange) -> str:
    """The path as an absolute one, quoted, a directory with a slash in the end."""
    path = b"/" + change.path.lstrip(b"/")
    entry = change.after or change.before
    if entry is not None and entry.type == "directory" and path != b"/":
        path += b"/"
    return quote(path)


def remark(change: AnyChange) -> str:
    """What the name alone does not tell: a link's target, a new kind, which attributes alone changed."""
    before, after = change.before, change.after
    if change.link_to is not None:
        return f"  = {quote(b'/' + change.link_to.lstrip(b'/'))}"
    if change.kind == "replaced" and before is not None and after is not None:
        return f"  ({before.type} → {after.type})"
    if change.kind in ("added", "changed") and after.type == "symlink" and after.target is not None:
        return f"  → {quote(after.target)}"
    if change.kind == "changed" and "content" not in change.what:
        return f"  ({_attributes(change)})"
    return ""


def _attributes(change: AnyChange) -> str:
    """`mode 644 → 755, owner 0:0 → 1000:1000, times`."""
    before, after = change.before, change.after
    said = []
    for what in ("mode", "owner", "rdev", "xattrs", "times"):
        if what not in change.what:
            continue
        if what == "mode" and before is not None:
            said.append(f"mode {before.mode & 0o7777:o} → {after.mode & 0o7777:o}")
        elif what == "owner" and before is not None:
            said.append(f"owner {before.uid}:{before.gid} → {after.uid}:{after.gid}")
        else:
            said.append(what)
    return ", ".join(said) or ", ".join(sorted(change.what))


def growth(change: AnyChange) -> str:
    """How many bytes came and went: `+1.2 kB`, `-284 B`, `1.2 kB → 1.3 kB`."""
    before = change.before.size if change.before is not None and change.before.type == "file" else None
    after = change.after.size if change.after is not None and change.after.type == "file" else None
    if change.kind == "changed" and "content" not in change.what:
        return ""
    if before is None:
        return "" if after is None else f"  +{size(after)}"
    return f"  -{size(before)}" if after is None else f"  {size(before)} → {size(after)}"


def size(number: int) -> str:
    """Bytes in SI units, as `ls --si` and docker do: `284 B`, `1.2 kB`."""
    if number < 1000:
        return f"{number} B"
    amount, units = number / 1000, iter(("kB", "MB", "GB", "TB"))
    unit = next(units)
    while amount >= 999.95 and (larger := next(units, "")):
        amount, unit = amount / 1000, larger
    return f"{amount:.1f} {unit}"


def document(change: AnyChange) -> dict[str, Any]:
    """A change for programs. Paths are absolute; a byte that is not UTF-8 is a lone surrogate (`os.fsencode`)."""
    link = change.link_to
    return {
        "path": b"/" + change.path.lstrip(b"/"),
        "kind": change.kind,
        "what": sorted(change.what),
        "before": _entry(change.before),
        "after": _entry(change.after),
        "implied": change.implied,
        "incidental": getattr(change, "incidental", False),
        "link_to": None if link is None else b"/" + link.lstrip(b"/"),
    }


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    return None if entry is None else {name: getattr(entry, name) for name in FIELDS}


def _has_new_content(change: AnyChange) -> bool:
    fresh = change.kind in ("added", "replaced") or "content" in change.what
    return fresh and change.after is not None and change.after.type == "file" and change.link_to is None


def _counted_below(changes: Sequence[AnyChange]) -> dict[bytes, int]:
    """By the path of each listed change: how many implied deletions went with it."""
    counted: dict[bytes, int] = {}
    listed = {change.path for change in changes if not change.implied}
    for change in changes:
        if change.implied:
            path = change.path
            while path not in listed and path.strip(b"/"):
                path = path.rpartition(b"/")[0] or (b"/" if change.path.startswith(b"/") else b"")
            counted[path] = counted.get(path, 0) + 1
    return counted
