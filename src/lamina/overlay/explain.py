"""Why a path is what it is: every layer's answer, top to bottom, which one wins, and what hides the others.

print(explain(spec, "etc/hosts"))

    upper   /run/c/upper   etc/hosts   metacopy    wins; its content is layer 2's
    lower 1 /img/top       etc         whiteout    hidden by the upper's directory ...
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any, NamedTuple

from lamina.overlay.changes import TYPES, Entry, entry_of
from lamina.overlay.lookup import Found, Hit, Layers, OpenDir, Search, View, look
from lamina.overlay.spec import MountSpec
from lamina.overlay.tree import AnyPath, Tree


class Answer(NamedTuple):
    """What one layer has to say.

    layer      0 the upper, 1 the topmost lower, and so on; data-only layers last
    role       "upper", "lower" or "data"
    directory  the layer's directory, as it was given
    path       what was looked for in it: another than the path asked about after a redirect, or a part of it where the
               answer is about a directory above
    answer     "file", "directory", "symlink", "char", "block", "fifo", "socket", "whiteout", or "absent"
    marks      of "opaque", "redirect", "metacopy", those that are on it
    redirect   where a redirect leads
    part       "wins", "merged" (a directory below the winning one), "content" (of a metacopy), "deletes", "hidden", or
               "" for what has no part in the outcome
    hidden_by  the number of the layer that hides this answer
    why        a sentence, "" where there is nothing to say
    entry      its attributes, None where absent
    """

    layer: int
    role: str
    directory: bytes
    path: bytes
    answer: str
    marks: tuple[str, ...] = ()
    redirect: bytes | None = None
    part: str = ""
    hidden_by: int | None = None
    why: str = ""
    entry: Entry | None = None


class Explanation(NamedTuple):
    """Why *path* is what it is.

    path       the path asked about, without leading "/"
    resolved   the same with the symbolic links of its directories resolved
    exists     whether a mount shows anything there
    type       of what it shows: as in Answer; "absent" if nothing
    winner     the layer that its attributes come from, None if there is nothing
    why        the outcome in a sentence
    rows       every layer's answer, top to bottom
    """

    path: bytes
    resolved: bytes
    exists: bool
    type: str
    winner: int | None
    why: str
    rows: tuple[Answer, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes as text (not UTF-8: surrogateescape), entries without what is only of one mount."""
        return {
            "path": os.fsdecode(self.path),
            "resolved": os.fsdecode(self.resolved),
            "exists": self.exists,
            "type": self.type,
            "winner": self.winner,
            "why": self.why,
            "layers": [_row_as_dict(row) for row in self.rows],
        }

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """The rows as text: layer, its directory, path in it, answer with its marks, part and reason."""
        return [
            (
                row.role if row.role == "upper" else f"{row.role} {row.layer}",
                os.fsdecode(row.directory),
                os.fsdecode(row.path) or ".",
                ", ".join((*row.marks, row.answer)) if row.answer != "absent" else "-",
                row.why if row.why.startswith(row.part) else "; ".join(filter(None, (row.part, row.why))),
            )
            for row in self.rows
        ]

    def __str__(self) -> str:
        rows = [tuple(_printable(cell) for cell in row) for row in self.table()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([f"/{_printable(os.fsdecode(self.resolved))}: {self.why}", *lines])


def explain(spec: MountSpec, path: AnyPath) -> Explanation:
    """Ask every layer of *spec* for *path* (relative to the overlay's root; a leading "/" changes nothing).

    Links of the directories on the way are followed inside the tree, the last part is not.
    Raises OSError: a layer that cannot be read, links that go in circles.
    """
    layers = Layers(spec)
    try:
        asked = Tree(View(layers)) / (b"/" + os.fsencode(path))
        parts = _without_links(asked)
        return _Inquiry(layers, b"/".join(asked.parts), parts).run()
    finally:
        layers.close()


def _without_links(tree: Tree) -> tuple[bytes, ...]:
    """The parts of the path, links of its directories followed as far as there are any."""
    try:
        if tree.parts[-1:] == (b"..",):
            return tree.resolve().parts
        return (*tree.parent.resolve().parts, *tree.parts[-1:])
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.EPERM, errno.EIO, errno.EINVAL, errno.EACCES):
            raise
        # the way there is broken: that is what will be explained
        return tuple(os.path.normpath(tree.path).split(b"/")[1:])


class _Asked(NamedTuple):
    layer: int
    path: bytes
    hit: Hit | None
    stopped: bool


class _Traced(Search):
    """A search that remembers whom it asked."""

    __slots__ = ("asked",)

    def __init__(self, layers: Layers, within: OpenDir, name: bytes) -> None:
        super().__init__(layers, within, name)
        self.asked: list[_Asked] = []

    def in_layer(self, layer: int, index: int) -> Hit | None:
        absolute = self.name[:1] == b"/"
        path = self.name[1:] if absolute else _join(self.within.hits[index].path, self.name)
        before = self.stop
        hit = super().in_layer(layer, index)
        self.asked.append(_Asked(layer, path, hit, self.stop and not before))
        return hit


