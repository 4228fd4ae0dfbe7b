"""`lamina kill`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb

VERB = Verb(
    name="kill",
    options=(Option("signal", "s", "SIGNAL", "Which: KILL (default), HUP, 15", default="KILL"),),
    arguments=(Argument("names", "NAME", "+", complete="running"),),
    details="""The signal goes to the container's first process. One whose default action is to end a process ends the
    container, although the kernel spares the first process of a pid namespace.""",
    examples="""
lamina kill web
lamina kill -s HUP web
""",
)


def do(args: Arguments) -> int:
    """Send each the signal; one that does not run does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        engine.container(name).kill(args.signal)
        output.line(name)

    return each(args.names, act)
