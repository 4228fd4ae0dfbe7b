"""`lamina-runtime run`: create and start a container, and stay with it to its end."""

from __future__ import annotations

import os

from lamina.argv.declare import Arguments, Option, Verb
from lamina.errors import InvalidInput, LaminaError
from lamina.runtime.container.begin import start
from lamina.runtime.container.birth import reap
from lamina.runtime.container.create import create
from lamina.runtime.container.ending import delete
from lamina.runtime_cli.asked import root
from lamina.runtime_cli.options import CREATION, HELP, ID
from lamina.runtime_cli.verbs.create import say_notes, wishes

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
    attended = not args.detach and not args.console_socket
    from lamina.runtime_cli.attending import Attendance

    attendance = Attendance()
    made = create(root(args), args.id, wishes(args, console=attendance.take if attended else None))
    say_notes(args, made)
    try:
        if args.detach:
            start(made)
            return 0
        pid = made.record()["pid"]
        pidfd = os.pidfd_open(pid)
        attendance.catch_signals(pidfd)
        start(made)
        attendance.stay(pidfd)
        status = reap(pidfd)
    except BaseException as failure:
        attendance.close()
        try:
            delete(made, force=True)
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        raise
    attendance.close()
    if not args.keep:
        delete(made)
    if status is None:
        raise InvalidInput("run: somebody else has waited for the container")
    return status
