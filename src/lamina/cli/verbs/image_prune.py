"""`lamina image prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import PRUNED, filter_option, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.cli.filters import Checks

FILTERS: Checks = {**PRUNED, "dangling": truth}

VERB = Verb(
    name="image prune",
    options=(
        Option("all", "a", help="All images that no container uses, not only those without a name"),
        filter_option(FILTERS),
        Option("force", "f", help="Do not ask"),
    ),
    details="Removes images without a name, and layers that nothing needs. Pinned images stay.",
    examples="lamina image prune -af\nlamina image prune -a --filter until=240h --filter label!=keep",
)


def do(args: Arguments) -> int:
    """Remove, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.filters import chosen, with_filters
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    said = [truth(value) for key, value in args.filter if key == "dangling"]
    everything = not said[-1] if said else args.all  # dangling=false is -a, as in docker
    what = "all images that no container uses" if everything else "all images without a name"
    what = with_filters(what, [one for one in args.filter if one[0] != "dangling"])
    if not args.force and not confirmed(f"This removes {what}.", "image prune"):
        return 0
    done, freed = Engine(args.root).prune_images(everything=everything, **chosen(args.filter))
    for word, name in done:
        output.line(f"{word}: {name}")
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0
