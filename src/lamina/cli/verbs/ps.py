"""`lamina ps`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.engine import Container


def _format(text: str) -> str:
    from lamina.cli.template import check

    return check(text)


def _filter(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or key not in FILTERS:
        raise ValueError(f"not KEY=VALUE with a key of {', '.join(FILTERS)}")
    return key, value


FILTERS = ("name", "id", "status", "exited", "label", "ancestor")
_FILTER_HELP = f"Only those; keys: {', '.join(FILTERS)}"

VERB = Verb(
    name="ps",
    options=(
        Option("all", "a", help="Also those which have ended"),
        Option("quiet", "q", help="Ids only"),
        Option("no-trunc", help="Ids and commands in full"),
        Option("filter", "f", "KEY=VALUE", _FILTER_HELP, multiple=True, convert=_filter),
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
    "Names": "NAMES",
}


def do(args: Arguments) -> int:
    """List containers, the youngest first."""
    from lamina.cli import output
    from lamina.cli.usage import only_one
    from lamina.engine import Engine

    only_one(VERB, ["--quiet", "--format"] if args.quiet and args.format != "table" else [])
    # an explicit wish to see ended ones is reason enough to look at all
    everything = args.all or any(key in ("status", "exited") for key, _ in args.filter)
    found = sorted(Engine(args.root).containers(all=everything), key=lambda c: c.created, reverse=True)
    records = [record(container, args.no_trunc) for container in found if matches(container, args.filter)]
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

    command = join([*container.command])
    if not full and len(command) > 40:
        command = command[:39] + "…"
    return {
        "ID": container.id if full else container.id[:12],
        "Image": container.image,
        "Command": command,
        "CreatedAt": timestamp(container.created),
        "RunningFor": ago(container.created, time.time()),
        "State": container.state,
        "Status": status(container),
        "ExitCode": container.exit_code,
        "Names": container.name,
        "Labels": ",".join(f"{key}={value}" for key, value in container.labels.items()),
    }


def status(container: Container) -> str:
    """`Up 5 minutes (Paused)`, `Exited (0) 2 hours ago`, `Restarting (1) 5 seconds ago`, `Created`, `Dead`."""
    import time

    from lamina.cli.when import ago, lasting

    state, now = container.state, time.time()
    if state in ("running", "paused"):
        said = f"Up {lasting(now - (container.started or now))}"
        return f"{said} (Paused)" if state == "paused" else said
    if state in ("exited", "restarting"):
        return f"{state.capitalize()} ({container.exit_code}) {ago(container.finished or now, now)}"
    return state.capitalize()


def matches(container: Container, filters: Sequence[tuple[str, str]]) -> bool:
    """Whether the container passes: values of one key are alternatives, keys must all hold (as in docker)."""
    for key in {key for key, _ in filters}:
        wanted = [value for other, value in filters if other == key]
        if not any(_passes(container, key, value) for value in wanted):
            return False
    return True


def _passes(container: Container, key: str, value: str) -> bool:
    if key == "label":
        name, equals, wanted = value.partition("=")
        return name in container.labels and (not equals or container.labels[name] == wanted)
    if key == "exited":
        return str(container.exit_code) == value
    if key == "id":
        return container.id.startswith(value)
    if key == "name":
        return value in container.name
    return value == (container.state if key == "status" else container.image)
