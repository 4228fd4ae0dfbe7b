"""`lamina snapshot inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import format_option

VERB = Verb(
    name="snapshot inspect",
    options=(format_option("{{.Layers}}", "json", "f"),),
    arguments=(
        Argument("name", "CONTAINER", complete="container"),
        Argument("snapshots", "SNAPSHOT", "+", complete="snapshot"),
    ),
    examples="lamina snapshot inspect -f '{{.Parent}}' brave_otter before-the-upgrade",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each snapshot, or a line for each by template."""
    from lamina.cli.inspecting import show
    from lamina.engine import Engine

    box = Engine(args.root).container(args.name)
    return show(args.snapshots, lambda name: box.find_snapshot(name).inspect(), args.format)
