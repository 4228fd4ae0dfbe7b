"""`lamina volume prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import anything, filter_option, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.filters import Checks

FILTERS: Checks = {"label": anything, "label!": anything, "all": truth}

VERB = Verb(
    name="volume prune",
    options=(
        Option("all", "a", help="Also volumes to which somebody gave a name"),
        filter_option(FILTERS),
        Option("force", "f", help="Do not ask"),
    ),
    examples="lamina volume prune -f\nlamina volume prune --all --filter label!=keep",
)


def do(args: Arguments) -> int:
    """Remove those that no container mounts, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.filters import chosen, with_filters
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    everything = args.all or any(key == "all" and truth(value) for key, value in args.filter)
    filters = [one for one in args.filter if one[0] != "all"]
    what = with_filters("all volumes" if everything else "all volumes without a name", filters)
    if not args.force and not confirmed(
        f"This removes {what} that no container uses, and what is in them.", "volume prune"
    ):
        return 0
    wanted = chosen(filters)
    gone, freed = Engine(args.root).storage.prune_volumes(
        everything=everything, labels=wanted["labels"], without_labels=wanted["without_labels"]
    )
    if gone:
        output.lines(["Deleted Volumes:", *gone, ""])
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0
