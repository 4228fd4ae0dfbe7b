"""`lamina system prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb

VERB = Verb(
    name="system prune",
    options=(
        Option("all", "a", help="All images that no container uses, not only those without a name"),
        Option("volumes", help="Also volumes without a name that no container uses"),
        Option("force", "f", help="Do not ask"),
    ),
    details="""Removes containers that have ended, images without a name, and layers that nothing needs any more.
    Pinned images stay.""",
    examples="lamina system prune\nlamina system prune -af --volumes",
)


def do(args: Arguments) -> int:
    """Remove, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.sizes import human
    from lamina.cli.verbs.gc import short
    from lamina.engine import Engine

    what = ["all containers that have ended, with what they changed"]
    what.append("all images that no container uses" if args.all else "all images without a name")
    if args.volumes:
        what.append("all volumes without a name that no container uses")
    if not args.force and not confirmed(f"This removes {', '.join(what)}.", "system prune"):
        return 0
    engine = Engine(args.root)
    # those that live are left alone, whatever they were a moment ago
    containers = engine.containers(all=True)
    done = engine.storage.prune(containers, everything=args.all, with_volumes=args.volumes)
    for heading, lines in (
        ("Deleted containers", done.containers),
        ("Deleted volumes", done.volumes),
        ("Deleted images", [f"{one.id[:12]} {' '.join(one.names)}".rstrip() for one in done.images]),
        ("Deleted layers", [short(one) for one in done.layers]),
    ):
        if lines:
            output.lines([f"{heading}:", *lines, ""])
    output.line(f"Total reclaimed space: {human(done.freed)}")
    return 0
