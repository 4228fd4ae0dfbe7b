"""`lamina overlay diff`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options.changes import SHOW
from lamina.cli.options.overlay import EXPLAINED, STACK

VERB = Verb(
    name="overlay diff",
    options=(STACK, *SHOW),
    details=f"""
Nothing needs to be mounted, and the cost grows with the upper directory, not with the lower ones.

{EXPLAINED}""",
    examples="lamina overlay diff -o lowerdir=A:B,upperdir=C,workdir=worker --stat",
)


def do(args: Arguments) -> int:
    """Show what the upper directory changed."""
    from lamina.cli.reviewing import forms, show
    from lamina.cli.usage import only_one
    from lamina.engine.stacks import changes, read
    from lamina.engine.textdiff import diff_changes

    only_one(VERB, forms(args))
    show(changes(read(args.options)), args, diff_changes)
    return 0
