"""`lamina undo`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
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
    from lamina.cli.quoting import quote
    from lamina.cli.waiting import bar
    from lamina.engine import Engine

    container = Engine(args.root).container(args.name)
    with bar(f"undoing {container.name}") as progress:
        undone = container.undo(force=args.force, progress=progress)
    count = len(undone.paths)
    output.line(f"undone: {count:,} path{' is as it was' if count == 1 else 's are as they were'}")
    if undone.remaining:
        output.line(f"earlier applies that can be undone still: {undone.remaining}")
    if undone.forced:
        output.line(
            "overridden, although changed again since: " + ", ".join(quote(c.path) for c in undone.forced)
        )
    return 0
