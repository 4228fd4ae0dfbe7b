"""`lamina network ls`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, labelled, passes, reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine.network import Network


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


FILTERS: Checks = {"name": anything, "id": anything, "label": anything, "driver": anything}

VERB = Verb(
    name="network ls",
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
    examples="lamina network ls",
)
HEADINGS = {"Name": "NETWORK NAME", "Driver": "DRIVER", "Subnets": "SUBNETS", "Containers": "CONTAINERS"}


def do(args: Arguments) -> int:
    """List them by name."""
    from lamina.cli import output
    from lamina.engine import Engine

    found = [
        one
        for one in Engine(args.root).networks.list()
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


def record(network: Network) -> dict[str, Any]:
    """A network in docker's words, its subnets and the containers that are in it."""
    return {
        "Name": network.name,
        "ID": network.id[:12],
        "Driver": network.driver,
        "Scope": "local",
        "Internal": str(network.is_internal).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in network.labels.items()),
        "Subnets": ", ".join(network.subnets),
        "Containers": ", ".join(network.containers),
    }


def _holds(network: Network, key: str, value: str) -> bool:
    if key == "name":
        return value in network.name
    if key == "id":
        return network.id.startswith(value)
    if key == "driver":
        return value == network.driver
    return labelled(network.labels, value)
