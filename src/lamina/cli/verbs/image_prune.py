"""`lamina image prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, moment, reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.filters import Checks

FILTERS: Checks = {"until": moment, "label": anything, "label!": anything}

VERB = Verb(
    name="image prune",
    options=(
        Option("all", "a", help="All images that no container uses, not only those without a name"),
        Option("filter", "", "KEY=VALUE", f"Only those; keys: {', '.join(FILTERS)}", multiple=True,
               convert=reader(FILTERS)),
        Option("force", "f", help="Do not ask"),
    ),
    details="Removes images without a name, and layers that nothing needs. Pinned images stay.",
    examples="lamina image prune -af\nlamina image prune -a --filter until=240h --filter label!=keep",
)  # fmt: skip


def do(args: Arguments) -> int:
    """Remove, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    what = "all images that no container uses" if args.all else "all images without a name"
    if args.filter:
        what += " with " + ", ".join("=".join(one) for one in args.filter)
    if not args.force and not confirmed(f"This removes {what}.", "image prune"):
        return 0
    moments = [moment(value) for key, value in args.filter if key == "until"]
    done, freed = Engine(args.root).prune_images(
        everything=args.all,
        until=min(moments, default=None),
        labels=[value for key, value in args.filter if key == "label"],
        without_labels=[value for key, value in args.filter if key == "label!"],
    )
    for word, name in done:
        output.line(f"{word}: {name}")
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0
