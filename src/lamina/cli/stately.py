"""The states of a container as lists and drawings show them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lamina.cli import output
from lamina.cli.durations import ago
from lamina.cli.graph import BASE, Node, draw
from lamina.cli.quoting import harmless, join, quote
from lamina.cli.sizes import human
from lamina.cli.style import Style

if TYPE_CHECKING:
    from lamina.engine.state_log import LoggedState, StateLog

SHORT = 40
MOST_FORKS = 4


def drawing(log: StateLog, *, whole: bool = False, most: int | None = None) -> Iterator[str]:
    """A line a state, the newest first: where the container stands, the tree, and what it all began with; of *most*
    states, with rails that lead on where there are more.
    """
    style = Style()
    states = log.states[:most]
    cells = [_cells(one, whole) for one in states]
    widths = [max((output.width(row[column]) for row in cells), default=0) for column in range(4)]
    nodes = [
        Node(
            one.snapshot.id,
            one.parent or BASE,
            "◉" if one.here else "●",
            _line(one, row, widths, style, whole),
        )
        for one, row in zip(states, cells, strict=True)
    ]
    since = "written to since" if log.written else "nothing written since"
    now = Node("now", log.here or BASE, "○", f"{style('strong', quote(log.name))}  now, {since}")
    pairs = list(draw([now, *nodes], style("weak", f"{quote(log.begins)}")))
    if more := len(log.states) - len(states):
        pairs[-1] = "┆", style("weak", f"and {more:,} more, over {quote(log.begins)}")
    room = max(output.width(rails) for rails, _ in pairs)
    for rails, text in pairs:
        pad = " " * (room - output.width(rails))
        yield style("name", rails) + (f"{pad}  {text}" if text else "")


def _cells(one: LoggedState, whole: bool) -> list[str]:
    snapshot = one.snapshot
    return [
        snapshot.name,
        snapshot.id if whole else snapshot.short_id,
        ago(snapshot.created, time.time()),
        human(snapshot.size),
    ]


def _line(one: LoggedState, row: list[str], widths: list[int], style: Style, whole: bool) -> str:
    name, identity, when, size = (
        cell + " " * (wide - output.width(cell)) for cell, wide in zip(row, widths, strict=True)
    )
    parts = [*([style("strong", name)] if widths[0] else []), style("weak", identity), when, size]
    said = harmless(command_of(one, whole))
    if one.snapshot.message:
        said += ("  " if said else "") + f"“{harmless(one.snapshot.message)}”"
    if one.forks:
        named = ", ".join(map(quote, one.forks[:MOST_FORKS]))
        more = f" and {len(one.forks) - MOST_FORKS:,} more" if len(one.forks) > MOST_FORKS else ""
        said += ("  " if said else "") + style("changed", f"→ {named}{more}")
    return "  ".join([*parts, said]).rstrip()


def command_of(one: LoggedState, whole: bool) -> str:
    """The command that made it, as it could be typed."""
    text = join(one.snapshot.command)
    return text if whole or len(text) <= SHORT else text[: SHORT - 1] + "…"


def records(log: StateLog, *, whole: bool) -> list[dict[str, Any]]:
    """The states for templates and programs, the newest first."""
    return [
        {
            "ID": one.snapshot.id if whole else one.snapshot.short_id,
            "Name": one.snapshot.name,
            "Container": log.name,
            "Parent": (one.parent or "") if whole else (one.parent or "")[:12],
            "Here": one.here,
            "Created": one.snapshot.created,
            "CreatedSince": ago(one.snapshot.created, time.time()),
            "Size": human(one.snapshot.size),
            "Bytes": one.snapshot.size,
            "Command": command_of(one, whole),
            "Message": one.snapshot.message,
            "Forks": list(one.forks),
        }
        for one in log.states
    ]


def show(logs: Iterable[StateLog], *, whole: bool = False, most: int | None = None) -> None:
    """The drawings, an empty line between them, through the pager."""
    from lamina.cli.pager import page

    def lines() -> Iterator[str]:
        for number, log in enumerate(logs):
            if number:
                yield ""
            yield from drawing(log, whole=whole, most=most)

    page(lines())
