"""`lamina apply`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.changes import EXCLUDE, PATHS, PATHS_EXPLAINED

VERB = Verb(
    name="apply",
    options=(
        EXCLUDE,
        Option(
            "force", "f", help="Also where this system was changed since the container started", group="How"
        ),
        Option("dry-run", "n", help="Only say what would be done, and what stands against it", group="How"),
    ),
    arguments=(Argument("name", "CONTAINER[@SNAPSHOT]", complete="container@"), PATHS),
    details=f"""
All or nothing: the new files are written out beside their places first, then each takes its place by one rename. What
was there is kept, and 'lamina undo' brings it back. Files that this system changed since the container started are
refused, all of them named; --force overrides. Of CONTAINER@SNAPSHOT that is applied which the container had done when
the snapshot was made; undo is the container's.

{PATHS_EXPLAINED}""",
    examples="""
lamina apply brave_otter
lamina apply brave_otter /etc --exclude /etc/shadow
lamina apply --dry-run brave_otter && lamina apply brave_otter
lamina apply brave_otter@before-cleaning
""",
)


def do(args: Arguments) -> int:
    """Carry the changes out."""
    from lamina.cli import output
    from lamina.cli.applying import apply, outcome, rehearse
    from lamina.cli.here import absolute
    from lamina.cli.style import Style
    from lamina.engine import Engine
    from lamina.engine.state_names import SEPARATOR, find_state

    container = find_state(Engine(args.root).store, args.name)
    paths, exclude = absolute(args.paths), absolute(args.exclude)
    if args.dry_run:
        return rehearse(container, paths, exclude, args.force)
    applied = apply(container, paths, exclude, args.force)
    for line in outcome(applied, args.name.partition(SEPARATOR)[0], Style()):
        output.line(line)
    return 0
