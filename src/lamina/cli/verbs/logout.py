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
    from lamina.errors import NotFound

    try:
        server = Engine(args.root).logout(args.server)
    except NotFound:  # as it was to be: what cleans up after a job may say it twice
        output.line(f"Not logged in to {args.server or 'docker.io'}")
        return 0
    output.line(f"Removing login credentials for {server}")
    return 0
