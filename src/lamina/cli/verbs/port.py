"""`lamina port`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine import Container

VERB = Verb(
    name="port",
    arguments=(
        Argument("name", "CONTAINER", complete="running"),
        Argument("port", "PORT[/PROTOCOL]", "?"),
    ),
    details="""Where the ports of a container can be reached on this machine. A container whose network is the host's,
    or that publishes nothing, has no lines.""",
    examples="lamina port web\nlamina port web 80/tcp",
)


def do(args: Arguments) -> int:
    """List them, or say where one is."""
    from lamina.cli import output
    from lamina.engine import Engine
    from lamina.errors import InvalidInput, NotFound

    container = Engine(args.root).container(args.name)
    found = lines(container)
    if args.port is None:
        output.text("".join(f"{line}\n" for line in found))
        return 0
    number, _, protocol = args.port.partition("/")
    if not (number.isascii() and number.isdecimal() and 0 < int(number) < 1 << 16):
        raise InvalidInput(
            f"port {args.port}: not a port such as 80 or 53/udp",
            remedy=f"'lamina port {args.name}' lists those that are published",
        )
    wanted = f"{int(number)}/{protocol or 'tcp'}"
    where = [there for port, _, there in (line.partition(" -> ") for line in found) if port == wanted]
    if not where:
        raise NotFound(
            f"port {wanted} of container {args.name}: it is not published",
            remedy=f"'lamina port {args.name}' lists those that are",
        )
    output.text("".join(f"{there}\n" for there in where))
    return 0


def lines(container: Container) -> list[str]:
    """`80/tcp -> 0.0.0.0:8080`, one for each place at which a port is published."""
    ports = container.inspect()["NetworkSettings"]["Ports"]
    return [
        f"{port} -> {_bracketed(one['HostIp'])}:{one['HostPort']}"
        for port in sorted(ports)
        for one in ports[port] or ()
    ]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
