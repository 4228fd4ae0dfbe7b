"""`lamina-runtime delete`: take a container away that has ended."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.errors import NotFound
from lamina.runtime.container.ending import delete
from lamina.runtime_cli.asked import container
from lamina.runtime_cli.options import HELP, ID

FORCE = Option("force", "f", help="Kill it first, if it still runs; no error if there is none")
VERB = Verb("delete", (FORCE, HELP), (ID,))


def do(args: Arguments) -> int:
    """Delete it; 0. What poststop hooks failed at is a warning."""
    try:
        failures = delete(container(args), force=args.force)
    except NotFound:
        if args.force:
            return 0
        raise
    for failure in failures:
        from lamina.runtime_cli.report import warn

        warn(args, failure)
    return 0
