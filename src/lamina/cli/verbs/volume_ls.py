"""`lamina volume ls`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, filter_option, labelled, passes, truth
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine.volumes import Volume


FILTERS: Checks = {"name": anything, "label": anything, "dangling": truth, "driver": anything}

VERB = Verb(
    name="volume ls",
    options=(
        Option("quiet", "q", help="Names only"),
        filter_option(FILTERS, "f"),
        format_option("{{.Name}}"),
    ),
    examples="lamina volume ls\nlamina volume ls --filter dangling=true -q",
)
HEADINGS = {"Driver": "DRIVER", "Name": "VOLUME NAME", "Users": "USED BY", "Created": "CREATED"}


def do(args: Arguments) -> int:
    """List them by name."""
    from lamina.cli import output
    from lamina.engine import Engine

    found = [
        one
        for one in Engine(args.root).volumes()
        if passes(args.filter, lambda key, value, one=one: _holds(one, key, value))  # type: ignore[misc]
    ]
    records = [record(one) for one in found]
    if args.quiet:
        output.text("".join(f"{one.name}\n" for one in found))
    else:
        output.records(records, args.format, HEADINGS)
    return 0


def record(volume: Volume) -> dict[str, Any]:
    """A volume in docker's words, and the containers that mount it."""
    import time

    from lamina.cli.durations import ago
    from lamina.cli.labels import Labels

    return {
        "Driver": "local",
        "Name": volume.name,
        "Scope": "local",
        "Mountpoint": str(volume.path),
        "Labels": Labels(volume.labels),
        "Users": ", ".join(volume.users),
        "Created": ago(volume.created, time.time()),
    }


def _holds(volume: Volume, key: str, value: str) -> bool:
    if key == "name":
        return value in volume.name
    if key == "driver":
        return value == "local"  # there is no other
    if key == "dangling":
        return (not volume.users) == truth(value)
    return labelled(volume.labels, value)
