"""`lamina events`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.convert import moment
from lamina.cli.filters import anything, filter_option
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine.watching import Event


FILTERS: Checks = dict.fromkeys(
    ("type", "event", "container", "image", "volume", "network", "label"), anything
)

VERB = Verb(
    name="events",
    options=(
        Option("since", "", "TIME", "Also what came after: 10m, 2024-05-01T12:00:00", convert=moment),
        Option("until", "", "TIME", "Not what comes after, and end then", convert=moment),
        filter_option(FILTERS, "f"),
        format_option("{{.Type}} {{.Action}}", default=""),
    ),
    details="""
What happens to containers, images, volumes and networks: a line each, as it happens, whoever does it.

Of one key of --filter any value may hold, of several keys each must.
""",
    examples="""
lamina events --filter type=container --filter event=die
lamina events --since 1h --until 0m --format json
""",
)


def do(args: Arguments) -> int:
    """Write events until there are no more, or somebody interrupts."""
    from lamina.cli import output
    from lamina.engine import Engine

    filters: dict[str, list[str]] = {}
    for key, value in args.filter:
        filters.setdefault(key, []).append(value)
    for one in Engine(args.root).events(since=args.since, until=args.until, filters=filters):
        if args.format == "json":
            output.json_line(record(one))
        elif args.format and args.format != "table":
            output.templated(args.format, [fields(one)])
        else:
            output.text(line(one))
    return 0


def record(one: Event) -> dict[str, Any]:
    """An event in docker's words."""
    found: dict[str, Any] = {
        "Type": one.type,
        "Action": one.action,
        "Actor": {"ID": one.id, "Attributes": one.attributes},
        "scope": "local",
        "time": one.time_ns // 1_000_000_000,
        "timeNano": one.time_ns,
    }
    if one.type in ("volume", "network"):
        return found
    found = {"status": one.action, "id": one.id, **found}
    if one.type == "container":
        found["from"] = one.attributes.get("image", "")
    return found


def fields(one: Event) -> dict[str, Any]:
    """What a template finds: docker's fields, which JSON calls otherwise, and these names as well."""
    said = record(one)
    names = {
        "Status": "status",
        "ID": "id",
        "From": "from",
        "Scope": "scope",
        "Time": "time",
        "TimeNano": "timeNano",
    }
    return {**{name: said.get(key, "") for name, key in names.items()}, **said}


def line(one: Event) -> str:
    """`2024-05-01T12:00:00.123456789Z container start ID (image=debian:12, name=brave_otter)`."""
    from lamina.cli.quoting import harmless
    from lamina.cli.when import timestamp

    seconds = timestamp(one.time_ns // 1_000_000_000)[:19]
    said = ", ".join(f"{name}={what}" for name, what in sorted(one.attributes.items()))
    moment = f"{seconds}.{one.time_ns % 1_000_000_000:09d}Z"
    return harmless(f"{moment} {one.type} {one.action} {one.id} ({said})") + "\n"
