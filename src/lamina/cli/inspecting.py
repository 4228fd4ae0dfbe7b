"""Documents of several things, as JSON or by a template."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from lamina.cli import output
from lamina.cli.each import each


def show(names: Iterable[str], look: Callable[[str], dict[str, Any]], form: str) -> int:
    """Print what *look* says of each name, in *form* "json" or a template; 1 if one of them failed, as in docker."""
    found: list[dict[str, Any]] = []
    status = each(names, lambda name: found.append(look(name)))
    if form in ("json", "table"):
        output.json_document(found)
    else:
        output.templated(form, found)
    return status
