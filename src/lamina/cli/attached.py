"""Being attached to a container: what `attach`, `start -a` and `run -t` have in common."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.argv.declare import Arguments
    from lamina.engine import Container
    from lamina.engine.attaching import Attached, Wanted

BROKEN_PIPE = 141


def wanted(*, stdin: bool, keys: str | None, proxy: bool) -> Wanted:
    """What is attached: our streams, of input only with *stdin*. Raises InvalidInput for keys that are none."""
    from lamina.engine.attaching import wanted as asked

    return asked(0 if stdin else -1, keys, proxy=proxy)


def status_of(attached: Attached) -> int:
    """The exit status of a command that was attached. A signal that was not for the container ends us."""
    if attached.signal:
        import signal

        signal.signal(attached.signal, signal.SIG_DFL)
        os.kill(os.getpid(), attached.signal)
    if attached.broken:
        return BROKEN_PIPE
    return attached.status or 0


def run_attached(args: Arguments) -> int:
    """`run` of what a supervisor is needed for: make it, start it with us attached, and stay; its exit status."""
    from lamina.cli.detached import made

    asked = wanted(stdin=args.interactive, keys=args.detach_keys, proxy=args.sig_proxy)
    return status_of(started(made(args, stdin_once=args.interactive), asked))


def started(container: Container, asked: Wanted) -> Attached:
    """Start it attached, and say what is not as it could be."""
    from lamina.cli.asked import warn

    def tell(warnings: list[str]) -> None:
        for warning in warnings:
            warn(warning)

    return container.start_attached(asked, tell)
