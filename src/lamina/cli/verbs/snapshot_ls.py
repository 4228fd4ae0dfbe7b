"""`lamina snapshot ls`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine import Container, Engine
    from lamina.engine.snapshots import Snapshot

VERB = Verb(
    name="snapshot ls",
    options=(
        Option("tree", help="Draw which state came from which, as 'lamina log' does"),
        Option("quiet", "q", help="Ids only"),
        Option("no-trunc", help="Ids and commands in full"),
        format_option("{{.Name}}"),
    ),
    arguments=(Argument("name", "CONTAINER", "?", complete="container"),),
    details="""
The snapshots of a container, or of all, oldest first. The size is that of what was written since the state before.""",
    examples="lamina snapshot ls brave_otter\nlamina snapshot ls -q brave_otter",
)
HEADINGS = {
    "ID": "SNAPSHOT ID",
    "Name": "NAME",
    "Container": "CONTAINER",
    "CreatedSince": "CREATED",
    "Size": "SIZE",
    "Command": "COMMAND",
}


def do(args: Arguments) -> int:
    """List them."""
    from lamina.cli import output
    from lamina.cli.report import say
    from lamina.cli.usage import only_one
    from lamina.engine import Engine
    from lamina.errors import LaminaError, NotFound

    engine = Engine(args.root)
    if args.tree:
        only_one(VERB, ["--tree", *(["--quiet"] if args.quiet else []),
                        *([f"--format {args.format}"] if args.format != "table" else [])])  # fmt: skip
        return _draw(engine, args)
    found: list[tuple[Container, Snapshot]] = []
    status = 0
    if args.name is not None:
        box = engine.container(args.name)
        found = [(box, one) for one in box.snapshots()]
    else:
        for box in sorted(engine.containers(all=True), key=lambda box: box.name):
            try:
                found += [(box, one) for one in box.snapshots()]
            except NotFound:  # removed meanwhile
                continue
            except LaminaError as error:
                say(error.message, error.remedy)
                status = 1
    if args.quiet:
        output.text("".join(f"{one.id if args.no_trunc else one.short_id}\n" for _, one in found))
        return status
    output.records([record(box, one, whole=args.no_trunc) for box, one in found], args.format, HEADINGS)
    return status


def _draw(engine: Engine, args: Arguments) -> int:
    from lamina.cli import stately
    from lamina.errors import NotFound

    if args.name is not None:
        logs = [engine.container(args.name).history()]
    else:
        logs = []
        for box in sorted(engine.containers(all=True), key=lambda box: box.name):
            try:
                log = box.history()
            except NotFound:  # removed meanwhile
                continue
            if log.states:
                logs.append(log)
    stately.show(logs, whole=args.no_trunc)
    return 0


def record(box: Container, one: Snapshot, *, whole: bool) -> dict[str, Any]:
    """A snapshot as a list shows it."""
    import time

    from lamina.cli.durations import ago
    from lamina.cli.quoting import quote
    from lamina.cli.sizes import human

    command = " ".join(map(quote, one.command))
    return {
        "ID": one.id if whole else one.short_id,
        "Name": one.name,
        "Container": box.name,
        "Parent": (one.parent or "") if whole else (one.parent or "")[:12],
        "Created": one.created,
        "CreatedSince": ago(one.created, time.time()),
        "Size": human(one.size),
        "Bytes": one.size,
        "Command": command if whole or len(command) <= 40 else command[:39] + "…",
        "Message": one.message,
    }
