"""Documents of several things, as JSON or by a template."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from lamina.cli import output
from lamina.cli.each import each
from lamina.cli.template_functions import Duration, Sparse, Struct

if TYPE_CHECKING:
    from lamina.engine import Container, Engine

# what is a struct in docker's documents, and whose every entry is one, or a list of such
_STRUCTS = frozenset(("LogConfig", "RestartPolicy"))
_TIMES = ("Interval", "Timeout", "StartPeriod", "StartInterval")
_OF_STRUCTS = frozenset(("ExposedPorts", "PortBindings", "Ports", "Volumes"))


def show(names: Iterable[str], look: Callable[[str], dict[str, Any]], form: str) -> int:
    """Print what *look* says of each name, in *form* "json" or a template; 1 if one of them failed, as in docker."""
    found: list[dict[str, Any]] = []
    status = each(names, lambda name: found.append(look(name)))
    if form in ("json", "table"):
        output.json_document(found)
    else:
        output.templated(form, [_with_structs(one) for one in found])
    return status


def _with_structs(value: Any, struct: bool = False) -> Any:
    """*value*, in which those small documents print as docker's do that are printed whole: `{no 0}`."""
    if isinstance(value, list):
        return [_with_structs(one, struct) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: _with_structs(one, key in _STRUCTS) for key, one in value.items()}
    for key in _OF_STRUCTS & found.keys():
        if isinstance(found[key], dict):
            found[key] = {name: _with_structs(one, True) for name, one in found[key].items()}
    if isinstance(check := found.get("Healthcheck"), dict):
        times = {name: Duration(check.get(name, 0)) for name in _TIMES}
        found["Healthcheck"] = Sparse({"Test": [], **times, "Retries": 0} | check | times)
    return Struct(found) if struct else type(value)(found)


def of_container(engine: Engine, container: Container, with_sizes: bool) -> dict[str, Any]:
    """The document of a container, *with_sizes* also what it has written. Raises NotFound, Corrupt."""
    found = container.inspect()
    if with_sizes:
        from lamina.cli.verbs.ps import sizes

        ((written, all_of_it),) = sizes(engine, [container])
        found |= {"SizeRw": written, "SizeRootFs": all_of_it}
    return found
