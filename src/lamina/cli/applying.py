"""Carrying changes out on the host, and saying what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lamina.cli.listing import Listing
from lamina.cli.pager import page
from lamina.cli.quoting import quote
from lamina.cli.style import Style
from lamina.cli.waiting import bar

if TYPE_CHECKING:
    from lamina.engine import Container
    from lamina.engine.apply.values import Applied, Clash
    from lamina.engine.snapshots import Snapshot


def rehearse(
    container: Container | Snapshot, paths: Sequence[str], exclude: Sequence[str], force: bool
) -> int:
    """Say what an apply would do and what stands against it; 1 if it would be refused."""
    style = Style()
    listing = Listing(container.changes(paths, exclude))
    clashes = container.clashes(paths, exclude)
    total = listing.total(style)
    lines = [*listing.by_kind(style), f"would apply: {total}" if listing.changes else total]
    if clashes:
        verdict = "would be overridden" if force else "stand against it (--force overrides)"
        lines.append(
            style(
                "bad", f"{_paths(len(clashes))} changed on this system since the container started {verdict}:"
            )
        )
        lines += clash_lines(clashes)
    page(lines)
    return 1 if clashes and not force else 0


def apply(
    container: Container | Snapshot, paths: Sequence[str], exclude: Sequence[str], force: bool
) -> Applied:
    """Apply, with a progress bar on a terminal. Raises what `Container.apply` raises."""
    with bar(f"applying {container.name}") as progress:
        return container.apply(paths, exclude, force, progress=progress)


def remove(container: Container, force: bool = False, volumes: bool = False) -> None:
    """Remove, with a progress bar on a terminal. Raises what `Container.remove` raises."""
    with bar(f"removing {container.name}") as progress:
        container.remove(force, volumes, progress=progress)


def outcome(applied: Applied, name: str, style: Style) -> Iterator[str]:
    """What an apply did."""
    listing = Listing(applied.changes)
    if not listing.changes:
        yield "applied: nothing changed"
        return
    yield f"applied: {listing.total(style)}; 'lamina undo {name}' takes it back"
    if applied.parents:
        yield f"also made, to hold them: {_named(applied.parents)}"
    if applied.kept:
        yield f"not deleted, because something in them stays: {_named(applied.kept)}"
    if applied.forced:
        yield style(
            "warning",
            f"overridden, although changed on this system meanwhile: {_named_clashes(applied.forced)}",
        )


def clash_lines(clashes: Sequence[Clash]) -> Iterator[str]:
    """Each path with what happened to it and with both its sides."""
    from lamina.engine.apply.conflicts import describe

    for clash in clashes:
        yield f"  {quote(clash.path)}: {clash.reason}"
        yield f"    this system: {describe(clash.host, clash.host_changed_ns)}"
        yield f"    container:   {describe(clash.container)}"


def _named(paths: Sequence[bytes]) -> str:
    return ", ".join(map(quote, paths))


def _named_clashes(clashes: Sequence[Clash]) -> str:
    return _named([clash.path for clash in clashes])


def _paths(number: int) -> str:
    return "1 path" if number == 1 else f"{number:,} paths"
