"""`lamina rm`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="rm",
    options=(
        Option("force", "f", help="Kill what still runs; a container that is not there is no error"),
        Option("volumes", "v", help="Remove their volumes without a name as well"),
    ),
    arguments=(Argument("names", "NAME", "+", complete="container"),),
    details="What the containers changed is discarded with them; what was applied to this system stays applied.",
    examples="lamina rm brave_otter\nlamina rm -f $(lamina ps -aq)",
)


def do(args: Arguments) -> int:
    """Remove each; one that cannot be removed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.applying import remove as remove_container
    from lamina.cli.each import each
    from lamina.engine import Engine
    from lamina.errors import NotFound

    engine = Engine(args.root)

    def remove(name: str) -> None:
        try:
            remove_container(engine.container(name), args.force, args.volumes)
        except NotFound:
            if not args.force:
                raise
        else:
            output.line(name)

    return each(args.names, remove)
