"""`lamina restart`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import whole_number

VERB = Verb(
    name="restart",
    options=(
        Option(
            "timeout",
            "t",
            "SECONDS",
            "Kill it after so long (default: its own, else 10; -1: never)",
            convert=whole_number,
        ),
        Option("time", "", "SECONDS", "The same as --timeout", convert=whole_number),
        Option("signal", "s", "SIGNAL", "Send this instead of its stop signal"),
    ),
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
        for warning in engine.container(name).restart(
            args.time if args.timeout is None else args.timeout, args.signal
        ):
            warn(warning)
        output.line(name)

    return each(args.names, act)
