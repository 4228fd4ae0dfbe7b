"""`lamina volume prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb

VERB = Verb(
    name="volume prune",
    options=(
        Option("all", "a", help="Also volumes to which somebody gave a name"),
        Option("force", "f", help="Do not ask"),
    ),
    examples="lamina volume prune -f",
)


def do(args: Arguments) -> int:
    """Remove those that no container mounts, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    what = "all volumes" if args.all else "all volumes without a name"
    if not args.force and not confirmed(
        f"This removes {what} that no container uses, and what is in them.", "volume prune"
    ):
        return 0
    gone, freed = Engine(args.root).storage.prune_volumes(everything=args.all)
    for name in gone:
        output.line(name)
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0
