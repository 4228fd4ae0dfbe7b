"""`lamina stop`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options.stopping import OPTIONS, seconds

VERB = Verb(
    name="stop",
    options=OPTIONS,
    arguments=(Argument("names", "NAME", "+", complete="running"),),
    details="""The stop signal (--stop-signal, or the image's, else SIGTERM) is sent to the container's first process;
    what is left after the time is killed. A container that does not run is no error.""",
    examples="""
lamina stop web
lamina stop -t 1 $(lamina ps -q)
""",
)


def do(args: Arguments) -> int:
    """Stop each; one that cannot be stopped does not keep the others."""
    from lamina.cli import output
    from lamina.cli.each import each
    from lamina.engine import Engine

    engine = Engine(args.root)

    def act(name: str) -> None:
        engine.container(name).stop(seconds(args), args.signal)
        output.line(name)

    return each(args.names, act)
