"""Unified diffs of a container's changes, in git's form: `git apply` and `patch -p1` understand them.

Output is a stream of lines of bytes. What a patch cannot carry (directories, devices, owners, extended attributes,
files that are too long) is said in a line that begins with "# " before it, never left out; binary files are named.
Names with odd bytes are quoted as git does ("a/caf\\303\\251").
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections import Counter

from lamina.overlay.changes import TYPES
from lamina.overlay.stack import Overlay
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lamina.engine.apply.values import HostChange
    from lamina.overlay.changes import Entry
    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree

    Lines = Sequence[bytes]
    Block = tuple[int, int, int, int]  # lines [a, b) of the old file become lines [c, d) of the new one

CONTEXT = 3
LONGEST_TEXT = 1 << 20  # bytes of one file
MOST_STEPS = (
    2_000_000  # of the search for the shortest diff of one file; beyond, whole stretches are replaced
)
_ESCAPES = {
    7: b"\\a",
    8: b"\\b",
    9: b"\\t",
    10: b"\\n",
    11: b"\\v",
    12: b"\\f",
    13: b"\\r",
    34: b'\\"',
    92: b"\\\\",
}
_TYPES = {
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@value
class Side:
    """One side of a file's diff. `mode` with the type bits; `open` gives a descriptor to read a regular file from,
    `target` is a symbolic link's."""

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    open: Callable[[], int] | None = None


def diff_file(
    path: bytes, old: Side | None, new: Side | None, *, notes: Sequence[str] = (), longest: int = LONGEST_TEXT
) -> Iterator[bytes]:
    """The diff of the absolute *path* from *old* to *new* (None: not there), as lines with their newlines.

    *notes* are said before it as they are. Files of more than *longest* bytes are only named. Raises OSError.
    """
    for note in notes:
        yield b"# " + note.encode("utf-8", "surrogateescape") + b"\n"
    if (
        old and new and stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode)
    ):  # as git: the one goes, the other comes
        yield from diff_file(path, old, None, longest=longest)
        yield from diff_file(path, None, new, longest=longest)
        return
    yield from _owners(path, old, new)
    present = new or old
    if present is None:
        return
    if kind := _TYPES.get(stat.S_IFMT(present.mode)):
        yield from _unpatchable(path, kind, old, new)
        return
    name = path.lstrip(b"/")
    first, second = quote(b"a/" + name), quote(b"b/" + name)
    head = [b"diff --git " + first + b" " + second + b"\n", *_mode_lines(old, new)]
    old_text, old_why = _content(old, longest)
    new_text, new_why = _content(new, longest)
    first = first if old else b"/dev/null"
    second = second if new else b"/dev/null"
    if why := old_why or new_why:
        if why == "binary" and old_text == new_text:
            yield from head if len(head) > 1 else ()
        else:
            yield from head
            yield b"Binary files %b and %b differ%b\n" % (
                first,
                second,
                b"" if why == "binary" else why.encode(),
            )
        return
    if old_text == new_text:
        yield from head if len(head) > 1 else ()
        return
    yield from head
    yield b"--- " + first + _tab(first) + b"\n"
    yield b"+++ " + second + _tab(second) + b"\n"
    yield from hunks(split_lines(old_text), split_lines(new_text))


def _tab(name: bytes) -> bytes:
    """patch(1) takes what follows a space for a date unless a tab ends the name."""
    return b"\t" if b" " in name and not name.startswith(b'"') else b""


def _mode_lines(old: Side | None, new: Side | None) -> list[bytes]:
    if old is None and new is not None:
        return [b"new file mode %06o\n" % _git_mode(new)]
    if new is None and old is not None:
        return [b"deleted file mode %06o\n" % _git_mode(old)]
    if old and new and _git_mode(old) != _git_mode(new):
        return [b"old mode %06o\n" % _git_mode(old), b"new mode %06o\n" % _git_mode(new)]
    return []


def _git_mode(side: Side) -> int:
    return stat.S_IFLNK if stat.S_ISLNK(side.mode) else side.mode  # a link's permissions mean nothing


def _owners(path: bytes, old: Side | None, new: Side | None) -> Iterator[bytes]:
    if old and new and (old.uid, old.gid) != (new.uid, new.gid):
        yield b"# owner of %b: %d:%d becomes %d:%d\n" % (quote(path), old.uid, old.gid, new.uid, new.gid)


