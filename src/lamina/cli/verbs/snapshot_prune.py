"""`lamina snapshot prune`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import count

VERB = Verb(
    name="snapshot prune",
    options=(
        Option("keep", "", "NUMBER", "So many of the last ones stay (default 0)", convert=count, default=0),
        Option("force", "f", help="Do not ask"),
    ),
    arguments=(Argument("name", "CONTAINER", complete="container"),),
    details="""
Removes the snapshots of a container to which nobody gave a name, but the last ones. The container stays as it is.""",
    examples="lamina snapshot prune -f --keep 10 brave_otter",
)


def do(args: Arguments) -> int:
    """Remove them, and print their ids."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.engine import Engine

    engine = Engine(args.root)
    box = engine.container(args.name)
    last = f", but the last {args.keep}" if args.keep else ""
    what = f"This removes the snapshots of {box.name} that have no name{last}."
    if not args.force and not confirmed(what, "snapshot prune"):
        return 0
    output.lines(one.id for one in box.prune_snapshots(keep=args.keep))
    engine.storage.collect()
    return 0
