"""`lamina stats`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine import Container, Engine
    from lamina.engine.usage import Usage


VERB = Verb(
    name="stats",
    options=(
        Option("all", "a", help="Also those which do not run"),
        Option("no-stream", help="Once, not again and again"),
        Option("no-trunc", help="Ids in full"),
        format_option("{{.Name}} {{.CPUPerc}}"),
    ),
    arguments=(Argument("names", "NAME", "*", complete="container"),),
    details="""What containers use, every second until it is interrupted; on a terminal the table is drawn anew each
    time. CPU % is of one processor, the memory is without the page cache that has not been used lately, and -- is what
    nothing counts: a container without a control group of that controller, or without a network of its own.""",
    examples="""
lamina stats
lamina stats --no-stream --format '{{.Name}} {{.MemUsage}}' web
""",
)
HEADINGS = {
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
UNKNOWN = "--"
# seconds between two looks; the share of a processor is what was used between
EVERY = 1.0


def do(args: Arguments) -> int:
    """Show it, once or for ever."""
    import time

    from lamina.cli import output
    from lamina.engine import Engine

    engine = Engine(args.root)
    # one that is not there is said before anything is shown
    typed = {engine.container(name).id: name for name in args.names}
    drawn = args.format == "table" and not args.no_stream and output.is_terminal()
    before = _look(_chosen(engine, args))
    while True:
        time.sleep(EVERY)
        now = _look(_chosen(engine, args))
        records = [
            record(container, usage, before[identity][1] if identity in before else usage, args.no_trunc)
            | ({"Container": typed[identity]} if identity in typed else {})
            for identity, (container, usage) in now.items()
        ]
        if drawn:
            output.text("\x1b[H\x1b[2J")
        output.records(records, args.format, HEADINGS)
        if args.no_stream or (args.names and not now):
            return 0
        before = now


def _chosen(engine: Engine, args: Arguments) -> list[Container]:
    from lamina.errors import NotFound

    if not args.names:
        return sorted(engine.containers(all=args.all), key=lambda one: one.created, reverse=True)
    found = []
    for name in args.names:
        try:
            found.append(engine.container(name))
        except NotFound:  # removed since
            continue
    return found


def _look(containers: list[Container]) -> dict[str, tuple[Container, Usage]]:
    from lamina.errors import NotFound

    found = {}
    for one in containers:
        try:
            found[one.id] = (one, one.stats())
        except NotFound:  # removed meanwhile
            continue
    return found


def record(container: Container, now: Usage, before: Usage, full: bool = False) -> dict[str, Any]:
    """What it uses in docker's words."""
    from lamina.cli.sizes import human

    identity = container.id if full else container.id[:12]
    return {
        "Container": identity,
        "ID": identity,
        "Name": container.name,
        "CPUPerc": _percent(now.cpu_percent(before)),
        "MemUsage": f"{_binary(now.memory_bytes)} / {_binary(now.memory_limit_bytes)}",
        "MemPerc": _percent(now.memory_percent),
        "NetIO": " / ".join(UNKNOWN if n is None else human(n) for n in (now.received_bytes, now.sent_bytes)),
        "BlockIO": " / ".join(UNKNOWN if n is None else human(n) for n in (now.read_bytes, now.write_bytes)),
        "PIDs": UNKNOWN if now.pids is None else str(now.pids),
    }


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.2f}%"


def _binary(number: int | None) -> str:
    """`1.5MiB`, `3.83GiB`: docker has memory in powers of 1024, with four digits."""
    if number is None:
        return UNKNOWN
    amount, unit = float(number), 0
    while amount >= 1024 and unit < 5:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.4g}{('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"
