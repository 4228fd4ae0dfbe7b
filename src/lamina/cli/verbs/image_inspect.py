"""`lamina image inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import format_option

VERB = Verb(
    name="image inspect",
    options=(format_option("{{.Config.Env}}", "json", "f"),),
    arguments=(Argument("names", "IMAGE", "+", complete="image"),),
    examples="lamina image inspect debian:12\nlamina image inspect -f '{{json .Config}}' debian:12",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each image, or a line for each by template."""
    from lamina.cli.inspecting import show
    from lamina.engine import Engine

    return show(args.names, Engine(args.root).inspect_image, args.format)
