"""`lamina logs`"""

from __future__ import annotations

from lamina.cli.convert import count
from lamina.cli.declare import Argument, Arguments, Option, Verb


def _moment(text: str) -> float:
    from lamina.cli.when import moment

    return moment(text)


def _tail(text: str) -> int | None:
    return None if text == "all" else count(text)


VERB = Verb(
    name="logs",
    options=(
        Option("follow", "f", help="Go on until the container ends"),
        Option("tail", "n", "NUMBER", _tail, help="Only the last lines; all (default) or a number"),
        Option("timestamps", "t", help="Say when each line was written"),
        Option(
            "since", metavar="TIME", convert=_moment, help="Only what came after: 10m, 2024-05-01T12:00:00"
        ),
        Option("until", metavar="TIME", convert=_moment, help="Only what came before"),
    ),
    arguments=(Argument("name", "NAME", complete="container"),),
    examples="lamina logs -f --tail 20 brave_otter",
)


def do(args: Arguments) -> int:
    """Write what the container wrote: its standard output to ours, its standard error to ours."""
    raise NotImplementedError
