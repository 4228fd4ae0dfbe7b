"""`lamina-runtime run`: create and start a container, and stay with it to its end."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Option, Verb
from lamina.errors import LaminaError
from lamina.runtime.container.creation import create
from lamina.runtime_cli.asked import root, warner
from lamina.runtime_cli.options import CREATION, HELP, ID
from lamina.runtime_cli.verbs.create import say_notes, wishes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.runtime.container.directory import Container

VERB = Verb(
    "run",
    (
        *CREATION,
        Option("detach", "d", help="Do not stay"),
        Option("keep", help="Keep the container's state when its process has ended"),
        Option("no-subreaper", help="Taken for runc's sake: what is orphaned is the container's own affair"),
        HELP,
    ),
    (ID,),
)


def do(args: Arguments) -> int:
    """Run it; the exit status of its process, or 0 with --detach."""
    if args.detach:
        return _leave(args)
    from lamina.runtime.container.whole import run
    from lamina.runtime_cli.attending import Attendance

    attendance = Attendance()

    def before(made: Container, pidfd: int) -> None:
        say_notes(args, made)
        attendance.catch_signals(pidfd)

    asked = wishes(args, console=None if args.console_socket else attendance.take)
    try:
        return run(
            root(args), args.id, asked, keep=args.keep, before=before, stay=attendance.stay, warn=warner(args)
        )
    finally:
        attendance.close()


def _leave(args: Arguments) -> int:
    from lamina.runtime.container.begin import start

    made = create(root(args), args.id, wishes(args))
    say_notes(args, made)
    try:
        failures = start(made)
    except BaseException as failure:
        from lamina.runtime.container.ending import delete

        try:
            delete(made, force=True)
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        raise
    for failed in failures:
        warner(args)(failed)
    return 0
