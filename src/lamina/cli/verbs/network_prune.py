"""`lamina network prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import PRUNED, filter_option

VERB = Verb(
    name="network prune",
    options=(filter_option(PRUNED), Option("force", "f", help="Do not ask")),
    examples="lamina network prune -f --filter until=24h",
)


def do(args: Arguments) -> int:
    """Remove those that no container is in, and say which."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.filters import chosen, with_filters
    from lamina.engine import Engine

    what = with_filters("all networks that no container is in", args.filter)
    if not args.force and not confirmed(f"This removes {what}.", "network prune"):
        return 0
    gone = Engine(args.root).networks.prune(**chosen(args.filter))
    if gone:
        output.lines(["Deleted Networks:", *gone, ""])
    return 0
