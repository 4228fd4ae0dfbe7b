"""`lamina container prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import PRUNED, filter_option

VERB = Verb(
    name="container prune",
    options=(filter_option(PRUNED), Option("force", "f", help="Do not ask")),
    details="""Removes the containers that do not run, and with them what they changed. Those can be chosen which were
    made before `until` (10m, 24h, 2024-05-01), or have a label, or with label! have it not.""",
    examples="lamina container prune -f --filter until=24h",
)


def do(args: Arguments) -> int:
    """Remove them, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.filters import chosen, with_filters
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    what = with_filters("all containers that do not run, with what they changed", args.filter)
    if not args.force and not confirmed(f"This removes {what}.", "container prune"):
        return 0
    wanted = chosen(args.filter)
    gone, freed = Engine(args.root).prune_containers(
        before=wanted["until"], labels=wanted["labels"], without=wanted["without_labels"]
    )
    if gone:
        output.lines(["Deleted Containers:", *gone, ""])
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0
