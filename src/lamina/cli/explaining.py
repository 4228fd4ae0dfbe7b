"""Each layer's answer for a path as a table, the layers on top of each other as they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli import output
from lamina.cli.quoting import quote
from lamina.cli.style import Style

if TYPE_CHECKING:
    from lamina import Explanation
    from lamina.engine.provenance import Maker, Provenance
    from lamina.overlay.explain import Answer

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


STEPS = ("LAYER", "MADE BY", "WHEN", "HERE", "SIZE", "WHY")
SUMS = ("LAYER", "MADE BY", "WHEN", "HERE", "SEEN", "HIDDEN", "DELETES")
LONGEST_STEP = 44


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
            style("warning", f"in the container {found.mounted} is mounted over it: nobody there sees this")
        )
    if found.cost:
        output.line(found.cost)
    sums = bool(found.shares)
    rows = [
        _step(found, row, maker, sums, whole) for row, maker in zip(found.rows, found.makers, strict=True)
    ]
    if not output.is_terminal():
        output.columns(SUMS if sums else STEPS, rows)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in SUMS if sums else STEPS:
        table.add_column(heading.lower(), overflow="fold", no_wrap=heading not in ("MADE BY", "WHY"))
    for cells, row in zip(rows, found.rows, strict=True):
        table.add_row(*map(Text, cells), style=COLOURS.get(row.part, "dim"))
    output.console().print(table)


def _step(found: Provenance, row: Answer, maker: Maker, sums: bool, whole: bool) -> list[str]:
    import time

    from lamina.cli.quoting import harmless
    from lamina.cli.when import ago
    from lamina.engine.summary import size

    made = maker.title + (" (squashed)" if maker.squashed else "")
    if said := maker.step or maker.message:
        made += f": {said}"
    made = harmless(made.replace("\n", " ").replace("\t", " "))
    if not whole and len(made) > LONGEST_STEP:
        made = made[: LONGEST_STEP - 1] + "…"
    when = ago(maker.created, time.time()) if maker.created > 0 else ""
    layer = row.role if row.role == "upper" else f"{row.role} {row.layer}"
    answer = ", ".join((*row.marks, row.answer)) if row.answer != "absent" else "-"
    if sums:
        share = found.share(row.layer)
        told = ["", "", ""]
        if share is not None:
            told = [
                f"{share.shown:,} ({size(share.shown_bytes)})",
                f"{share.hidden:,} ({size(share.hidden_bytes)})" if share.hidden else "",
                f"{share.deletes:,}" if share.deletes else "",
            ]
        return [layer, made, when, answer, *told]
    large = size(row.entry.size) if row.entry is not None and row.answer == "file" else ""
    why = row.why if row.why.startswith(row.part) else "; ".join(filter(None, (row.part, row.why)))
    return [layer, made, when, answer, large, harmless(why)]
