"""`lamina diff`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.cli.options.changes import EXCLUDE, NAME, PATHS, PATHS_EXPLAINED, SHOW

VERB = Verb(
    name="diff",
    options=(*SHOW, EXCLUDE),
    arguments=(NAME, PATHS),
    details=f"""
A line for each file that would be added (A), changed (C), deleted (D) or replaced by another kind of file (R).
Directories in which something came or went, and nothing else, have none.

{PATHS_EXPLAINED}""",
    examples="""
lamina diff brave_otter
lamina diff --stat brave_otter /etc
lamina diff -p brave_otter '/home/**/*.conf'
lamina diff --format json brave_otter | jq -r '.[] | select(.kind == "deleted").path'
""",
)


def do(args: Arguments) -> int:
    """Show the changes the container made."""
    from lamina.cli.here import absolute
    from lamina.cli.reviewing import forms, show
    from lamina.cli.usage import only_one
    from lamina.engine import Engine

    only_one(VERB, forms(args))
    container = Engine(args.root).container(args.name)
    show(container.changes(absolute(args.paths), absolute(args.exclude)), args, container.patch)
    return 0
