"""`lamina start`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="start",
    options=(),
    arguments=(Argument("names", "NAME", "+", complete="container"),),
    details="""A container that runs already is no error.""",
    examples="""
lamina start web
lamina start $(lamina ps -aq)
""",
)


def do(args: Arguments) -> int:
    """Start each; one that cannot be started does not keep the others."""
    from lamina.cli import output
    from lamina.cli.detached import started
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        started(engine.container(name))
        output.line(name)

    return each(args.names, act)
