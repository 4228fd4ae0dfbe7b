"""Where a path comes from, as values: every layer's answer, and who made that layer, by which step, when."""

from __future__ import annotations

import os

from lamina.overlay.explain import Explanation
from lamina.overlay.options import printable
from lamina.overlay.tally import Share
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.overlay.explain import Answer as Answer  # for the faces too

CONTAINER, STATE, IMAGE, HOST, DIRECTORY = "container", "state", "image", "host", "directory"


@value
class Maker:
    """Who made a layer, or of a squashed layer what is there at the path, as far as that is known.

    kind      "container": what a container wrote since its last state; "state": what a snapshot froze; "image": a step
              of an image; "host": the files of this system; "directory": any other
    layer     the id of the layer in the store, "" of what is none
    name      of which container, state (web@step-17) or image
    step      the command, or the instruction of the Dockerfile
    number    of an image's steps that made a layer: which, from 1, and `of` how many
    message   what was said of the snapshot
    created   seconds since 1970, 0.0 where it is not known
    squashed  whether it is in a layer that was made of several
    """

    kind: str
    layer: str = ""
    name: str = ""
    step: str = ""
    number: int = 0
    of: int = 0
    message: str = ""
    created: float = 0.0
    squashed: bool = False

    @property
    def title(self) -> str:
        """In a few words: `web@step-17`, `debian:12 3/7`."""
        if self.kind == HOST:
            return "this system"
        return f"{self.name} {self.number}/{self.of}" if self.number else self.name

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


@value
class Provenance:
    """Where *path* comes from in a container, a snapshot or an image.

        found = box.explain("/etc/motd")
        found.exists, found.why, found.made_by.step
        for row, maker in zip(found.rows, found.makers): ...
        Path("motd.html").write_text(found.html())

    name         the state that was asked
    path         absolute, as it was asked for
    explanation  the answer of the stack that is mounted there; its paths are relative to `mountpoint`
    makers       one for each of its rows
    shares       of a directory: what each layer has in it, one for each row that has it; () if it was not added up
    entries      of a directory: the explanations of some of its entries, and `more` how many others it has
    mounted      what is mounted over the path in the container, "" if nothing: then nobody sees what this says
    """

    name: str
    path: bytes
    mountpoint: bytes
    explanation: Explanation
    makers: tuple[Maker, ...]
    shares: tuple[Share, ...] = ()
    entries: tuple[Explanation, ...] = ()
    more: int = 0
    mounted: str = ""

    # -- in short

    @property
    def exists(self) -> bool:
        """Whether there is anything."""
        return self.explanation.exists

    @property
    def type(self) -> str:
        """Of what it is: "file", "directory", ...; "absent"."""
        return self.explanation.type

    @property
    def why(self) -> str:
        """The outcome in a sentence."""
        return self.explanation.why

    @property
    def resolved(self) -> bytes:
        """The absolute path without symbolic links on the way."""
        return (self.mountpoint.rstrip(b"/") + b"/" + self.explanation.resolved).rstrip(b"/") or b"/"

    @property
    def rows(self) -> tuple[Answer, ...]:
        """Every layer's answer, top to bottom."""
        return self.explanation.rows

    @property
    def winner(self) -> Answer | None:
        """The answer that counts."""
        return next((row for row in self.rows if row.part == "wins"), None)

    @property
    def made_by(self) -> Maker | None:
        """Who made what is there; of what is not there any more, who deleted it."""
        deciding = next((maker for row, maker in self._told() if row.part == "wins"), None)
        return deciding or next((maker for row, maker in self._told() if row.part == "deletes"), None)

    def _told(self) -> list[tuple[Answer, Maker]]:
        return list(zip(self.rows, self.makers, strict=True))

    # -- what a write would cost

    @property
    def copy_up(self) -> int:
        """How many bytes are copied before the first write to it; of a directory, if everything in it is written to."""
        if self.type == "directory":
            return sum(share.shown_bytes for share in self.shares if share.layer)
        winner = self.winner
        if winner is None or winner.layer == 0 or winner.entry is None or winner.answer != "file":
            return 0
        return winner.entry.size

    @property
    def links(self) -> int:
        """How many names the file has in its layer, which a write in a lower layer parts from each other; else 0."""
        winner = self.winner
        if winner is None or winner.entry is None or winner.answer == "directory":
            return 0
        return winner.entry.nlink

    @property
    def cost(self) -> str:
        """In a sentence, what a write would copy; "" where there is nothing to write to."""
        from lamina.engine.quantities import plural, size

        winner = self.winner
        if winner is None or winner.answer not in ("file", "directory"):
            return ""
        if winner.answer == "directory":
            return f"writing to every file in it copies {size(self.copy_up)} first" if self.shares else ""
        if winner.layer == 0:
            said = "a write copies nothing: it is in the upper already"
            return f"{said}, under {plural(self.links, 'name', 'names')}" if self.links > 1 else said
        said = f"the first write copies {size(self.copy_up)}"
        if self.links > 1:
            said += (
                f", and parts it from {plural(self.links - 1, 'other name', 'other names')} of the same file"
            )
        return said

    def share(self, layer: int) -> Share | None:
        """What that layer has in the directory."""
        return next((share for share in self.shares if share.layer == layer), None)

    # -- in full

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes as text (not UTF-8: surrogateescape)."""
        document = self.explanation.as_dict()
        for row, maker in zip(document["layers"], self.makers, strict=True):
            row["made_by"] = maker.as_dict()
            if (share := self.share(row["layer"])) is not None:
                row["sum"] = {key: found for key, found in share._asdict().items() if key != "layer"}
        return {
            **document,
            "path": os.fsdecode(self.path),
            "of": self.name,
            "mountpoint": os.fsdecode(self.mountpoint),
            "mounted_over": self.mounted,
            "copy_up_bytes": self.copy_up,
            "links": self.links,
            "entries": [one.as_dict() for one in self.entries],
            "more_entries": self.more,
        }

    def __str__(self) -> str:
        from lamina.engine.quantities import size

        lines = [f"{printable(self.path)}: {self.why}"]
        for row, maker in self._told():
            layer = row.role if row.role == "upper" else f"{row.role} {row.layer}"
            answer = ", ".join((*row.marks, row.answer)) if row.answer != "absent" else "-"
            large = size(row.entry.size) if row.entry is not None and row.answer == "file" else ""
            cells = layer, maker.title, maker.step, answer, large, row.why or row.part
            lines.append("  ".join(printable(os.fsencode(cell)) for cell in cells if cell))
        return "\n".join(lines)

    # -- drawn

    def svg(self) -> str:
        """The picture of it, as one would draw it on a whiteboard: an SVG document that stands by itself."""
        from lamina.engine.whiteboard import svg

        return svg(self)

    def html(self) -> str:
        """The picture and the whole table, as a page that needs nothing else."""
        from lamina.engine.whiteboard_page import html

        return html(self)

    def _repr_html_(self) -> str:
        """In a notebook."""
        return self.svg()
