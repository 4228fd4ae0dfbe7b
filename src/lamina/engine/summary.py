"""A container's changes in a few lines, for people who have to decide and for programs.

What is lost always comes first and is always counted in full. Where a list is cut it says by how many entries, and how
to see them all.
"""

from __future__ import annotations

import os
from collections import Counter

from lamina.overlay.options import printable
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lamina.engine.apply.values import HostChange
    from lamina.overlay.changes import Entry

DEEP = 2  # how many names of a path make a top directory
MANY = 10


@value
class Loss:
    """A path that goes with all that is in it. `entries` counts the path itself; `bytes` are those of regular files.

    `becomes` is the type that takes its place, "" if nothing does.
    """

    path: bytes
    type: str
    entries: int
    bytes: int
    becomes: str = ""


@value
class Summary:
    """What a set of changes comes to. Directories of which only the times differ do not count.

    `deleted`, `replaced`, `changed`, `added` count entries, one that went with its directory like any other; of the
    changed ones `attributes` have a new owner, mode, time or extended attribute but the old content. `losses` are the
    topmost deleted and replaced paths, `directories` (path, changes in it), the most changed first. `bytes_added` and
    `bytes_removed` are sizes of regular files that are new and that go; a changed one counts in both.
    """

    deleted: int
    replaced: int
    changed: int
    attributes: int
    added: int
    bytes_added: int
    bytes_removed: int
    types: tuple[tuple[str, str, int], ...]
    losses: tuple[Loss, ...]
    directories: tuple[tuple[bytes, int], ...]

    @property
    def total(self) -> int:
        """All changes."""
        return self.deleted + self.replaced + self.changed + self.added

    def to_json(self) -> dict[str, Any]:
        """As plain values; paths as text, a byte that is no UTF-8 as a lone surrogate (os.fsencode is the way back)."""
        return {
            "deleted": self.deleted,
            "replaced": self.replaced,
            "changed": self.changed,
            "attributes": self.attributes,
            "added": self.added,
            "bytes_added": self.bytes_added,
            "bytes_removed": self.bytes_removed,
            "types": [{"kind": kind, "type": type_, "count": count} for kind, type_, count in self.types],
            "losses": [{**vars(loss), "path": os.fsdecode(loss.path)} for loss in self.losses],
            "directories": [
                {"path": os.fsdecode(path), "changes": count} for path, count in self.directories
            ],
        }

    def lines(self, *, name: str = "NAME", most: int = MANY) -> Iterator[str]:
        """For people: losses, then counts, then where. *most* lines of each list; *name* is the container's."""
        if not self.total:
            yield "nothing changed"
            return
        if self.losses:
            gone = self.deleted + self.replaced
            yield f"deletes or replaces {plural(gone, 'entry', 'entries')} ({size(self.bytes_removed_by_losses)}):"
            yield from _cut([_loss(loss) for loss in self.losses], most, f"lamina diff {name}")
        else:
            yield "deletes nothing"
        counts = []
        if self.changed:
            alone = f" ({self.attributes} in attributes only)" if self.attributes else ""
            counts.append(f"changes {plural(self.changed, 'entry', 'entries')}{alone}")
        if self.added:
            counts.append(f"adds {plural(self.added, 'entry', 'entries')}")
        if counts:
            yield f"{', '.join(counts)}: {size(self.bytes_added)} written"
        yield "most changes in:"
        shown = [f"  {printable(path)}  {count}" for path, count in self.directories]
        yield from _cut(shown, most, f"lamina diff --stat {name}")

    @property
    def bytes_removed_by_losses(self) -> int:
        """Bytes of the regular files that are deleted or replaced."""
        return sum(loss.bytes for loss in self.losses)


def _cut(lines: list[str], most: int, where: str) -> Iterator[str]:
    yield from lines[:most]
    if len(lines) > most:
        yield f"  and {len(lines) - most} more: {where} shows all"


def _loss(loss: Loss) -> str:
    text = f"  {printable(loss.path)}"
    if loss.becomes:
        text += f" ({loss.type} becomes {loss.becomes})"
    if loss.entries > 1:
        text += f" and {plural(loss.entries - 1, 'entry', 'entries')} in it"
    return text


def plural(number: int, one: str, many: str) -> str:
    """`1 entry`, `1,234 entries`."""
    return f"{number:,} {one if number == 1 else many}"


def size(number: int) -> str:
    """`284 B`, `1.2 kB`, `3.4 GB`: powers of 1000, as ls --si."""
    amount, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{number} B" if unit == "B" else f"{amount:.1f} {unit}"


def summarise(changes: Iterable[HostChange]) -> Summary:
    """The summary of *changes*, which are in tree order as `changes_of` gives them."""
    kinds: Counter[str] = Counter()
    types: Counter[tuple[str, str]] = Counter()
    directories: Counter[bytes] = Counter()
    losses: list[Loss] = []
    attributes = added = removed = 0
    for change in changes:
        if change.incidental:
            continue
        kinds[change.kind] += 1
        types[change.kind, (change.after or change.before or _NOTHING).type] += 1
        directories[_top(change.path)] += 1
        if change.kind == "changed" and not change.what & {"content", "target", "rdev"}:
            attributes += 1
        else:
            added += _bytes(change.after)
            removed += _bytes(change.before)
        if change.kind in ("deleted", "replaced"):
            _add_loss(losses, change)
    return Summary(
        deleted=kinds["deleted"],
        replaced=kinds["replaced"],
        changed=kinds["changed"],
        attributes=attributes,
        added=kinds["added"],
        bytes_added=added,
        bytes_removed=removed,
        types=tuple((kind, type_, count) for (kind, type_), count in sorted(types.items())),
        losses=tuple(losses),
        directories=tuple(sorted(directories.items(), key=lambda item: (-item[1], item[0]))),
    )


class _Nothing:
    type = "file"
    size = 0


_NOTHING = _Nothing()


def _bytes(entry: Entry | None) -> int:
    return entry.size if entry is not None and entry.type == "file" else 0


def _top(path: bytes) -> bytes:
    """The directory of a path, at most so many names deep."""
    names = path.split(b"/")[1:-1]
    return b"/" + b"/".join(names[:DEEP])


def _add_loss(losses: list[Loss], change: HostChange) -> None:
    """One more entry that goes: part of the last loss if it was in that directory."""
    assert change.before is not None
    if losses and change.path.startswith(losses[-1].path + b"/"):
        top = losses.pop()
        losses.append(
            Loss(top.path, top.type, top.entries + 1, top.bytes + _bytes(change.before), top.becomes)
        )
        return
    becomes = change.after.type if change.after is not None else ""
    losses.append(Loss(change.path, change.before.type, 1, _bytes(change.before), becomes))
