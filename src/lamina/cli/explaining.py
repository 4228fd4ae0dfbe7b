"""Each layer's answer for a path as a table, the layers on top of each other as they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli import output
from lamina.cli.quoting import harmless, quote
from lamina.cli.style import Style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina import Explanation
    from lamina.engine.provenance import Answer, Maker, Provenance

HEADINGS = ("LAYER", "DIRECTORY", "PATH", "ANSWER", "WHY")
COLOURS = {
    "wins": "bold green",
    "merged": "green",
    "content": "green",
    "deletes": "bold red",
    "hidden": "dim",
}


def show(explanation: Explanation) -> None:
    """The outcome in a sentence, then the table: the top layer first."""
    output.line(f"{quote(b'/' + explanation.resolved)}: {explanation.why}")
    rows = [
        [layer, quote(directory), quote(path), answer, why]
        for layer, directory, path, answer, why in explanation.table()
    ]
    if not output.is_terminal():
        output.columns(HEADINGS, rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading.lower(), overflow="fold", no_wrap=heading in ("LAYER", "ANSWER"))
    for row, said in zip(rows, explanation.rows, strict=True):
        table.add_row(*map(Text, row), style=COLOURS.get(said.part, "dim"))
    output.console().print(table)


STEPS = ("LAYER", "HERE", "SIZE", "OUTCOME", "WHEN", "MADE BY")
SUMS = ("LAYER", "HERE", "SEEN", "HIDDEN", "DELETES", "WHEN", "MADE BY")
LONGEST, SHORTEST = 60, 24  # of what made a layer
MEANINGS = {"wins": "good", "merged": "added", "content": "added", "deletes": "deleted"}


def show_provenance(found: Provenance, *, whole: bool = False) -> None:
    """The outcome and the cost of a write in a sentence each, then the layers, the top one first; *whole*: commands are
    not shortened.
    """
    style = Style()
    output.line(style("strong", f"{quote(found.path)}: {found.why}"))
    if found.resolved != found.path:
        output.line(f"by way of links it is {quote(found.resolved)}")
    if found.mounted:
        output.line(
            style(
                "warning",
                f"in the container {harmless(found.mounted)} is mounted over it: nobody there sees this",
            )
        )
    if found.cost:
        output.line(found.cost)
    headings = SUMS if found.shares else STEPS
    rows = [_step(found, row, maker) for row, maker in zip(found.rows, found.makers, strict=True)]
    widths = [max(map(output.width, column)) for column in zip(headings, *rows, strict=True)][:-1]
    room = None if whole else _room(sum(widths) + 3 * len(widths))
    lines = [style("strong", _line(headings, widths, None))]
    for cells, row in zip(rows, found.rows, strict=True):
        lines.append(style(MEANINGS.get(row.part, "weak"), _line(cells, widths, room)))
    output.lines(lines)


def _room(taken: int) -> int:
    """How many columns there are for what made a layer."""
    if not output.is_terminal():
        return LONGEST
    from shutil import get_terminal_size

    return max(get_terminal_size().columns - taken, SHORTEST)


def _line(cells: Sequence[str], widths: Sequence[int], room: int | None) -> str:
    padded = [cell + " " * (wide - output.width(cell)) for cell, wide in zip(cells, widths, strict=False)]
    last = cells[-1]
    if room is not None and output.width(last) > room:
        last = last[: room - 1] + "…"
    return "   ".join([*padded, last]).rstrip()


def _step(found: Provenance, row: Answer, maker: Maker) -> list[str]:
    from lamina.engine.quantities import size

    layer = row.role if row.role == "upper" else f"{row.role} {row.layer}"
    answer = ", ".join((*row.marks, row.answer)) if row.answer != "absent" else "-"
    told = [_when(maker), _made(maker)]
    if not found.shares:
        large = size(row.entry.size) if row.entry is not None and row.answer == "file" else ""
        return [layer, answer, large, _outcome(row), *told]
    share = found.share(row.layer)
    if share is None:
        return [layer, answer, "", "", "", *told]
    return [
        layer,
        answer,
        f"{share.shown:,} ({size(share.shown_bytes)})",
        f"{share.hidden:,} ({size(share.hidden_bytes)})" if share.hidden else "",
        f"{share.deletes:,}" if share.deletes else "",
        *told,
    ]


def _outcome(row: Answer) -> str:
    """In a word or three; the sentence is in the other forms."""
    if row.hidden_by is None:
        return row.part
    return f"hidden by {'upper' if row.hidden_by == 0 else row.hidden_by}" if row.answer != "absent" else ""


def _when(maker: Maker) -> str:
    import time

    from lamina.cli.durations import ago

    if maker.created <= 0:
        return ""
    said = ago(maker.created, time.time())
    return "just now" if said.startswith("Less") else said


def _made(maker: Maker) -> str:
    made = maker.title + (" (squashed)" if maker.squashed else "")
    if said := maker.step or maker.message:
        made += f": {said}"
    return harmless(made.replace("\n", " ").replace("\t", " "))
