"""`lamina network ls`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, choice, labelled, passes, reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine import Engine
    from lamina.engine.network import Network


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


FILTERS: Checks = {
    "name": anything,
    "id": anything,
    "label": anything,
    "driver": anything,
    "type": choice("builtin", "custom"),
}

VERB = Verb(
    name="network ls",
    options=(
        Option("quiet", "q", help="Ids only"),
        Option(
            "filter",
            "f",
            "KEY=VALUE",
            f"Only those; keys: {', '.join(FILTERS)}",
            multiple=True,
            convert=reader(FILTERS),
        ),
        Option("no-trunc", help="Ids in full"),
        Option(
            "format", metavar="FORMAT", convert=_format, default="table", help="table, json or '{{.Name}}'"
        ),
    ),
    examples="lamina network ls",
)
HEADINGS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Subnets": "SUBNETS",
    "Containers": "CONTAINERS",
}


def do(args: Arguments) -> int:
    """List them by name, with the two that are there without being made."""
    from lamina.cli import output
    from lamina.cli.predefined import PREDEFINED
    from lamina.engine import Engine

    engine = Engine(args.root)
    found = [*map(record, engine.networks.list()), *(_predefined(engine, name) for name in PREDEFINED)]
    records = sorted(
        (
            one
            for one in found
            if passes(args.filter, lambda key, value, one=one: _holds(one, key, value))  # type: ignore[misc]
        ),
        key=lambda one: str(one["Name"]),
    )
    for one in records:
        one["Labels"] = ",".join(f"{key}={value}" for key, value in one["Labels"].items())
        one["ID"] = one["ID"] if args.no_trunc else one["ID"][:12]
    if args.quiet:
        output.text("".join(f"{one['ID']}\n" for one in records))
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
    from lamina.engine.inspect import timestamp

    return {
        "Name": network.name,
        "ID": network.id,
        "Driver": network.driver,
        "Scope": "local",
        "Internal": str(network.is_internal).lower(),
        "IPv6": str(any(":" in subnet for subnet in network.subnets)).lower(),
        "CreatedAt": timestamp(int(network.created * 1e9)),
        "Labels": network.labels,
        "Subnets": ", ".join(network.subnets),
        "Containers": ", ".join(network.containers),
    }


def _predefined(engine: Engine, name: str) -> dict[str, Any]:
    from lamina.cli.predefined import PREDEFINED, identity, members

    return {
        "Name": name,
        "ID": identity(name),
        "Driver": PREDEFINED[name],
        "Scope": "local",
        "Internal": "false",
        "IPv6": "false",
        "CreatedAt": "",
        "Labels": {},
        "Subnets": "",
        "Containers": ", ".join(members(engine, name)),
    }


def _holds(one: dict[str, Any], key: str, value: str) -> bool:
    if key == "name":
        return value in one["Name"]
    if key == "id":
        return bool(one["ID"].startswith(value))
    if key == "driver":
        return bool(value == one["Driver"])
    if key == "type":
        return (value == "builtin") == (one["Name"] in ("bridge", "host", "none"))
    return labelled(one["Labels"], value)
