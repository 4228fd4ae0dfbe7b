"""`lamina volume ls`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, labelled, passes, reader, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine.volumes import Volume


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


FILTERS: Checks = {"name": anything, "label": anything, "dangling": truth, "driver": anything}

VERB = Verb(
    name="volume ls",
    options=(
        Option("quiet", "q", help="Names only"),
        Option(
            "filter",
            "f",
            "KEY=VALUE",
            f"Only those; keys: {', '.join(FILTERS)}",
            multiple=True,
            convert=reader(FILTERS),
        ),
        Option(
            "format", metavar="FORMAT", convert=_format, default="table", help="table, json or '{{.Name}}'"
        ),
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
    elif args.format == "table":
        output.columns([*HEADINGS.values()], [[one[key] for key in HEADINGS] for one in records])
    elif args.format == "json":
        for one in records:
            output.json_line(one)
    else:
        output.templated(args.format, records)
    return 0


def record(volume: Volume) -> dict[str, Any]:
    """A volume in docker's words, and the containers that mount it."""
    import time

    from lamina.cli.when import ago

    return {
        "Driver": "local",
        "Name": volume.name,
        "Scope": "local",
        "Mountpoint": str(volume.path),
        "Labels": ",".join(f"{key}={value}" for key, value in volume.labels.items()),
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
