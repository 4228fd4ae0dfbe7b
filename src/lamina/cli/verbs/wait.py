"""`lamina wait`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="wait",
    options=(),
    arguments=(Argument("names", "NAME", "+", complete="running"),),
    details="""""",
    examples="""
lamina wait web
""",
)


def do(args: Arguments) -> int:
    """Wait for each in turn, and print its exit status."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        output.line(str(engine.container(name).wait()))

    return each(args.names, act)
