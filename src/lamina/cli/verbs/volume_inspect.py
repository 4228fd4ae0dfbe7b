"""`lamina volume inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import format_option

VERB = Verb(
    name="volume inspect",
    options=(format_option("{{.Mountpoint}}", "json", "f"),),
    arguments=(Argument("names", "VOLUME", "+", complete="volume"),),
    examples="lamina volume inspect -f '{{.Mountpoint}}' data",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each volume, or a line for each by template."""
    from lamina.cli.inspecting import show
    from lamina.engine import Engine

    engine = Engine(args.root)
    return show(args.names, lambda name: engine.volume(name).attrs, args.format)
