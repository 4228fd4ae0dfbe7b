"""`lamina-runtime create`: a container from a bundle, waiting for its start."""

from __future__ import annotations

from lamina.argv.declare import Arguments, Verb
from lamina.runtime.container.creation import Wishes, create
from lamina.runtime_cli.asked import path, preserved, root, warner
from lamina.runtime_cli.options import CREATION, HELP, ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.container.directory import Container

VERB = Verb("create", (*CREATION, HELP), (ID,))


def do(args: Arguments) -> int:
    """Create it; 0. What differs from what was asked is a warning."""
    say_notes(args, create(root(args), args.id, wishes(args)))
    return 0


def say_notes(args: Arguments, made: Container) -> None:
    """Warn of what differs from what was asked."""
    for note in made.notes:
        warner(args)(note)


def wishes(args: Arguments, **more: Any) -> Wishes:
    """The options of `create` and `run` as the runtime takes them."""
    env: list[str] = []
    count = preserved(args, env)
    return Wishes(
        bundle=path(args.bundle),
        pid_file=path(args.pid_file),
        console_socket=path(args.console_socket),
        pidfd_socket=path(args.pidfd_socket),
        preserve_fds=count,
        environment=tuple(env),
        no_pivot=args.no_pivot,
        no_new_keyring=args.no_new_keyring,
        systemd_cgroup=args.systemd_cgroup,
        init=args.init,
        warn=warner(args),
        **more,
    )
