"""`lamina rename`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="rename",
    options=(),
    arguments=(
        Argument("name", "NAME", complete="container"),
        Argument("new", "NEW_NAME"),
    ),
    details="""""",
    examples="""
lamina rename web old_web
""",
)


def do(args: Arguments) -> int:
    """Give it the other name."""
    from lamina.engine import Engine

    Engine(args.root).container(args.name).rename(args.new)
    return 0
