"""A set of changes shown in the form that was asked for: lines, statistics, a patch, JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.cli import output
from lamina.cli.listing import LEGEND, Listing, dockers, document, folded, record
from lamina.cli.pager import page
from lamina.cli.quoting import harmless
from lamina.cli.style import Style

if TYPE_CHECKING:
    from lamina.argv.declare import Arguments
    from lamina.engine import Container
    from lamina.engine.apply.values import HostChange

    Diff = Callable[[Sequence[HostChange]], Iterable[bytes]]

# in a summary on the way: more lines than fit on a screen are counted instead
MOST_GRAVE, MOST_OTHERS = 40, 20


def forms(args: Arguments) -> list[str]:
    """The forms that were asked for; there can be one."""
    asked = [f"--{name}" for name in ("stat", "patch") if getattr(args, name)]
    return [*asked, *(["--format " + args.format] if args.format != "table" else [])]


def show(changes: Sequence[HostChange], args: Arguments, diff: Diff) -> None:
    """Show *changes* as `--stat`, `-p`, `--all` and `--format` say; *diff* makes the lines of a patch of them."""
    style = Style()
    if args.format == "json":
        output.json_document([document(change) for change in changes])
        return
    if args.format == "docker":
        output.text("".join(f"{line}\n" for line in dockers(changes)))
        return
    if args.format != "table":
        output.templated(args.format, [record(change) for change in changes if not change.incidental])
        return
    listing = Listing(changes, full=args.all)
    if args.patch:
        page(coloured(diff(changes), style))
    elif args.stat:
        page([*listing.by_kind(style), listing.total(style)])
    else:
        legend = [style("weak", LEGEND)] if output.is_terminal() and listing.changes else []
        page([*listing.lines(style), *legend])


def summary(changes: Sequence[HostChange], name: str, style: Style) -> list[str]:
    """What has to be known before deciding: every loss, some of the rest, all of it counted. Where the rest would be
    too long, what is new in a new directory is counted at that. *name* is "" for a container that is not kept.
    """
    where = (
        f"lamina diff --stat {name}"
        if name
        else "-k instead of -n keeps it for 'lamina diff', which shows them"
    )
    listing = Listing(changes)
    ranked = listing.ranked()
    grave = [change for change in ranked if listing.is_grave(change)]
    others = ranked[len(grave) :]
    lines = [listing.line(change, style, sizes=True) for change in grave[:MOST_GRAVE]]
    if len(grave) > MOST_GRAVE:
        more = f"  and {len(grave) - MOST_GRAVE:,} more deleted or replaced"
        if giving := sum(bool(change.gives) for change in grave[MOST_GRAVE:]):
            more += f", or giving rights ({giving:,})"
        lines.append(style("deleted", f"{more}: {where}"))
    groups = folded(others) if len(others) > MOST_OTHERS else [(change, []) for change in others]
    lines += [listing.line(change, style, sizes=True, along=along) for change, along in groups[:MOST_OTHERS]]
    if cut := [each for change, along in groups[MOST_OTHERS:] for each in (change, *along)]:
        lines.append(f"  and {len(cut):,} more changed or added, {_where(cut)}")
    if len(others) > MOST_OTHERS:
        lines.append(style("weak", f"  every path: {where}"))
    return [*lines, listing.total(style)]


def _where(changes: Sequence[HostChange]) -> str:
    """`in /usr/share (312), /usr/lib (40) and elsewhere (9)`"""
    from lamina.cli.quoting import quote

    counts = Counter(_top(change.path) for change in changes if not change.incidental)
    directories = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    said = [f"{quote(path)} ({count:,})" for path, count in directories[:3]]
    rest = sum(count for _, count in directories[3:])
    return f"in {', '.join(said)}" + (f" and elsewhere ({rest:,})" if rest else "")


def _top(path: bytes) -> bytes:
    """The directory of a path, two names deep at most."""
    return b"/" + b"/".join(path.split(b"/")[1:-1][:2])


def patch(container: Container, changes: Sequence[HostChange], style: Style) -> Iterator[str]:
    """The unified diff of *changes* of *container*."""
    return coloured(container.patch(changes), style)


def coloured(lines: Iterable[bytes], style: Style) -> Iterator[str]:
    """The lines of a unified diff; on a terminal in colours, and with nothing in them that a terminal would obey."""
    careful = style.on or output.is_terminal()
    for raw in lines:
        line = raw.decode("utf-8", "surrogateescape").removesuffix("\n")
        yield style(_meaning(line), harmless(line)) if careful else line


def _meaning(line: str) -> str:
    if line.startswith(("+++ ", "--- ", "diff --git ")):
        return "strong"
    if line.startswith("@@"):
        return "name"
    return {"+": "added", "-": "deleted", "#": "weak"}.get(line[:1], "plain")
