"""`lamina logs`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import count, moment


def _tail(text: str) -> int | None:
    """docker and kubectl take -1 for all."""
    return None if text in ("all", "-1") else count(text)


VERB = Verb(
    name="logs",
    options=(
        Option("follow", "f", "", "Go on until the container ends"),
        Option("tail", "n", "NUMBER", "Only the last lines; all (default) or a number", convert=_tail),
        Option("details", "", "", "Also what the log driver noted with it (--log-opt labels=, env=)"),
        Option("timestamps", "t", "", "Say when each line was written"),
        Option(
            "since", "", "TIME", "Only what came after: 10m, 2024-05-01T12:00:00, 1714564800", convert=moment
        ),
        Option("until", "", "TIME", "Only what came before", convert=moment),
    ),
    arguments=(Argument("name", "NAME", complete="container"),),
    details="""
What the container wrote: its standard output to standard output, its standard error to standard error. Files of the log
that were rotated are read as well.
""",
    examples="lamina logs -f --tail 20 brave_otter",
)


def do(args: Arguments) -> int:
    """Write what the container wrote."""
    from lamina.cli.transcript import write
    from lamina.engine import Engine

    container = Engine(args.root).container(args.name)
    entries = container.logs(follow=args.follow, tail=args.tail, since=args.since, until=args.until)
    write(entries, timestamps=args.timestamps, details=args.details)
    return 0
