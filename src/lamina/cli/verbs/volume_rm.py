"""`lamina volume rm`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="volume rm",
    options=(Option("force", "f", help="A volume that is not there is no error"),),
    arguments=(Argument("names", "VOLUME", "+", complete="volume"),),
    details="A volume that a container mounts, running or not, is not removed.",
    examples="lamina volume rm data",
)


def do(args: Arguments) -> int:
    """Remove each; one that cannot be removed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine
    from lamina.errors import NotFound

    engine = Engine(args.root)

    def remove(name: str) -> None:
        try:
            engine.volume(name).remove()
        except NotFound:
            if not args.force:
                raise
        output.line(name)

    return each(args.names, remove)