def _unpatchable(path: bytes, kind: str, old: Side | None, new: Side | None) -> Iterator[bytes]:
    name = quote(path)
    if old and new:
        if old.mode != new.mode:
            modes = (stat.S_IMODE(old.mode), stat.S_IMODE(new.mode))
            yield b"# %b %b: mode %04o becomes %04o\n" % (kind.encode(), name, *modes)
        if old.rdev != new.rdev:
            numbers = (os.major(old.rdev), os.minor(old.rdev), os.major(new.rdev), os.minor(new.rdev))
            yield b"# %b %b: device %d:%d becomes %d:%d\n" % (kind.encode(), name, *numbers)
    elif new:
        device = ""
        if stat.S_ISCHR(new.mode) or stat.S_ISBLK(new.mode):
            device = f" {os.major(new.rdev)}:{os.minor(new.rdev)}"
        said = f"added, mode {stat.S_IMODE(new.mode):04o}, owner {new.uid}:{new.gid}"
        yield b"# %b %b: %b\n" % (f"{kind}{device}".encode(), name, said.encode())
    else:
        yield b"# %b %b: deleted\n" % (kind.encode(), name)


def _content(side: Side | None, longest: int) -> tuple[bytes, str]:
    """The bytes to compare, and why they cannot be shown ("" if they can)."""
    if side is None:
        return b"", ""
    if stat.S_ISLNK(side.mode):
        return side.target, ""
    if side.open is None:
        return b"", ""
    if side.size > longest:
        return b"", f" ({side.size} bytes: only files of up to {longest} bytes are shown)"
    with open(side.open(), "rb") as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        return b"", f" (only files of up to {longest} bytes are shown)"
    return content, "binary" if b"\0" in content else ""


def quote(name: bytes) -> bytes:
    """*name* as git prints it: in double quotes with C escapes if it has control, quote or non-ASCII characters."""
    quoted = b"".join(
        _ESCAPES.get(byte) or (b"\\%03o" % byte if byte < 32 or byte > 126 else bytes((byte,)))
        for byte in name
    )
    return name if quoted == name else b'"' + quoted + b'"'


