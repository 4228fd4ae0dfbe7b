"""`lamina ps`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.convert import count
from lamina.cli.filters import anything, choice, filter_option, number, port_range
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine import Container, Engine
    from lamina.engine.listing import Glanced


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
    "network": anything,
    "expose": port_range,
    "publish": port_range,
    "health": choice("starting", "healthy", "unhealthy", "none"),
    "before": anything,
    "since": anything,
}

VERB = Verb(
    name="ps",
    options=(
        Option("all", "a", help="Also those which have ended"),
        Option("latest", "l", help="The one that was made last, whatever its state"),
        Option(
            "last", "n", "NUMBER", "The last so many that were made, whatever their states", convert=count
        ),
        Option("quiet", "q", help="Ids only"),
        Option("size", "s", help="What they wrote, and with their images"),
        Option("no-trunc", help="Ids and commands in full"),
        filter_option(FILTERS, "f"),
        format_option("{{.Names}}"),
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
    from lamina.cli.asked import warn
    from lamina.cli.usage import only_one
    from lamina.engine import Engine
    from lamina.engine.listing import damage_of, seen
    from lamina.errors import NotFound

    only_one(VERB, ["--quiet", "--format"] if args.quiet and args.format != "table" else [])
    only_one(VERB, ["--latest", "--last"] if args.latest and args.last is not None else [])
    last = 1 if args.latest else args.last
    # an explicit wish to see ended ones is reason enough to look at all
    everything = args.all or last is not None or any(key in ("status", "exited") for key, _ in args.filter)
    engine = Engine(args.root)
    found = seen(engine.store, all=everything)[::-1]
    if args.filter:
        from lamina.cli.chosen import containers

        found = containers(engine, found, args.filter)
    found = found[:last]
    records, shown = [], []
    wanted = ("ID",) if args.quiet else tuple(HEADINGS) if args.format == "table" else tuple(FIELDS)
    for container in found:
        try:
            records.append(record(container, args.no_trunc, wanted))
            shown.append(container)
        except NotFound:  # removed meanwhile
            continue
    for container in shown:
        for damage in damage_of(container):
            warn(str(damage))
    if args.quiet:
        output.text("".join(f"{one['ID']}\n" for one in records))
        return 0
    if args.size or ".Size" in args.format:
        from lamina.cli.sizes import human

        for one, size in zip(records, sizes(engine, shown), strict=True):
            one["Size"] = f"{human(size[0])} (virtual {human(size[1])})"
    output.records(records, args.format, {**HEADINGS, "Size": "SIZE"} if args.size else HEADINGS)
    return 0


def record(container: Glanced, full: bool = False, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """A container in docker's words, all values text as docker has them: the fields *wanted* (all of FIELDS)."""
    state = container.state
    return {name: FIELDS[name](container, state, full) for name in wanted or FIELDS}


def _command(container: Glanced, full: bool) -> str:
    from lamina.cli.quoting import join

    command = join([*container.command])
    return command if full or len(command) <= 40 else command[:39] + "…"


def _created(container: Glanced) -> str:
    from lamina.cli.when import local

    return local(container.created) if container.created else ""


def _running_for(container: Glanced) -> str:
    import time

    from lamina.cli.when import ago

    return ago(container.created, time.time()) if container.created else ""


def _labels(container: Glanced) -> str:
    from lamina.cli.labels import Labels

    return Labels(container.labels)


def _mounts(container: Glanced) -> str:
    volumes = container.record.get("volumes") or ()
    return ",".join(str(volume.get("name") or volume.get("source") or "") for volume in volumes)


def _volumes(container: Glanced) -> str:
    return str(sum(volume["kind"] == "volume" for volume in container.record.get("volumes") or ()))


def _ports(container: Glanced, state: str) -> str:
    """None of one that does not run, as docker has it: nothing can be reached there."""
    return ports(container, container.exposed) if state in ("running", "paused") else ""


# each of a container, its state, and whether nothing is cut
FIELDS: dict[str, Callable[[Glanced, str, bool], Any]] = {
    "ID": lambda one, state, full: one.id if full else one.id[:12],
    "Image": lambda one, state, full: one.image,
    "Command": lambda one, state, full: _command(one, full),
    "CreatedAt": lambda one, state, full: _created(one),
    "RunningFor": lambda one, state, full: _running_for(one),
    "State": lambda one, state, full: state,
    "Status": lambda one, state, full: status(one, state),
    "ExitCode": lambda one, state, full: one.exit_code,
    "Names": lambda one, state, full: one.name,
    "Labels": lambda one, state, full: _labels(one),
    "Mounts": lambda one, state, full: _mounts(one),
    "LocalVolumes": lambda one, state, full: _volumes(one),
    "Networks": lambda one, state, full: ",".join(one.networks),
    "Ports": lambda one, state, full: _ports(one, state),
    "Size": lambda one, state, full: "0B",
}


def ports(container: Container, exposed: Sequence[str] = ()) -> str:
    """`0.0.0.0:8080->80/tcp, 443/tcp`: the published ones, and of the *exposed* ones the others. Those that follow each
    other on both sides are one, as docker has them: `0.0.0.0:8080-8082->80-82/tcp`.
    """
    published = container.ports
    every = [(place, inside) for inside, places in published.items() for place in places]
    every += [("", port) for port in exposed if port not in published]
    odd = [
        inside for _, inside in every if not inside.partition("/")[0].isdecimal()
    ]  # an image may say anything
    runs: dict[tuple[str, str], list[list[int]]] = {}
    for place, inside in sorted((one for one in every if one[1] not in odd), key=lambda one: _number(one[1])):
        (host, _, outer), protocol = place.rpartition(":"), inside.partition("/")[2]
        here, there = int(outer or 0), _number(inside)
        found = runs.setdefault((host, protocol), [])
        # an exposed one has no port here to be counted
        if found and there == sum(found[-1][1:]) and (not outer or here == found[-1][0] + found[-1][1]):
            found[-1][1] += 1
        else:
            found.append([here, 1, there])
    shown = (
        f"{f'{host}:{_range(here, count)}->' if host else ''}{_range(there, count)}/{protocol}"
        for (host, protocol), found in runs.items()
        for here, count, there in found
    )
    return ", ".join([*shown, *odd])


def _number(inside: str) -> int:
    return int(inside.partition("/")[0])


def _range(first: int, count: int) -> str:
    return f"{first}-{first + count - 1}" if count > 1 else str(first)


def sizes(engine: Engine, containers: Sequence[Container]) -> list[tuple[int, int]]:
    """The bytes of the files that each has written, and with those of its image."""
    from lamina.engine.layer_sizes import written_by

    images = {image.id: image.size for image in engine.images()}
    found = []
    for one in containers:
        own = written_by(one)
        found.append((own, own + images.get(one.image_id, 0)))
    return found


def status(container: Glanced, state: str) -> str:
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
        health = container.health if container.is_examined else "none"
        if health == "none":
            return said
        return f"{said} (health: starting)" if health == "starting" else f"{said} ({health})"
    if state in ("exited", "restarting"):
        return f"{state.capitalize()} ({container.exit_code}) {ago(container.finished or now, now)}"
    return state.capitalize()
