"""`lamina start`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.attached import DETACH_KEYS, SIG_PROXY

VERB = Verb(
    name="start",
    options=(
        Option("attach", "a", "", "Stay, and show what it writes"),
        Option("interactive", "i", "", "Stay, and let it read standard input"),
        DETACH_KEYS,
        SIG_PROXY,
    ),
    arguments=(Argument("names", "NAME", "+", complete="stopped"),),
    details="""
A container that runs already is no error. With --attach or --interactive the exit status is the container's.
""",
    examples="""
lamina start web
lamina start -ai build
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
    if args.attach or args.interactive:
        return _attached(args, engine)

    def act(name: str) -> None:
        started(engine.container(name))
        output.line(name)

    return each(args.names, act)


def _attached(args: Arguments, engine: object) -> int:
    from lamina.cli import attached
    from lamina.engine import Engine
    from lamina.errors import InvalidInput

    assert isinstance(engine, Engine)
    if len(args.names) > 1:
        raise InvalidInput(
            "start: one can stay with one container only", remedy="name one, or leave -a and -i out"
        )
    asked = attached.wanted(stdin=args.interactive, keys=args.detach_keys, proxy=args.sig_proxy)
    return attached.status_of(attached.started(engine.container(args.names[0]), asked))
