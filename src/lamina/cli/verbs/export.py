"""`lamina export`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="export",
    options=(
        Option("output", "o", "FILE", "Write to this file instead of standard output", complete="file"),
    ),
    arguments=(Argument("name", "CONTAINER", complete="container"),),
    details="Writes the files of a container over an image as one flat tar archive, without its volumes.",
    examples="lamina export -o rootfs.tar brave_otter\nlamina export brave_otter | lamina import - mine:1",
)


def do(args: Arguments) -> int:
    """Write the archive."""
    import os

    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    if args.output is None and os.isatty(1):
        raise InvalidInput(
            "export: standard output is a terminal",
            remedy="name a file with -o, or pipe the archive somewhere",
        )
    Engine(args.root).export(args.name, 1 if args.output is None else args.output)
    return 0
