"""`lamina network inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import format_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERB = Verb(
    name="network inspect",
    options=(format_option("{{.Bridge}}", "json", "f"),),
    arguments=(Argument("names", "NETWORK", "+", complete="network"),),
    examples="lamina network inspect -f '{{json .IPAM.Config}}' bridge",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each network, or a line for each by template."""
    from lamina.cli.inspecting import show
    from lamina.cli.predefined import document, named
    from lamina.engine import Engine

    networks = Engine(args.root).networks

    def attrs(name: str) -> dict[str, Any]:
        predefined = named(name)
        return networks.get(name).attrs if predefined is None else document(predefined)

    return show(args.names, attrs, args.format)
