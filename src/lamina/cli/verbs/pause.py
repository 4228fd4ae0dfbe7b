"""`lamina pause`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="pause",
    arguments=(Argument("names", "NAME", "+", complete="running"),),
    details="""Every process of it stands still, frozen by its control groups, until 'lamina unpause'; nothing in it can
    notice or prevent that. It still counts as alive: stop, kill and rm --force let it go on, to end it.""",
    examples="""
lamina pause web
lamina unpause web
""",
)


def do(args: Arguments) -> int:
    """Pause each; one that cannot be does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        engine.container(name).pause()
        output.line(name)

    return each(args.names, act)
