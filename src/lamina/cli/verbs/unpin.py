"""`lamina unpin`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb

VERB = Verb(
    name="unpin",
    arguments=(Argument("names", "IMAGE", "+", complete="image"),),
    examples="lamina unpin debian:12",
)


def do(args: Arguments) -> int:
    """Take the pin of each away."""
    from lamina.cli.verbs.pin import pinning

    return pinning(args, False)
