"""`lamina image prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb

VERB = Verb(
    name="image prune",
    options=(
        Option("all", "a", help="All images that no container uses, not only those without a name"),
        Option("force", "f", help="Do not ask"),
    ),
    details="Removes images without a name, and layers that nothing needs. Pinned images stay.",
    examples="lamina image prune -af",
)


def do(args: Arguments) -> int:
    """Remove, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.sizes import human
    from lamina.engine import Engine

    what = "all images that no container uses" if args.all else "all images without a name"
    if not args.force and not confirmed(f"This removes {what}.", "image prune"):
        return 0
    done, freed = Engine(args.root).prune_images(everything=args.all)
    for word, name in done:
        output.line(f"{word}: {name}")
    output.line(f"Total reclaimed space: {human(freed)}")
    return 0
