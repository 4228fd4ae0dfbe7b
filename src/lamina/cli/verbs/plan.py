"""`lamina plan`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.options.run import ARGUMENTS, MORE, OPTIONS

VERB = Verb(
    name="plan",
    options=(
        *(
            option
            for option in OPTIONS
            if option.name not in ("attach", "cidfile", "pull", "layer-limit", "quiet")
        ),
        Option(
            "format",
            "",
            "FORMAT",
            "table (default) or json",
            "Plan",
            choices=("table", "json"),
            default="table",
        ),
    ),
    arguments=ARGUMENTS,
    interspersed=False,
    more=MORE,
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
    from lamina.cli import output
    from lamina.cli.asked import command, options
    from lamina.cli.pager import page
    from lamina.cli.style import Style
    from lamina.engine import Engine

    plan = Engine(args.root).plan(args.image, command(args), **options(args))
    if args.format == "json":
        output.json_document(plan.document())
    else:
        style = Style()
        page(_shown(line, style) for line in str(plan).splitlines())
    return 0


def _shown(line: str, style: object) -> str:
    """A step with its call's name and its comment told apart."""
    from lamina.cli.style import Style

    assert isinstance(style, Style)
    if not style.on:
        return line
    body, mark, note = line.partition("    # ")
    head, bracket, rest = body.partition("(")
    number, _, call = head.rpartition(" ")
    return f"{style('weak', number)} {style('name', call)}{bracket}{rest}{style('weak', mark + note)}"
