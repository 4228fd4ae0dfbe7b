"""`lamina ps`"""

from __future__ import annotations

import time

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.convert import count
from lamina.cli.durations import ago, lasting
from lamina.cli.filters import anything, choice, filter_option, number, port_range
from lamina.cli.labels import Labels
from lamina.cli.options import format_option
from lamina.cli.quoting import text_of_go

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from lamina.cli.filters import Checks
    from lamina.engine import Container, Engine
    from lamina.engine.listing import Glanced

    Run = tuple[int, int, str, str]  # first and last port, the address outside ("": none), the protocol


def _pattern(text: str) -> None:
    import re

    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None


SHORT = 20  # letters of a command, as in docker
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
    from lamina.engine.listing import keep, seen
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
    rows, shown = [], []
    wanted = ("ID",) if args.quiet else tuple(HEADINGS) if args.format == "table" else tuple(FIELDS)
    for container in found:
        try:
            rows.append(row(container, args.no_trunc, wanted))
            shown.append(container)
        except NotFound:  # removed meanwhile
            continue
    keep(shown)
    for container in shown:
        for damage in container.damage:
            warn(str(damage))
    if args.quiet:
        output.text("".join([f"{one}\n" for (one,) in rows]))
    elif args.format == "table" and not args.size:
        output.columns([*HEADINGS.values()], rows)
    else:
        records = [dict(zip(wanted, one, strict=True)) for one in rows]
        if args.size or ".Size" in args.format:
            from lamina.cli.sizes import human

            for one, size in zip(records, sizes(engine, [one.whole for one in shown]), strict=True):
                one["Size"] = f"{human(size[0])} (virtual {human(size[1])})"
        output.records(records, args.format, {**HEADINGS, "Size": "SIZE"} if args.size else HEADINGS)
    return 0


def row(container: Glanced, full: bool, wanted: Sequence[str]) -> list[Any]:
    """A container in docker's words, all values text as docker has them: those of FIELDS that are *wanted*."""
    state = container.state
    return [FIELDS[name](container, state, full) for name in wanted]


def _command(container: Glanced, _: str, full: bool) -> str:
    """As docker has it: words with a space in them in quotes, all of it cut and then in quotes as a text of Go's."""
    words = container.command
    command = " ".join(words)
    if command.count(" ") >= len(words) > 0:
        command = " ".join([f"'{word}'" if " " in word else word for word in words])
    return text_of_go(command if full or len(command) <= SHORT else command[: SHORT - 1] + "…")


def _created(container: Glanced) -> str:
    from lamina.cli.when import local

    return local(container.created) if container.created else ""


def _running_for(container: Glanced, _: str, __: bool) -> str:
    created = container.created
    return ago(created, time.time()) if created else ""


def _ports(container: Glanced, state: str, _: bool) -> str:
    """None of one that does not run, as docker has it: nothing can be reached there."""
    return ports(container.ports, container.exposed) if state in ("running", "paused") else ""


def _status(container: Glanced, state: str, _: bool) -> str:
    """`Up 5 minutes (Paused)`, `Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`, `Restarting (1) 5 seconds ago`,
    `Created`, `Dead`.
    """
    now = time.time()
    if state in ("running", "paused"):
        said = f"Up {lasting(now - (container.started or now))}"
        if state == "paused":
            return f"{said} (Paused)"
        health = container.health
        if health == "none":
            return said
        return f"{said} (health: starting)" if health == "starting" else f"{said} ({health})"
    if state in ("exited", "restarting"):
        return f"{state.capitalize()} ({container.exit_code}) {ago(container.finished or now, now)}"
    return state.capitalize()


# each of a container, its state, and whether nothing is cut
FIELDS: dict[str, Callable[[Glanced, str, bool], Any]] = {
    "ID": lambda one, state, full: one.id if full else one.id[:12],
    "Image": lambda one, state, full: one.image,
    "Command": _command,
    "CreatedAt": lambda one, state, full: _created(one),
    "RunningFor": _running_for,
    "State": lambda one, state, full: state,
    "Status": _status,
    "ExitCode": lambda one, state, full: one.exit_code,
    "Names": lambda one, state, full: one.name,
    "Labels": lambda one, state, full: Labels(one.labels),
    "Mounts": lambda one, state, full: ",".join(one.volumes),
    "LocalVolumes": lambda one, state, full: str(one.local_volumes),
    "Networks": lambda one, state, full: ",".join(one.networks),
    "Ports": _ports,
    "Size": lambda one, state, full: "0B",
}


def ports(published: dict[str, list[str]], exposed: Sequence[str] = ()) -> str:
    """`0.0.0.0:8000-8002->8000-8002/tcp, 443/tcp, 0.0.0.0:8080->80/tcp`: the published ones, and of the *exposed* ones
    the others. As in docker those that have the same number outside, or none there, are joined in runs.
    """
    if not published and not exposed:
        return ""
    runs: list[Run] = []
    elsewhere: list[tuple[int, str]] = []
    odd: list[str] = []  # an image may say anything
    taken: dict[str, set[int]] = {}
    for inside, places in published.items():
        number, _, protocol = inside.partition("/")
        taken.setdefault(protocol, set()).add(int(number))
        for place in places:
            host, _, outside = place.rpartition(":")
            if outside == number:
                runs.append((int(number), int(number), host, protocol))
            else:
                elsewhere.append((int(number), f"{place}->{inside}"))
    for text in exposed:
        numbers, _, protocol = text.partition("/")
        first, _, last = numbers.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            odd.append(text)
            continue
        runs += (
            (*free, "", protocol)
            for free in _between(int(first), int(last or first), taken.get(protocol, ()))
        )
    return ", ".join([*_joined(runs), *(said for _, said in sorted(elsewhere)), *odd])


def _between(first: int, last: int, taken: Iterable[int]) -> Iterator[tuple[int, int]]:
    """What is left of a range without those *taken*."""
    for one in sorted(taken):
        if first <= one <= last:
            if first < one:
                yield first, one - 1
            first = one + 1
    if first <= last:
        yield first, last


def _joined(runs: Iterable[Run]) -> list[str]:
    """In docker's order (formatter.DisplayablePorts): one that ends before another of its kind begins; the rest."""
    found: list[str] = []
    open_: dict[tuple[str, str], tuple[int, int]] = {}
    for first, last, host, protocol in sorted(runs):
        before = open_.get((host, protocol))
        if before is not None and first <= before[1] + 1:
            open_[host, protocol] = before[0], max(before[1], last)
            continue
        if before is not None:
            found.append(_run(*before, host, protocol))
        open_[host, protocol] = first, last
    return [*found, *(_run(*numbers, *kind) for kind, numbers in open_.items())]


def _run(first: int, last: int, host: str, protocol: str) -> str:
    numbers = f"{first}" if first == last else f"{first}-{last}"
    return f"{host}:{numbers}->{numbers}/{protocol}" if host else f"{numbers}/{protocol}"


def sizes(engine: Engine, containers: Sequence[Container]) -> list[tuple[int, int]]:
    """The bytes of the files that each has written, and with those of its image."""
    from lamina.engine.layer_sizes import written_by

    images = {image.id: image.size for image in engine.images()}
    found = []
    for one in containers:
        own = written_by(one)
        found.append((own, own + images.get(one.image_id, 0)))
    return found
