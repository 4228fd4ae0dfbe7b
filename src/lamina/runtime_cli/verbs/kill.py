"""`lamina-runtime kill`: a signal to a container."""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.linux.signals import signal_number
from lamina.runtime.container.ending import kill
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

VERB = Verb(
    "kill",
    (Option("all", "a", help="To every process of it, not only the first"), HELP),
    (ID, Argument("signal", "SIGNAL", "?")),
)


def do(args: Arguments) -> int:
    """Send it; 0."""
    kill(container(args), signal_number(args.signal or "TERM"), everybody=args.all)
    return 0
