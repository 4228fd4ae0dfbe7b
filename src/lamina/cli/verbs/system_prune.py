"""`lamina system prune`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.filters import PRUNED, filter_option

VERB = Verb(
    name="system prune",
    options=(
        Option("all", "a", help="All images that no container uses, not only those without a name"),
        Option("volumes", help="Also volumes without a name that no container uses"),
        filter_option(PRUNED),
        Option("force", "f", help="Do not ask"),
    ),
    details="""Removes containers that have ended, networks that no container is in, images without a name, and layers
    that nothing needs any more; and what the network bridge has made on this system, until its next container.
    Pinned images stay. With a filter only containers, networks, images and volumes that were made before `until` (24h),
    or have a label, or with label! have it not.""",
    examples="lamina system prune\nlamina system prune -af --volumes\nlamina system prune --filter until=240h",
)


def do(args: Arguments) -> int:
    """Remove, and say what became free."""
    from lamina.cli import output
    from lamina.cli.confirming import confirmed
    from lamina.cli.filters import chosen, with_filters
    from lamina.cli.sizes import human
    from lamina.cli.verbs.gc import short
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    if args.volumes and any(key == "until" for key, _ in args.filter):
        raise InvalidInput(
            "system prune: --filter until says nothing of volumes",
            remedy="leave out one of --volumes and until",
        )
    what = ["all containers that have ended, with what they changed", "all networks that no container is in"]
    what.append("all images that no container uses" if args.all else "all images without a name")
    if args.volumes:
        what.append("all volumes without a name that no container uses")
    if not args.force and not confirmed(
        f"This removes {with_filters(', '.join(what), args.filter)}.", "system prune"
    ):
        return 0
    engine = Engine(args.root)
    # those that live are left alone, whatever they were a moment ago
    found = engine.containers(all=True)
    done = engine.storage.prune(found, everything=args.all, with_volumes=args.volumes, **chosen(args.filter))
    for heading, lines in (
        ("Deleted Containers", done.containers),
        ("Deleted Networks", done.networks),
        ("Deleted Volumes", done.volumes),
        ("Deleted Images", [f"{one.id[:12]} {' '.join(one.names)}".rstrip() for one in done.images]),
        ("Deleted Layers", [short(one) for one in done.layers]),
    ):
        if lines:
            output.lines([f"{heading}:", *lines, ""])
    output.line(f"Total reclaimed space: {human(done.freed)}")
    return 0
