"""Each layer's answer for a path as a table, the layers on top of each other as they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli import output
from lamina.cli.quoting import quote

if TYPE_CHECKING:
    from lamina import Explanation

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
