"""`lamina logout`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="logout",
    arguments=(Argument("server", "SERVER", "?"),),
    details="Forgets the password of that registry (docker.io without SERVER).",
    examples="lamina logout registry.example",
)


def do(args: Arguments) -> int:
    """Log out."""
    from lamina.cli import output
    from lamina.engine import Engine

    server = Engine(args.root).logout(args.server)
    output.line(f"Removing login credentials for {server}")
    return 0
