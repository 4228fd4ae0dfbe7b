"""`lamina container inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    name="container inspect",
    options=(
        format_option("{{.State.Status}}", "json", "f"),
        Option("size", "s", help="Also SizeRw, what was written, and SizeRootFs, with the image"),
    ),
    arguments=(Argument("names", "NAME", "+", complete="container"),),
    details="Of containers alone, so that scripts may ask by it whether there is one: an image of that name is none.",
    examples="lamina container inspect -f '{{.State.ExitCode}}' brave_otter",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each container, or a line for each by template."""
    from lamina.cli.inspecting import of_container, show
    from lamina.engine import Engine

    engine = Engine(args.root)

    def look(name: str) -> dict[str, Any]:
        return of_container(engine, engine.container(name), args.size)

    return show(args.names, look, args.format)
