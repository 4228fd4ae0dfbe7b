"""`lamina network inspect`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import format_option

VERB = Verb(
    name="network inspect",
    options=(format_option("{{.Bridge}}", "json", "f"),),
    arguments=(Argument("names", "NETWORK", "+", complete="network"),),
    examples="lamina network inspect -f '{{json .IPAM.Config}}' bridge",
)


def do(args: Arguments) -> int:
    """Print a JSON list with a document for each network, or a line for each by template."""
    from lamina.cli.inspecting import show
    from lamina.engine import Engine

    networks = Engine(args.root).networks
    return show(args.names, lambda name: networks.get(name).attrs, args.format)
