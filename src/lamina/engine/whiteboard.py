"""The picture of a stack of layers that one draws on a whiteboard: what is seen on top, below it the layers as panes of
glass, a column for each name, and a beam from the layer where a name shines through.

An SVG document that stands by itself: no script, no font, nothing from elsewhere, in the colours of the reader's choice
(light or dark). Names are anybody's: everything is escaped, and what cannot be printed is shown by its escape.
"""

from __future__ import annotations

import os
import time
from html import escape
from unicodedata import combining, east_asian_width

from lamina.engine.provenance import CONTAINER, HOST, IMAGE, STATE
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.engine.provenance import Maker, Provenance
    from lamina.overlay.explain import Answer, Explanation

MARGIN, LABEL, ASIDE = 28, 300, 280
ROW, GAP, THIN = 68, 14, 26
NARROW, COLUMN, WIDE = 84, 150, 230  # of one name: among others from, to; and alone
MOST_ROWS = 40
MONO = 0.61  # of its size is a letter of a monospaced font wide; others are narrower
PROSE = 0.54
# white letters can be read on each of these (WCAG AA)
HUES = {
    CONTAINER: ("#b45309",),
    STATE: ("#047857", "#0f766e", "#4d7c0f"),
    IMAGE: ("#2563eb", "#7c3aed", "#0e7490", "#4f46e5"),
    HOST: ("#475569",),
    "": ("#475569", "#6d28d9", "#0369a1"),
}
STYLE = """
.paper{fill:#fbfaf7}.pane{fill:#eceff5;fill-opacity:.72;stroke:#c4ccd9}.top{fill:#fff;stroke:#1f2328;stroke-width:1.6}
.ink{fill:#1f2328}.weak{fill:#5b6472}.sans{font-family:system-ui,-apple-system,'Segoe UI','Noto Sans',sans-serif}
.mono{font-family:ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace}
.hidden{fill:none;stroke:#8b95a5;stroke-dasharray:4 3}.gone{fill:#b91c1c;fill-opacity:.08;stroke:#b91c1c}
.cross{stroke:#b91c1c;stroke-width:1.4}.red{fill:#b91c1c}.on{fill:#fff}
.nothing{fill:none;stroke:#b6bfcc;stroke-dasharray:2 4}
.lid{fill:#b91c1c}.thin{fill:none;stroke:#c4ccd9;stroke-dasharray:1 5}
text{unicode-bidi:isolate;white-space:pre}
@media (prefers-color-scheme:dark){
.paper{fill:#14161a}.pane{fill:#232830;stroke:#414a58}.top{fill:#1b1f26;stroke:#e8eaed}.ink{fill:#e8eaed}.weak{fill:#a3adba}
.hidden{stroke:#768293}.gone{stroke:#f87171;fill:#f87171}.cross{stroke:#f87171}.red,.lid{fill:#f87171}.nothing{stroke:#4b5563}
.thin{stroke:#414a58}}
@media print{.paper{fill:#fff}}
"""


@value
class Line:
    """A pane, or a thin one that stands for `skipped` layers which have nothing to say."""

    layer: int
    y: int
    skipped: int = 0


def svg(found: Provenance) -> str:
    """The picture of *found*: of a directory a column for each of its entries, else one for the path itself."""
    return _Picture(found).draw()


def shown(text: str | bytes) -> str:
    """*text* with what cannot be printed, or would change the direction of writing, as its escape."""
    plain = os.fsdecode(text)
    return "".join(c if c.isprintable() else _escaped(c) for c in plain)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code & 0xFF:02x}" if code < 256 or 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def fitted(text: str, pixels: float, size: float, letter: float) -> str:
    """As much of *text* as fits, shortened in the middle: the end of a name tells as much as its beginning."""
    most = max(int(pixels / (size * letter)), 3)
    if _width(text) <= most:
        return text
    head, tail = (most - 1) * 3 // 5, (most - 1) - (most - 1) * 3 // 5
    return _cut(text, head) + "…" + _cut(text[::-1], tail)[::-1]


