"""`lamina network prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb

VERB = Verb(
    name="network prune",
    options=(Option("force", "f", help="Do not ask"),),
    examples="lamina network prune -f",
)


def do(args: Arguments) -> int:
    """Remove those that no container is in, and say which."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.engine import Engine

    if not args.force and not confirmed(
        "This removes all networks that no container is in.", "network prune"
    ):
        return 0
    for name in Engine(args.root).networks.prune():
        output.line(name)
    return 0
