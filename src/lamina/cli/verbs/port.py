"""`lamina port`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="port",
    arguments=(
        Argument("container", "CONTAINER", complete="container"),
        Argument("port", "PORT[/PROTOCOL]", "?"),
    ),
    details="Where the ports of a container are published on this host.",
    examples="lamina port web\nlamina port web 80",
)


def do(args: Arguments) -> int:
    """Print a line for each, as docker does; only where that port is, if one is named."""
    from lamina.cli import output
    from lamina.engine import Engine
    from lamina.errors import InvalidInput, NotFound

    container = Engine(args.root).container(args.container)
    wanted = None
    if args.port is not None:
        port, _, protocol = args.port.partition("/")
        if not (port.isascii() and port.isdigit()):
            raise InvalidInput(f"port {args.port}: not a port", remedy="such as 80 or 53/udp")
        wanted = f"{int(port)}/{protocol or 'tcp'}"
    found = container.ports
    if wanted is not None and wanted not in found:
        raise NotFound(f"port {wanted} of container {container.name}: it is not published")
    for inside, places in found.items():
        for place in places:
            if wanted is None:
                output.line(f"{inside} -> {place}")
            elif inside == wanted:
                output.line(place)
    return 0
