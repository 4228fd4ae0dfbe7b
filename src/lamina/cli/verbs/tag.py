"""`lamina tag`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="tag",
    arguments=(Argument("source", "IMAGE", complete="image"), Argument("target", "NAME[:TAG]")),
    examples="lamina tag debian:12 registry.example/base:stable",
)


def do(args: Arguments) -> int:
    """Give the image another name."""
    from lamina.engine import Engine

    Engine(args.root).tag(args.source, args.target)
    return 0
