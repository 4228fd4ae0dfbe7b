"""`lamina network rm`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="network rm",
    options=(Option("force", "f", help="A network that is not there is no error"),),
    arguments=(Argument("names", "NETWORK", "+", complete="network"),),
    details="Its bridge and its rules go with it. One that a container is in is not removed.",
    examples="lamina network rm back",
)


def do(args: Arguments) -> int:
    """Remove each; one that cannot be removed does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.cli.predefined import named
    from lamina.engine import Engine
    from lamina.errors import InvalidInput, NotFound

    networks = Engine(args.root).networks

    def remove(name: str) -> None:
        if named(name):
            raise InvalidInput(
                f"remove network {name}: it is there without being made, and cannot be removed"
            )
        try:
            networks.get(name).remove()
        except NotFound:
            if not args.force:
                raise
        output.line(name)

    return each(args.names, remove)
