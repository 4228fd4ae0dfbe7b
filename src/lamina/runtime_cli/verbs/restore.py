"""`lamina-runtime restore`: not there yet, and says so."""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.errors import Unsupported
from lamina.runtime_cli.options import HELP

VERB = Verb("restore", (HELP,), (Argument("words", "ID", "*"),), interspersed=False)


def do(args: Arguments) -> int:
    """Refuse."""
    raise Unsupported(
        "restore container: not supported so far",
        remedy="restoring a foreign checkpoint runs its content with the host's privileges",
    )
