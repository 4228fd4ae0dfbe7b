"""`lamina apply`"""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.cli.options.changes import EXCLUDE, NAME, PATHS, PATHS_EXPLAINED

VERB = Verb(
    name="apply",
    options=(
        EXCLUDE,
        Option(
            "force", "f", help="Also where this system was changed since the container started", group="How"
        ),
        Option("dry-run", "n", help="Only say what would be done, and what stands against it", group="How"),
    ),
    arguments=(NAME, PATHS),
    details=f"""
All or nothing: the new files are written out beside their places first, then each takes its place by one rename. What
was there is kept, and 'lamina undo' brings it back. Files that this system changed since the container started are
refused, all of them named; --force overrides.

{PATHS_EXPLAINED}""",
    examples="""
lamina apply brave_otter
lamina apply brave_otter /etc --exclude /etc/shadow
lamina apply --dry-run brave_otter && lamina apply brave_otter
""",
)


def do(args: Arguments) -> int:
    """Carry the changes out."""
    from lamina.cli import output
    from lamina.cli.applying import apply, outcome, rehearse
    from lamina.cli.here import absolute
    from lamina.cli.style import Style
    from lamina.engine import Engine

    container = Engine(args.root).container(args.name)
    paths, exclude = absolute(args.paths), absolute(args.exclude)
    if args.dry_run:
        return rehearse(container, paths, exclude, args.force)
    applied = apply(container, paths, exclude, args.force)
    for line in outcome(applied, args.name, Style()):
        output.line(line)
    return 0