def split_lines(content: bytes) -> list[bytes]:
    """Lines with their newlines; the last may lack it. (`bytes.splitlines` would also split at carriage returns.)"""
    lines = [line + b"\n" for line in content.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def hunks(old: Lines, new: Lines) -> Iterator[bytes]:
    """The "@@" parts of a unified diff, with three lines of context."""
    group: list[Block] = []
    for block in changed_blocks(old, new):
        if group and block[0] - group[-1][1] > 2 * CONTEXT:
            yield from _hunk(old, new, group)
            group = []
        group.append(block)
    if group:
        yield from _hunk(old, new, group)


def _hunk(old: Lines, new: Lines, group: list[Block]) -> Iterator[bytes]:
    before = min(CONTEXT, group[0][0])
    after = min(CONTEXT, len(old) - group[-1][1])
    start, end = group[0][0] - before, group[-1][1] + after
    new_start, new_end = group[0][2] - before, group[-1][3] + after
    yield b"@@ -%b +%b @@\n" % (_range(start, end), _range(new_start, new_end))
    at = start
    for first, last, new_first, new_last in group:
        yield from (_line(b" ", line) for line in old[at:first])
        yield from (_line(b"-", line) for line in old[first:last])
        yield from (_line(b"+", line) for line in new[new_first:new_last])
        at = last
    yield from (_line(b" ", line) for line in old[at:end])


def _range(start: int, end: int) -> bytes:
    length = end - start
    first = start + 1 if length else start  # an empty range is named by the line before it
    return b"%d" % first if length == 1 else b"%d,%d" % (first, length)


def _line(sign: bytes, line: bytes) -> bytes:
    return sign + line if line.endswith(b"\n") else sign + line + b"\n\\ No newline at end of file\n"


def changed_blocks(old: Lines, new: Lines) -> list[Block]:
    """What to replace in *old* to get *new*, in order, never adjacent.

    Lines that are unique on both sides are matched first (patience diff, Bram Cohen), the stretches between by Myers'
    greedy search (An O(ND) Difference Algorithm, 1986), whose work is bounded: beyond it a stretch is replaced whole.
    """
    blocks: list[Block] = []
    budget = MOST_STEPS
    stretches: list[Block] = [(0, len(old), 0, len(new))]
    while stretches:
        a, b, c, d = _trimmed(old, new, stretches.pop())
        if a == b or c == d:
            if a < b or c < d:
                blocks.append((a, b, c, d))
        elif anchors := _anchors(old, new, (a, b, c, d)):
            starts = [(a, c), *((x + 1, y + 1) for x, y in anchors)]
            ends = [*anchors, (b, d)]
            between = [(s[0], e[0], s[1], e[1]) for s, e in zip(starts, ends, strict=True)]
            stretches += reversed(between)  # the stack's top is the next one in order
        else:
            found, budget = _shortest(old[a:b], new[c:d], budget)
            blocks += [(a + e, a + f, c + g, c + h) for e, f, g, h in found]
    return blocks


def _trimmed(old: Lines, new: Lines, stretch: Block) -> Block:
    a, b, c, d = stretch
    while a < b and c < d and old[a] == new[c]:
        a, c = a + 1, c + 1
    while a < b and c < d and old[b - 1] == new[d - 1]:
        b, d = b - 1, d - 1
    return a, b, c, d


def _anchors(old: Lines, new: Lines, stretch: Block) -> list[tuple[int, int]]:
    """The longest increasing sequence of pairs of lines that are unique on both sides."""
    a, b, c, d = stretch
    times_old, times_new = Counter(old[a:b]), Counter(new[c:d])
    where = {new[j]: j for j in range(c, d) if times_new[new[j]] == 1}
    pairs = [(i, where[old[i]]) for i in range(a, b) if times_old[old[i]] == 1 and old[i] in where]
    tails: list[int] = []  # the smallest last j of an increasing sequence of each length
    ends: list[int] = []  # which pair that is
    previous: list[int] = []
    for at, (_, j) in enumerate(pairs):
        length = bisect_left(tails, j)
        previous.append(ends[length - 1] if length else -1)
        tails[length : length + 1], ends[length : length + 1] = [j], [at]
    found = []
    at = ends[-1] if ends else -1
    while at >= 0:
        found.append(pairs[at])
        at = previous[at]
    return found[::-1]


def _shortest(old: Lines, new: Lines, budget: int) -> tuple[list[Block], int]:
    """The fewest lines to delete and insert, and what is left of the budget of steps."""
    n, m = len(old), len(new)
    furthest = {1: 0}  # of each diagonal k = x - y
    trace: list[dict[int, int]] = []
    for edits in range(n + m + 1):
        budget -= edits + 1
        trace.append(dict(furthest))
        budget -= len(furthest)
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            y = x - k
            while x < n and y < m and old[x] == new[y]:
                x, y, budget = x + 1, y + 1, budget - 1
            furthest[k] = x
            if x >= n and y >= m:
                return _blocks_of(trace, n, m), budget
        if budget < 0:
            break
    return [(0, n, 0, m)], budget


def _blocks_of(trace: list[dict[int, int]], x: int, y: int) -> list[Block]:
    """Walk Myers' search back from the end, gathering edits into blocks."""
    steps: list[Block] = []
    for edits in range(len(trace) - 1, 0, -1):
        furthest, k = trace[edits], x - y
        down = k == -edits or (k != edits and furthest[k - 1] < furthest[k + 1])
        back = k + 1 if down else k - 1
        x, y = furthest[back], furthest[back] - back
        steps.append((x, x, y, y + 1) if down else (x, x + 1, y, y))
    blocks: list[Block] = []
    for a, b, c, d in reversed(steps):
        if blocks and blocks[-1][1] == a and blocks[-1][3] == c:
            a, c = blocks.pop()[::2]
        blocks.append((a, b, c, d))
    return blocks


# -- a container's changes


def diff_changes(changes: Iterable[HostChange], *, longest: int = LONGEST_TEXT) -> Iterator[bytes]:
    """The diff of *changes* in their order, as lines; each file is read when its turn comes.

    Directories of which only the times differ are left out, hard links are named. Raises OSError.
    """
    trees: dict[tuple[MountSpec | None, MountSpec], tuple[Tree, Tree]] = {}
    try:
        for change in changes:
            if change.incidental:
                continue
            pair = change.base, change.spec
            if pair not in trees:
                trees[pair] = trees_of(*pair)
            below, merged = trees[pair]
            path = change.change.path
            old = _side(change.before, below, path)
            new = _side(change.after, merged, path)
            yield from diff_file(change.path, old, new, notes=_notes(change), longest=longest)
    finally:
        for both in trees.values():
            for tree in both:
                tree.close()


def trees_of(base: MountSpec | None, spec: MountSpec) -> tuple[Tree, Tree]:
    """What a change's stack was compared with, and that stack, for reading; to be closed."""
    overlay = Overlay(spec)
    return (overlay.open_below() if base is None else Overlay(base).open()), overlay.open()


_FORMATS = {name: number << 12 for number, name in TYPES.items()}


def _side(entry: Entry | None, tree: Tree, path: bytes) -> Side | None:
    if entry is None:
        return None
    return Side(
        mode=_FORMATS[entry.type] | entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        rdev=entry.rdev,
        target=entry.target or b"",
        open=(lambda: (tree / path).open_content(follow_symlinks=False).steal())
        if entry.type == "file"
        else None,
    )


def _notes(change: HostChange) -> list[str]:
    notes = []
    name = quote(change.path).decode("ascii")
    if change.link_to is not None:
        notes.append(f"{name} is a hard link to {quote(change.link_to).decode('ascii')}")
    if change.capabilities and "file capabilities" in change.gives:
        notes.append(f"{name}: has file capabilities")
    if change.kind == "changed":
        if "xattrs" in change.what:
            notes.append(f"{name}: extended attributes differ")
        if change.what == {"times"}:
            notes.append(f"{name}: only its times differ")
    return notes
