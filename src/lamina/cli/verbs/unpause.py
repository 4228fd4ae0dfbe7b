"""`lamina unpause`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="unpause",
    arguments=(Argument("names", "NAME", "+", complete="paused"),),
    examples="""
lamina unpause web
""",
)


def do(args: Arguments) -> int:
    """Unpause each; one that cannot be does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        engine.container(name).unpause()
        output.line(name)

    return each(args.names, act)
