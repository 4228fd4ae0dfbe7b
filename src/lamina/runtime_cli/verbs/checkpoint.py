"""`lamina-runtime checkpoint`: not there yet, and says so."""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.errors import Unsupported
from lamina.runtime_cli.options import HELP

VERB = Verb("checkpoint", (HELP,), (Argument("words", "ID", "*"),), interspersed=False)


def do(args: Arguments) -> int:
    """Refuse."""
    raise Unsupported(
        "checkpoint container: not supported so far",
        remedy="stop the container, or pause it",
    )
