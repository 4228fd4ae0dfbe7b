"""`lamina rebase`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="rebase",
    options=(
        Option("force", "f", help="Keep what the container has also where the new image has another one"),
        Option("dry-run", "n", help="Change nothing: print the paths that the container would hide"),
    ),
    arguments=(
        Argument("name", "CONTAINER", complete="container"),
        Argument("image", "IMAGE", complete="image"),
    ),
    details="""
Puts what a container wrote over another image, such as a newer one of the same name. What it added, changed and deleted
stays; all else is the new image's. No file is copied. Its command and its options stay as they are.

Where it would hide something of the new image that is another there than in the old one, the paths are named and
nothing is changed, unless --force is given. The container must not run. Its snapshots from before stay over the image
from before.""",
    examples="lamina rebase brave_otter debian:12\nlamina rebase --dry-run brave_otter debian:12",
)


def do(args: Arguments) -> int:
    """Rebase it; or say what would be hidden."""
    import os

    from lamina.cli import output
    from lamina.cli.quoting import quote
    from lamina.cli.report import say
    from lamina.engine import Engine

    hidden = Engine(args.root).container(args.name).rebase(args.image, force=args.force, dry_run=args.dry_run)
    lines = [f"{quote(os.fsdecode(one.path))}: {one.why}" for one in hidden]
    if args.dry_run:
        output.text("".join(f"{line}\n" for line in lines))
        return 1 if hidden else 0
    for line in lines:
        say(f"kept what the container has: {line}")
    output.line(args.name)
    return 0
