"""`lamina volume create`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import pair


def _local(text: str) -> str:
    if text != "local":
        raise ValueError("there are no drivers but local: mount what else there is, and bind it")
    return text


VERB = Verb(
    name="volume create",
    options=(
        Option("label", metavar="KEY=VALUE", help="A label", multiple=True, convert=pair),
        Option("name", metavar="NAME", help="Its name, as older scripts of docker's say it"),
        Option("driver", "d", "DRIVER", "local: there is no other", convert=_local, default="local"),
    ),
    arguments=(Argument("volume", "NAME", "?"),),
    details="""A volume outlives the containers that mount it (-v NAME:/place). One that is there already stays as it
    is. Without a name it gets a random one, and goes with 'volume prune' once nobody uses it.""",
    examples="lamina volume create data\nlamina run -v data:/var/lib/postgresql postgres",
)


def do(args: Arguments) -> int:
    """Make it and print its name."""
    from lamina.cli import output
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    if args.name is not None and args.volume is not None:
        raise InvalidInput(
            f"volume create: two names, {args.name} and {args.volume}", remedy="name it once, without --name"
        )
    name = args.volume if args.name is None else args.name
    output.line(Engine(args.root).create_volume(name, labels=dict(args.label)).name)
    return 0
