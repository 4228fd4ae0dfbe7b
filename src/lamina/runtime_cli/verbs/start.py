"""`lamina-runtime start`: let a created container begin."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.runtime.container.begin import start
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

VERB = Verb("start", (HELP,), (ID,))


def do(args: Arguments) -> int:
    """Start it; 0. What poststart hooks failed at is a warning."""
    for failure in start(container(args)):
        from lamina.runtime_cli.report import warn

        warn(args, failure)
    return 0
