"""`lamina plan`"""

from __future__ import annotations

from lamina.cli.declare import Arguments, Option, Verb
from lamina.cli.options.run import ARGUMENTS, OPTIONS

VERB = Verb(
    name="plan",
    options=(
        *(option for option in OPTIONS if option.name != "cidfile"),
        Option(
            "format",
            metavar="FORMAT",
            choices=("table", "json"),
            default="table",
            help="table (default) or json",
            group="Plan",
        ),
    ),
    arguments=ARGUMENTS,
    interspersed=False,
    usage_status=125,
    details="""
Takes what 'lamina run' takes, and starts nothing: it prints the system calls that would make the container, one a
line, in order, as the start itself would carry them out.
""",
    examples="""
lamina plan host -- make install
lamina plan --network host --memory 512m host true | grep mount
""",
)


def do(args: Arguments) -> int:
    """Print the plan."""
    raise NotImplementedError
