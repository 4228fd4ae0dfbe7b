"""`lamina overlay explain`"""

from __future__ import annotations

from lamina.cli.declare import Argument, Arguments, Verb
from lamina.cli.options.general import OUTPUT
from lamina.cli.options.overlay import EXPLAINED, STACK

VERB = Verb(
    name="overlay explain",
    options=(STACK, OUTPUT),
    arguments=(Argument("path", "PATH"),),
    details=f"""
PATH is a path in the merged tree; nothing needs to be mounted.

{EXPLAINED}""",
    examples="lamina overlay explain -o lowerdir=A:B,upperdir=C,workdir=worker etc/motd",
)


def do(args: Arguments) -> int:
    """Show each layer's answer from top to bottom, which wins, and why."""
    raise NotImplementedError
