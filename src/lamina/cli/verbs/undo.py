"""`lamina undo`"""

from __future__ import annotations

from lamina.cli.declare import Arguments, Option, Verb
from lamina.cli.options.changes import NAME

VERB = Verb(
    name="undo",
    options=(Option("force", "f", help="Also where this system was changed again since"),),
    arguments=(NAME,),
    details="""
Brings back what the newest apply of the container replaced or deleted, and removes what it added, with every
attribute as it was. Refuses, naming them all, if files were changed again since; --force overrides.
""",
    examples="lamina undo brave_otter",
)


def do(args: Arguments) -> int:
    """Take the newest apply back."""
    from lamina.cli import output
    from lamina.engine import Engine

    undone = Engine(args.root).container(args.name).undo(force=args.force)
    more = f"; {undone.remaining} earlier ones can be undone still" if undone.remaining else ""
    output.line(f"undone: {len(undone.paths):,} paths are as they were before apply {undone.number}{more}")
    return 0
