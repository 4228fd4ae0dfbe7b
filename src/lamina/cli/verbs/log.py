"""`lamina log`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.convert import count
from lamina.cli.options import format_option

VERB = Verb(
    name="log",
    options=(
        Option(
            "max-count",
            "n",
            "NUMBER",
            "The newest so many; without it all of them, as of git log",
            convert=count,
        ),
        Option("no-trunc", help="Ids and commands in full"),
        format_option("{{.Name}} {{.Command}}"),
    ),
    arguments=(Argument("name", "CONTAINER", complete="container"),),
    details="""
The states of a container as a tree, the newest first: names, ids, times, what was written since the state before, the
command that did it, and the containers that were forked off there. The circle at the top is the container as it is now;
◉ is the state that it stands on. At the bottom is what it all began with. On a terminal it goes through $PAGER.""",
    examples="""
lamina log brave_otter
lamina log -n 20 brave_otter
lamina log --format '{{.Name}} {{.Bytes}}' brave_otter
""",
)


def do(args: Arguments) -> int:
    """Draw the tree."""
    from lamina.cli import output, stately
    from lamina.engine import Engine

    found = Engine(args.root).container(args.name).history()
    if args.format == "table":
        stately.show([found], whole=args.no_trunc, most=args.max_count)
    else:
        output.records(stately.records(found, whole=args.no_trunc)[: args.max_count], args.format, {})
    return 0
