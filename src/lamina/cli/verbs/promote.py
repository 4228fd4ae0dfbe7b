"""`lamina promote`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.states import WITHOUT_COPY

VERB = Verb(
    name="promote",
    options=(
        Option("name", "", "NAME", "What the new state is called"),
        WITHOUT_COPY,
    ),
    arguments=(
        Argument("fork", "FORK", complete="container"),
        Argument("parent", "PARENT", "?", complete="container"),
    ),
    details="""
The container that a fork came from (or PARENT) becomes what the fork is now; it takes the same time however much that
is. What it was before stays, as a snapshot, and the fork stays as it is.""",
    examples="lamina promote try-7\nlamina promote --name best try-7 brave_otter",
)


def do(args: Arguments) -> int:
    """Promote, and print the id of the new state."""
    from lamina.cli import output
    from lamina.engine import Engine

    engine = Engine(args.root)
    fork = engine.container(args.fork)
    parent = fork.forked_from() if args.parent is None else engine.container(args.parent)
    output.line(parent.promote(fork, args.name, consistency=args.consistency).id)
    return 0
