"""`lamina merge`"""

from __future__ import annotations

from lamina.argv.declare import Argument, Arguments, Option, Verb
from lamina.cli.options.states import WITHOUT_COPY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.merging import Merge

VERB = Verb(
    name="merge",
    options=(
        Option("ours", "", help="Where both changed a path, keep what the parent has"),
        Option("theirs", "", help="Where both changed a path, take what the fork has (of several the last)"),
        Option(
            "prefer", "", "FORK", "Where both changed a path, take what this fork has", complete="container"
        ),
        Option("name", "", "NAME", "What the new state is called"),
        Option("message", "m", "TEXT", "What is said of it"),
        Option("dry-run", "n", help="Change nothing: print what would be taken, and what clashes"),
        WITHOUT_COPY,
    ),
    arguments=(
        Argument("parent", "PARENT", complete="container"),
        Argument("forks", "FORK", "+", complete="container"),
    ),
    details="""
Takes over what forks of a container did since they were forked: what one side alone changed is as that side has it.
What was there before stays, as a snapshot, and the forks stay as they are.

A path that both changed, and not in the same way, is a clash. Without --ours, --theirs or --prefer nothing is merged
then, and the paths are named. Files are taken as a whole: lines of texts are not merged. Times do not count.

--dry-run prints a line for each path, "take PATH FORK", or "clash PATH FORK" and who would be followed; the exit status
is 1 where something is still to be decided.""",
    examples="""
lamina merge --dry-run brave_otter try-1 try-2
lamina merge --prefer try-2 brave_otter try-1 try-2""",
)


def do(args: Arguments) -> int:
    """Merge, and print the id of the new state; or what would be done."""
    from lamina.cli import output
    from lamina.cli.report import say
    from lamina.cli.usage import UsageError
    from lamina.engine import Engine

    chosen = [word for word in ("ours", "theirs") if getattr(args, word)]
    if len(chosen) + (args.prefer is not None) > 1:
        raise UsageError(
            "--ours, --theirs and --prefer contradict each other", remedy="leave all but one out"
        )
    engine = Engine(args.root)
    parent = engine.container(args.parent)
    forks = [engine.container(fork) for fork in args.forks]
    prefer = chosen[0] if chosen else "" if args.prefer is None else engine.container(args.prefer).id
    done = parent.merge(
        forks,
        prefer=prefer,
        name=args.name,
        message=args.message or "",
        dry_run=args.dry_run,
        consistency=args.consistency,
    )
    if args.dry_run:
        return _said(done)
    if done.snapshot is None:
        say("there was nothing to take over")
        return 0
    output.line(done.snapshot.id)
    return 0


def _said(done: Merge) -> int:
    """What would be done, a line each."""
    import os

    from lamina.cli import output
    from lamina.cli.quoting import quote

    lines = [(path, f"take {quote(os.fsdecode(path))} {fork}") for path, fork in done.taken]
    for one in done.clashes:
        what = f"{one.theirs} there, {one.ours} {'in ' + one.other if one.other else 'here'}"
        line = f"clash {quote(os.fsdecode(one.path))} {one.fork} ({what}): {one.decided or 'undecided'}"
        lines.append((one.path, line))
    output.text("".join(f"{line}\n" for _, line in sorted(lines)))
    return 1 if any(not one.decided for one in done.clashes) else 0
