"""How long a container may take to end, and what asks it to: of `stop` and `restart`."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option
from lamina.cli.convert import whole_number

OPTIONS = (
    Option(
        "timeout",
        "t",
        "SECONDS",
        "Kill it after so long (default: its own, else 10; -1: never)",
        convert=whole_number,
    ),
    Option("time", "", "SECONDS", "The same as --timeout", convert=whole_number),
    Option("signal", "s", "SIGNAL", "Send this instead of its stop signal"),
)


def seconds(args: Arguments) -> int | None:
    """What was said, by either name."""
    found: int | None = args.time if args.timeout is None else args.timeout
    return found
