"""`lamina rewind` and `lamina rollback`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.states import WITHOUT_COPY

VERB = Verb(
    name="rewind",
    options=(
        WITHOUT_COPY,
        Option("save", "", "NAME", "First make a snapshot of what is there now, under this name"),
        Option("no-volumes", "", "", "Leave its volumes as they are, also where the snapshot has them"),
    ),
    arguments=(
        Argument("name", "CONTAINER[@SNAPSHOT]", complete="container"),
        Argument("snapshot", "SNAPSHOT", "?", complete="snapshot"),
    ),
    details="""
Puts the files of a container back into a state. What it wrote since is thrown away, unless a snapshot has it; snapshots
that were made later stay, and can be gone to again. It takes the same time however much was written.

The processes of one that runs go on, over the files of that state. Stop it first, and start it again after it, if they
should not: what a process read before is in its memory all the same.""",
    examples="""
lamina rewind brave_otter before-the-upgrade
lamina rewind --save failed brave_otter 3f2a
lamina rewind brave_otter@before-the-upgrade
""",
)


def do(args: Arguments) -> int:
    """Go back, and print the id of the state."""
    from lamina.cli import output
    from lamina.cli.asked import warn
    from lamina.engine import Engine

    name, snapshot = _state(args)
    box = Engine(args.root).container(name)
    wanted = box.find_snapshot(snapshot)
    if args.save is not None:
        volumes = bool(wanted.record.volumes) and not args.no_volumes
        box.snapshot(args.save, consistency=args.consistency, volumes=volumes, on_warning=warn)
    box.rewind(wanted, consistency=args.consistency, volumes=not args.no_volumes)
    output.line(wanted.id)
    return 0


def _state(args: Arguments) -> tuple[str, str]:
    """The container and its snapshot, in two words or in the one by which every other verb knows it."""
    from lamina.errors import InvalidInput

    name, at, snapshot = args.name.partition("@")
    if at and args.snapshot is not None:
        raise InvalidInput(
            f"rewind: two snapshots, {snapshot} and {args.snapshot}", remedy="name one of them"
        )
    if not at and args.snapshot is None:
        raise InvalidInput(
            "rewind: SNAPSHOT is missing",
            remedy="usage: lamina rewind CONTAINER SNAPSHOT, or CONTAINER@SNAPSHOT; 'lamina snapshot ls' lists them",
        )
    return name, snapshot if at else args.snapshot
