"""`lamina ps`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, choice, number, reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine import Container


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


def _pattern(text: str) -> None:
    import re

    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None


STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
FILTERS: Checks = {
    "name": _pattern,
    "id": anything,
    "status": choice(*STATES),
    "exited": number,
    "label": anything,
    "ancestor": anything,
    "volume": anything,
    "health": choice("starting", "healthy", "unhealthy", "none"),
    "before": anything,
    "since": anything,
}
_FILTER_HELP = f"Only those; keys: {', '.join(FILTERS)}"

VERB = Verb(
    name="ps",
    options=(
        Option("all", "a", help="Also those which have ended"),
        Option("quiet", "q", help="Ids only"),
        Option("no-trunc", help="Ids and commands in full"),
        Option("filter", "f", "KEY=VALUE", _FILTER_HELP, multiple=True, convert=reader(FILTERS)),
        Option(
            "format", metavar="FORMAT", convert=_format, default="table", help="table, json or '{{.Names}}'"
        ),
    ),
    examples="""
lamina ps -a
lamina ps -a --filter status=exited --format '{{.Names}} {{.Status}}'
lamina rm $(lamina ps -aq)
""",
)

HEADINGS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}


def do(args: Arguments) -> int:
    """List containers, the youngest first."""
    from lamina.cli import output
    from lamina.cli.usage import only_one
    from lamina.engine import Engine
    from lamina.errors import NotFound

    only_one(VERB, ["--quiet", "--format"] if args.quiet and args.format != "table" else [])
    # an explicit wish to see ended ones is reason enough to look at all
    everything = args.all or any(key in ("status", "exited") for key, _ in args.filter)
    engine = Engine(args.root)
    found = sorted(engine.containers(all=everything), key=lambda c: c.created, reverse=True)
    if args.filter:
        from lamina.cli.chosen import containers

        found = containers(engine, found, args.filter)
    records = []
    for container in found:
        try:
            records.append(record(container, args.no_trunc))
        except NotFound:  # removed meanwhile
            continue
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


def record(container: Container, full: bool = False) -> dict[str, Any]:
    """A container in docker's words, all values text as docker has them."""
    import time

    from lamina.cli.quoting import join
    from lamina.cli.when import ago, timestamp

    command, state = join([*container.command]), container.state
    if not full and len(command) > 40:
        command = command[:39] + "…"
    return {
        "ID": container.id if full else container.id[:12],
        "Image": container.image,
        "Command": command,
        "CreatedAt": timestamp(container.created),
        "RunningFor": ago(container.created, time.time()),
        "State": state,
        "Status": status(container, state),
        "ExitCode": container.exit_code,
        "Ports": ports(container),
        "Names": container.name,
        "Labels": ",".join(f"{key}={value}" for key, value in container.labels.items()),
    }


def ports(container: Container) -> str:
    """`0.0.0.0:8080->80/tcp, [::]:8080->80/tcp`."""
    found = [f"{place}->{inside}" for inside, places in container.ports.items() for place in places]
    return ", ".join(found)


def status(container: Container, state: str) -> str:
    """`Up 5 minutes (Paused)`, `Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`, `Restarting (1) 5 seconds ago`,
    `Created`, `Dead`.
    """
    import time

    from lamina.cli.when import ago, lasting

    now = time.time()
    if state in ("running", "paused"):
        said = f"Up {lasting(now - (container.started or now))}"
        if state == "paused":
            return f"{said} (Paused)"
        health = container.health if container.record.get("health") else "none"
        if health == "none":
            return said
        return f"{said} (health: starting)" if health == "starting" else f"{said} ({health})"
    if state in ("exited", "restarting"):
        return f"{state.capitalize()} ({container.exit_code}) {ago(container.finished or now, now)}"
    return state.capitalize()
