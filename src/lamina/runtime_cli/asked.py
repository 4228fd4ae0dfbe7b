"""What was asked for, as the runtime takes it."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput
from lamina.runtime.container.directory import Container, default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.argv.declare import Arguments


def root(args: Arguments) -> bytes:
    """`--root`, made absolute."""
    return os.path.abspath(os.fsencode(args.root)) if args.root else default_root()


def container(args: Arguments) -> Container:
    """The container that `ID` names. Raises NotFound, InvalidInput."""
    return Container.find(root(args), args.id)


def path(text: str | None) -> bytes:
    """A path of an option, made absolute; nothing where it was not given."""
    return os.path.abspath(os.fsencode(text)) if text else b""


def warner(args: Arguments) -> Callable[[str], None]:
    """Says what differs from what was asked. Most commands have nothing to say."""

    def warn(text: str) -> None:
        from lamina.runtime_cli import report

        report.warn(args, text)

    return warn


def preserved(args: Arguments, env: list[str]) -> int:
    """How many descriptors are passed on: `--preserve-fds`, and those of systemd's socket activation, of which *env* is
    told (sd_listen_fds(3)). Raises InvalidInput when one is not open.
    """
    from lamina.runtime.container.birth import check_preserved

    count = int(args.preserve_fds)
    activated = os.environ.get("LISTEN_FDS", "")
    if activated.isascii() and activated.isdigit() and int(activated):
        count += int(activated)
        env += [f"LISTEN_FDS={activated}", "LISTEN_PID=1"]
        if names := os.environ.get("LISTEN_FDNAMES"):
            env.append(f"LISTEN_FDNAMES={names}")
    if count > 1024:
        raise InvalidInput(f"pass {count} descriptors on: at most 1024 are possible")
    check_preserved(count)
    return count
