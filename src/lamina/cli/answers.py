"""The host's answers and the doctor's findings as tables: drawn on a terminal, in plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lamina.cli import output
from lamina.cli.style import Style

if TYPE_CHECKING:
    from lamina.engine.doctor import Finding
    from lamina.engine.info import Fact

WORDS = {True: "yes", False: "no", None: ""}
MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("", "")}
LEVELS = {"blocks": "bad", "weak": "warning", "note": "weak"}


def show(versions: dict[str, str], store: str, facts: Iterable[Fact]) -> None:
    """Versions and place of the store, then each area's answers."""
    areas: dict[str, list[Fact]] = {}
    for fact in facts:
        areas.setdefault(fact.area, []).append(fact)
    output.columns((), [[f"{key}:", said] for key, said in (*versions.items(), ("store", store))])
    if output.is_terminal():
        _draw(areas)
        return
    for area, answers in areas.items():
        output.line()
        rows = [[f"  {fact.name}", WORDS[fact.good], fact.answer] for fact in answers]
        output.line(area)
        output.columns((), rows)


def _draw(areas: dict[str, list[Fact]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = output.console()
    for area, facts in areas.items():
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for fact in facts:
            mark, colour = MARKS[fact.good]
            table.add_row(Text(f"  {fact.name}", style="cyan"), Text(mark, style=colour), Text(fact.answer))
        console.print(Text(f"\n{area}", style="bold"), table, sep="\n")


def findings(found: Iterable[Finding]) -> None:
    """Each finding with its effect and its remedy, what blocks first."""
    style = Style()
    count = 0
    for finding in found:
        output.line() if count else None
        count += 1
        output.line(f"{style(LEVELS[finding.level], finding.level)}: {finding.what}")
        output.line(f"  effect: {finding.effect}")
        if finding.remedy:
            output.line("  remedy:")
            for command in finding.remedy.splitlines():
                output.line(f"    {style('strong', command)}")
        if finding.advice:
            output.line(f"  advice: {finding.advice}")
    if not count:
        output.line(style("good", "all is well: containers run here"))