def _cut(text: str, most: int) -> str:
    wide, kept = 0, []
    for character in text:
        wide += _width(character)
        if wide > most:
            break
        kept.append(character)
    return "".join(kept)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def when(moment: float) -> str:
    """A time as people write it, in the zone of this machine; "" where there is none."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment > 0 else ""


class _Picture:
    def __init__(self, found: Provenance) -> None:
        self.found = found
        self.columns: Sequence[Explanation] = found.entries or (found.explanation,)
        self.alone = not found.entries
        self.column = WIDE if self.alone else self._fitting()
        self.right = MARGIN + LABEL + self.column * (len(self.columns) + (1 if found.more else 0)) + 16
        self.width = max(self.right + ASIDE + MARGIN, 900)
        self.out: list[str] = []
        self.merged = MARGIN + 66
        self.lines = list(self._layout(self.merged + ROW + 30))
        self.y = {line.layer: line.y for line in self.lines if not line.skipped}
        last = self.lines[-1]
        self.bottom = last.y + (THIN if last.skipped else ROW)
        self.height = self.bottom + 74
        self.hues = self._hues()

    def draw(self) -> str:
        """The document."""
        self._title()
        self._panes()
        for number, column in enumerate(self.columns):
            self._beam(number, column)
        for number, column in enumerate(self.columns):
            self._cells(number, column)
        if self.found.more:
            x = self._x(len(self.columns))
            self._text(x, self.merged + ROW / 2 + 4, f"+ {self.found.more:,} more", 12, "weak", "middle")
        self._legend()
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="lamina-title lamina-text">\n'
            f'<title id="lamina-title">{_safe(self._heading())}</title>\n'
            f'<desc id="lamina-text">{_safe(self._in_words())}</desc>\n<style>{STYLE}</style>\n'
            f'<rect class="paper" width="{self.width}" height="{self.height}" rx="10"/>\n'
        )
        return head + "\n".join(self.out) + "\n</svg>\n"

    # -- what is where

    def _fitting(self) -> int:
        """How wide the columns are for the longest name, within limits."""
        longest = max(_width(self._name(column)) for column in self.columns)
        return min(max(int((longest + 1) * 12 * MONO) + 26, NARROW), COLUMN)

    def _layout(self, y: int) -> Iterator[Line]:
        """The panes from the top down; several layers on end that say nothing share a thin one."""
        silent: list[int] = []
        drawn = 0
        rows = [row for row in self.found.rows if row.role != "data" or row.part]
        for row in [*rows, None]:
            if row is not None and drawn < MOST_ROWS and self._speaks(row):
                told = [row.layer]
            elif row is not None:
                silent.append(row.layer)
                continue
            else:
                told = []
            if len(silent) > 1 or (silent and not told and drawn >= MOST_ROWS):
                yield Line(silent[0], y, len(silent))
                y += THIN + GAP
            elif silent:
                yield Line(silent[0], y)
                y += ROW + GAP
            silent = []
            for layer in told:
                yield Line(layer, y)
                y, drawn = y + ROW + GAP, drawn + 1

    def _speaks(self, row: Answer) -> bool:
        if row.layer == 0:
            return True
        if (share := self.found.share(row.layer)) is not None and any(share[1:]):
            return True
        return any(one.layer == row.layer and one.answer != "absent" for c in self.columns for one in c.rows)

    def _hues(self) -> dict[int, str]:
        """A colour for each layer, of its kind's; neighbours of a kind differ."""
        counts: dict[str, int] = {}
        found = {}
        for row, maker in zip(self.found.rows, self.found.makers, strict=True):
            kind = maker.kind if maker.kind in HUES else ""
            some = HUES[kind]
            found[row.layer] = some[counts.get(kind, 0) % len(some)]
            counts[kind] = counts.get(kind, 0) + 1
        return found

    def _x(self, column: int) -> float:
        """The middle of a column."""
        return MARGIN + LABEL + 8 + self.column * (column + 0.5)

    # -- the parts

    def _heading(self) -> str:
        return f"{shown(self.found.path)} in {shown(self.found.name)}"

    def _title(self) -> None:
        found = self.found
        path = fitted(shown(found.path), self.width - 2 * MARGIN, 22, MONO)
        self._text(MARGIN, MARGIN + 18, path, 22, "ink", mono=True, weight=700)
        said = f"in {shown(found.name)} · {shown(found.why)}"
        if found.mounted:
            said += f" · but {shown(found.mounted)} is mounted over it"
        self._text(MARGIN, MARGIN + 42, fitted(said, self.width - 2 * MARGIN, 14, PROSE), 14, "weak")

    def _panes(self) -> None:
        x, wide = MARGIN + LABEL, self.right - MARGIN - LABEL
        self._box(x, self.merged, wide, ROW, "top", rx=10)
        self._text(MARGIN, self.merged + 28, "merged", 15, "ink", weight=700)
        self._text(MARGIN, self.merged + 46, "what you see", 12, "weak")
        makers = {row.layer: maker for row, maker in zip(self.found.rows, self.found.makers, strict=True)}
        rows = {row.layer: row for row in self.found.rows}
        for line in self.lines:
            if line.skipped:
                said = f"⋯ {line.skipped:,} layers that have nothing of it"
                if line.skipped == 1:
                    said = "⋯ one layer more"
                self._box(x, line.y, wide, THIN, "thin", rx=8)
                self._text(MARGIN, line.y + 17, said, 12, "weak")
                continue
            self._box(x, line.y, wide, ROW, "pane", rx=10)
            self._label(line, rows[line.layer], makers[line.layer])
            self._aside(line, rows[line.layer])

    def _label(self, line: Line, row: Answer, maker: Maker) -> None:
        role = {CONTAINER: "upper", STATE: "state", IMAGE: "image", HOST: "host"}.get(maker.kind, row.role)
        role = f"{role} {maker.number}/{maker.of}" if maker.number else role
        if row.layer:
            role = f"layer {row.layer} · {role}"
        moment = when(maker.created)
        inner = LABEL - 20
        self._text(MARGIN, line.y + 20, role, 14, "ink", weight=700)
        self._text(MARGIN + inner, line.y + 20, moment, 11, "weak", "end")
        name = "this system's files" if maker.kind == HOST else shown(maker.name)
        if maker.squashed:
            name += " (squashed with others)"
        self._text(MARGIN, line.y + 38, fitted(name, inner, 13, PROSE), 13, "ink", full=shown(maker.name))
        step = shown(maker.step or maker.message)
        self._text(MARGIN, line.y + 56, fitted(step, inner, 11, MONO), 11, "weak", mono=True, full=step)

    def _aside(self, line: Line, row: Answer) -> None:
        """At the right: of a file the reason, of a directory the sums."""
        from lamina.engine.quantities import plural, size

        x = self.right + 16
        share = self.found.share(line.layer)
        if share is None:
            said = [shown(row.why or row.part)]
            if row.entry is not None and row.answer == "file":
                said.append(size(row.entry.size))
        else:
            said = [f"{plural(share.shown, 'entry', 'entries')} seen, {size(share.shown_bytes)}"]
            if share.hidden:
                said.append(f"{share.hidden:,} hidden, {size(share.hidden_bytes)}")
            if share.deletes:
                said.append(f"deletes {plural(share.deletes, 'name', 'names')}")
        y = line.y + ROW / 2 + 4 - 8.5 * (len(said) - 1)
        for number, text in enumerate(said):
            style = "red" if text.startswith("deletes") else "weak"
            self._text(x, y + 17 * number, fitted(text, ASIDE - 16, 12, PROSE), 12, style, full=text)

    def _beam(self, number: int, column: Explanation) -> None:
        """From the layer that wins, through all that are above, to what is seen."""
        for row in column.rows:
            if row.part not in ("wins", "content") or row.layer not in self.y:
                continue
            x, wide = self._x(number) - self.column / 2 + 14, self.column - 28
            top, bottom = self.merged + ROW - 12, self.y[row.layer] + 14
            hue = self.hues[row.layer]
            self.out.append(
                f'<path d="M{x:.1f} {top} h{wide:.1f} L{x + wide - 6:.1f} {bottom} h{12 - wide:.1f} Z" '
                f'fill="{hue}" fill-opacity=".17"/>'
            )

    def _cells(self, number: int, column: Explanation) -> None:
        name = self._name(column)
        winner = next((row for row in column.rows if row.part == "wins"), None)
        if winner is None:
            self._cell(number, self.merged, "nothing", name, "weak", said="nothing there")
        else:
            hue = self.hues.get(winner.layer, HUES[""][0])
            said = f"{name}: a {winner.answer}, from {self._layer(winner.layer)}"
            self._cell(number, self.merged, "", name, "on", hue=hue, said=said, kind=winner.answer)
        for row in column.rows:
            if row.answer == "absent" or row.layer not in self.y:
                continue
            self._answer(number, name, row)

    def _answer(self, number: int, name: str, row: Answer) -> None:
        y, hue = self.y[row.layer], self.hues.get(row.layer, HUES[""][0])
        said = f"{name}: {row.answer} in {self._layer(row.layer)}; {shown(row.why or row.part)}"
        if row.answer == "whiteout":
            self._cell(number, y, "gone", name, "red", said=said, crossed=True)
        elif row.part == "wins":
            self._cell(number, y, "", name, "on", hue=hue, said=said, kind=row.answer)
        elif row.part in ("merged", "content"):
            self._cell(number, y, "", name, "on", hue=hue, faint=True, said=said, kind=row.answer)
        else:
            self._cell(number, y, "hidden", name, "weak", said=said, kind=row.answer)
        if "opaque" in row.marks:
            x = self._x(number) - self.column / 2 + 8
            self.out.append(
                f'<rect class="lid" x="{x:.1f}" y="{y + 8}" width="{self.column - 16}" height="4" rx="2">'
                f"<title>{_safe(name)}: opaque, nothing of it below is seen</title></rect>"
            )

    def _cell(
        self, number: int, y: float, style: str, name: str, ink: str, *, said: str, hue: str = "",
        faint: bool = False, crossed: bool = False, kind: str = "",
    ) -> None:  # fmt: skip
        wide, high = self.column - 16, ROW - 26
        x, top = self._x(number) - wide / 2, y + 13
        look = f'class="{style}"' if style else f'fill="{hue}"' + (' fill-opacity=".62"' if faint else "")
        self.out.append(
            f'<g><title>{_safe(said)}</title><rect {look} x="{x:.1f}" y="{top}" width="{wide}" height="{high}" rx="6"/>'
        )
        if crossed:
            self.out.append(
                f'<path class="cross" d="M{x + 5:.1f} {top + 5} l{wide - 10} {high - 10} '
                f'm0 {10 - high} l{10 - wide} {high - 10}"/>'
            )
        text = name + ("/" if kind == "directory" and not name.endswith("/") else "")
        text = fitted(text, wide - 8, 12, MONO)
        self._text(self._x(number), top + high / 2 + 4, text, 12, ink, "middle", mono=True)
        self.out.append("</g>")

    def _legend(self) -> None:
        y = self.bottom + 30
        said = "The topmost layer that has a name shows it. Dashed: hidden. Crossed out: a whiteout, deletes it below."
        self._text(MARGIN, y, said, 12, "weak")
        if cost := self.found.cost:
            self._text(MARGIN, y + 20, cost[:1].upper() + cost[1:] + ".", 12, "ink")

    # -- words

    def _name(self, column: Explanation) -> str:
        return shown(column.path.rpartition(b"/")[2] or b"/")

    def _layer(self, number: int) -> str:
        for row, maker in zip(self.found.rows, self.found.makers, strict=True):
            if row.layer == number:
                return shown(maker.title or row.role)
        return ""

    def _in_words(self) -> str:
        """The whole picture for those who do not see it."""
        lines = [f"{self._heading()}: {shown(self.found.why)}."]
        for column in self.columns:
            told = [
                f"{row.answer} in {self._layer(row.layer)}" + (f" ({row.part})" if row.part else "")
                for row in column.rows
                if row.answer != "absent"
            ]
            lines.append(f"{self._name(column)}: {', '.join(told) or 'in no layer'}.")
        if self.found.cost:
            lines.append(self.found.cost + ".")
        return " ".join(lines)

    # -- primitives

    def _box(self, x: float, y: float, wide: float, high: float, style: str, rx: int) -> None:
        self.out.append(f'<rect class="{style}" x="{x}" y="{y}" width="{wide}" height="{high}" rx="{rx}"/>')

    def _text(
        self, x: float, y: float, text: str, size: int, style: str, anchor: str = "start", *, mono: bool = False,
        weight: int = 400, full: str = "",
    ) -> None:  # fmt: skip
        if not text:
            return
        title = f"<title>{_safe(full)}</title>" if full and full != text else ""
        self.out.append(
            f'<text class="{"mono" if mono else "sans"} {style}" x="{x:.1f}" y="{y:.1f}" font-size="{size}"'
            + (f' font-weight="{weight}"' if weight != 400 else "")
            + (f' text-anchor="{anchor}"' if anchor != "start" else "")
            + f">{title}{_safe(text)}</text>"
        )


def _safe(text: str) -> str:
    return escape(shown(text), quote=True)