class _State:
    """What is known of one layer while the path is followed: where it is, and what cut it off."""

    def __init__(self, path: bytes = b"") -> None:
        self.path = path
        self.alive = True
        self.hidden_by: int | None = None
        self.why = ""
        self.final = False  # `path` is what the answer is about, although the path goes on


class _Inquiry:
    """One explanation in the making."""

    def __init__(self, layers: Layers, path: bytes, parts: tuple[bytes, ...]) -> None:
        self.layers, self.path, self.parts = layers, path, parts
        self.view = View(layers)
        self.states = {number: _State() for number in range(layers.first, layers.last + 1)}
        self.found: Found | None = self.view.root
        self.error: OSError | None = None

    def run(self) -> Explanation:
        for index, name in enumerate(self.parts):
            if self.found is None or not self.found.is_dir:
                self._go_on_without(b"/".join(self.parts[index:]))
                break
            self._step(name, b"/".join(self.parts[: index + 1]))
        rows = tuple(self._answer(number) for number in self.states)
        rows += tuple(self._data_answer(number) for number in self.layers.data)
        resolved = b"/".join(self.parts)
        if self.error is not None:
            why = f"a mount fails there: {self.error.strerror}"
            return Explanation(self.path, resolved, False, "absent", None, why, rows)
        winner = next((row for row in rows if row.part == "wins"), None)
        if winner is None:
            return Explanation(self.path, resolved, False, "absent", None, self._why_absent(rows), rows)
        return Explanation(
            self.path, resolved, True, winner.answer, winner.layer, self._why(winner, rows), rows
        )

    def _step(self, name: bytes, sofar: bytes) -> None:
        """Look one name up and see what became of every layer."""
        assert self.found is not None
        with OpenDir(self.layers, self.found.hits) as within:
            search = _Traced(self.layers, within, name)
            try:
                self.found = search.run(False)
            except OSError as error:
                if forbidden(error):
                    raise
                self.found, self.error = None, error
        asked = {entry.layer: entry for entry in search.asked}
        stopper = next((entry for entry in search.asked if entry.stopped), None)
        winning = {hit.layer for hit in self.found.hits} if self.found else set()
        for number, state in self.states.items():
            entry = asked.get(number)
            if entry is None:
                state.path = _join(state.path, name)
                if state.alive:
                    state.alive = False
                    if stopper is not None:
                        state.hidden_by = stopper.layer
                        state.why = self._why_stopped(stopper, sofar)
                continue
            state.path, state.hidden_by, state.why = entry.path, None, ""
            state.alive = number in winning or entry.hit is not None
            if not state.alive:
                self._not_chosen(state, entry, sofar)

    def _not_chosen(self, state: _State, entry: _Asked, sofar: bytes) -> None:
        """It was asked, and what it has does not show: a mark, or it cannot merge with what is above."""
        seen = self._seen(entry.layer, entry.path)
        if seen is None:
            return
        if self.layers.format.is_whiteout(*seen):
            state.final = True
            state.why = f"deletes {_printable(os.fsdecode(sofar))} in the layers below"
        elif entry.stopped and self.found is not None:
            state.hidden_by = self.found.hits[0].layer
            state.why = f"what is no directory does not merge with {self._name(state.hidden_by)}'s directory"

    def _why_stopped(self, stopper: _Asked, sofar: bytes) -> str:
        name, path = self._name(stopper.layer), _printable(os.fsdecode(sofar))
        if stopper.hit is None:
            seen = self._seen(stopper.layer, stopper.path)
            if seen is not None and self.layers.format.is_whiteout(*seen):
                return f"{name} has a whiteout at {path}"
            return f"{name} has no directory at {path}"
        if stat.S_ISDIR(stopper.hit.status.st_mode):
            return f"{name}'s {path} is opaque"
        return f"{name} has a {TYPES[stopper.hit.status.st_mode >> 12]} at {path}"

    def _go_on_without(self, rest: bytes) -> None:
        """What the path leads through is not a directory: the layers are still asked what they have there."""
        winner = self.found.hits[0].layer if self.found is not None else None
        for number, state in self.states.items():
            if state.final:
                continue
            if number == winner:
                state.final = True
                state.why = "is no directory, so there is nothing in it"
            else:
                state.path = _join(state.path, rest)
                state.alive = False
        self.found = None

    # -- the rows

    def _answer(self, number: int) -> Answer:
        state = self.states[number]
        role = "upper" if number == 0 else "lower"
        directory = self.layers.directories[number]
        seen = self._seen(number, state.path)
        if seen is None:
            return Answer(number, role, directory, state.path, "absent")
        status, names = seen
        part, why = self._part(number, state)
        marks = self.layers.format
        whiteout = marks.is_whiteout(status, names)
        if whiteout and not state.hidden_by:
            part, why = "deletes", state.why
        found = tuple(
            word
            for word, mark in (
                ("opaque", marks.opaque),
                ("redirect", marks.redirect),
                ("metacopy", marks.metacopy),
            )
            if mark in names and (word != "opaque" or self._mark(number, state.path, mark) == b"y")
        )
        hit = Hit(number, state.path, status, names)
        target = self.layers.readlink(hit) if stat.S_ISLNK(status.st_mode) else None
        return Answer(
            number, role, directory, state.path, "whiteout" if whiteout else TYPES[status.st_mode >> 12], found,
            self._mark(number, state.path, marks.redirect) if "redirect" in found else None,
            part, state.hidden_by, why, entry_of(status, target),
        )  # fmt: skip

    def _part(self, number: int, state: _State) -> tuple[str, str]:
        if self.found is not None:
            layers = [hit.layer for hit in self.found.hits]
            if number == layers[0]:
                if self._content() not in (None, number):
                    return "wins", "its content is elsewhere"
                below = self._mark(number, state.path, self.layers.format.redirect)
                return "wins", f"goes on below as {_printable(os.fsdecode(below))}" if below else ""
            if number in layers:
                return "merged", f"below {self._name(layers[0])}'s directory"
            if number == self._content():
                return "content", f"of the metacopy in {self._name(layers[0])}"
        if state.hidden_by is not None:
            return "hidden", state.why
        return "", state.why

    def _content(self) -> int | None:
        return self.found.content[0] if self.found is not None and self.found.content is not None else None

    def _data_answer(self, number: int) -> Answer:
        directory = self.layers.directories[number]
        if self.found is None or self.found.content is None or self.found.content[0] != -1:
            return Answer(
                number, "data", directory, b"", "absent", why="is asked for the content of metacopies only"
            )
        path = self.found.content[1]
        for earlier in self.layers.data:
            seen = self._seen(earlier, path)
            if seen is not None and stat.S_ISREG(seen[0].st_mode):
                break
        seen = self._seen(number, path)
        if seen is None:
            return Answer(number, "data", directory, path, "absent")
        part = "content" if number == earlier else "hidden"
        by = earlier if part == "hidden" and earlier < number else None
        return Answer(
            number,
            "data",
            directory,
            path,
            TYPES[seen[0].st_mode >> 12],
            part=part,
            hidden_by=by,
            entry=entry_of(seen[0]),
        )

    # -- sentences

    def _name(self, number: int) -> str:
        return "the upper" if number == 0 else f"layer {number}"

    def _why(self, winner: Answer, rows: tuple[Answer, ...]) -> str:
        text = f"{self._name(winner.layer)}'s {winner.answer} wins"
        merged = [self._name(row.layer) for row in rows if row.part == "merged"]
        content = [self._name(row.layer) for row in rows if row.part == "content"]
        if merged:
            text += f", merged with {', '.join(merged)}"
        if content:
            text += f", with the content of {content[0]}"
        return text

    def _why_absent(self, rows: tuple[Answer, ...]) -> str:
        for row in rows:
            if row.part == "deletes":
                return f"deleted by {self._name(row.layer)}"
        hidden = [row for row in rows if row.part == "hidden"]
        if hidden:
            return f"not there: {hidden[0].why}"
        ends = [row for row in rows if row.why and row.role != "data"]
        return (
            f"not there: {self._name(ends[0].layer)}'s {ends[0].answer} {ends[0].why}"
            if ends
            else "in no layer"
        )

    # -- what is in a layer, whatever a mount shows of it

    def _seen(self, number: int, path: bytes) -> tuple[os.stat_result, list[str]] | None:
        if not path:
            return look(self.layers.root(number), b".")
        above, _, base = path.rpartition(b"/")
        try:
            with self.layers.open(number, above, os.O_PATH | os.O_DIRECTORY) as directory:
                return look(directory, base)
        except OSError as error:
            if forbidden(error):
                raise
            return None

    def _mark(self, number: int, path: bytes, name: str) -> bytes | None:
        try:
            with self.layers.open(number, path, os.O_PATH) as fd:
                return os.getxattr(b"/proc/self/fd/%d" % fd, name)
        except OSError as error:
            if forbidden(error):
                raise
            return None


def forbidden(error: OSError) -> bool:
    """Whether whoever asks may not look there, which says nothing of what is there. (A redirect through ".." is refused
    with the same number in a mount.)
    """
    return error.errno == errno.EACCES and error.strerror == os.strerror(errno.EACCES)


def _join(path: bytes, name: bytes) -> bytes:
    return b"%b/%b" % (path, name) if path else name


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _row_as_dict(row: Answer) -> dict[str, Any]:
    entry = None
    if row.entry is not None:
        e = row.entry
        entry = {
            "type": e.type, "mode": f"{e.mode:04o}", "uid": e.uid, "gid": e.gid, "size": e.size,
            "mtime_ns": e.mtime_ns, "target": None if e.target is None else os.fsdecode(e.target), "rdev": e.rdev,
        }  # fmt: skip
    return {
        "layer": row.layer,
        "role": row.role,
        "directory": os.fsdecode(row.directory),
        "path": os.fsdecode(row.path),
        "answer": row.answer,
        "marks": list(row.marks),
        "redirect": None if row.redirect is None else os.fsdecode(row.redirect),
        "part": row.part,
        "hidden_by": row.hidden_by,
        "why": row.why,
        "entry": entry,
    }
