"""Documents of several things, as JSON or by a template."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lamina.cli import output
from lamina.cli.each import each

if TYPE_CHECKING:
    from lamina.engine import Container, Engine


def show(names: Iterable[str], look: Callable[[str], dict[str, Any]], form: str) -> int:
    """Print what *look* says of each name, in *form* "json" or a template; 1 if one of them failed, as in docker."""
    found: list[dict[str, Any]] = []
    status = each(names, lambda name: found.append(look(name)))
    if form in ("json", "table"):
        output.json_document(found)
    else:
        output.templated(form, found)
    return status


def of_container(engine: Engine, container: Container, with_sizes: bool) -> dict[str, Any]:
    """The document of a container, *with_sizes* also what it has written. Raises NotFound, Corrupt."""
    found = container.inspect()
    if with_sizes:
        from lamina.cli.verbs.ps import sizes

        ((written, all_of_it),) = sizes(engine, [container])
        found |= {"SizeRw": written, "SizeRootFs": all_of_it}
    return found
