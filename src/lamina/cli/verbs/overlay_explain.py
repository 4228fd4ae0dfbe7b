"""`lamina overlay explain`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Verb
from lamina.cli.options import OUTPUT
from lamina.cli.options.overlay import EXPLAINED, STACK

VERB = Verb(
    name="overlay explain",
    options=(STACK, OUTPUT),
    arguments=(Argument("path", "PATH"),),
    details=f"""
PATH is a path in the merged tree; nothing needs to be mounted.

{EXPLAINED}""",
    examples="lamina overlay explain -o lowerdir=A:B,upperdir=C,workdir=worker etc/motd",
)


def do(args: Arguments) -> int:
    """Show each layer's answer from top to bottom, which wins, and why."""
    from lamina.cli import output
    from lamina.engine.stacks import read

    explanation = read(args.options).explain(args.path)
    if args.format == "json":
        output.json_document(explanation.as_dict())
    else:
        from lamina.cli.explaining import show

        show(explanation)
    return 0
