"""`lamina restart`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options.stopping import OPTIONS, seconds

VERB = Verb(
    name="restart",
    options=OPTIONS,
    arguments=(Argument("names", "NAME", "+", complete="container"),),
    details="""Stops it, if it runs, and starts it.""",
    examples="""
lamina restart web
""",
)


def do(args: Arguments) -> int:
    """Restart each; one that cannot be restarted does not keep the others."""
    from lamina.cli import output
    from lamina.cli.asked import warn
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        for warning in engine.container(name).restart(seconds(args), args.signal):
            warn(warning)
        output.line(name)

    return each(args.names, act)
