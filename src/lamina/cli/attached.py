"""Being attached to a container: what `attach`, `start -a` and `run -t` have in common."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.argv.declare import Arguments
    from lamina.engine import Container
    from lamina.engine.attaching import Attached, Wanted

BROKEN_PIPE = 141
OUTPUT = ("stdout", "stderr")


def wanted(*, stdin: bool, keys: str | None, proxy: bool, streams: Sequence[str] = OUTPUT) -> Wanted:
    """What is attached: our input with *stdin*, and of our output *streams*. Raises InvalidInput for keys that are
    none.
    """
    from lamina.engine.attaching import wanted as asked
    from lamina.values import replace

    stdout, stderr = (number if name in streams else -1 for number, name in enumerate(OUTPUT, 1))
    return replace(asked(0 if stdin else -1, keys, proxy=proxy), stdout=stdout, stderr=stderr)


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
    """`run` of what a supervisor is needed for: make it, start it with us attached, and stay; its exit status.

    Without any of its output (`-a stdin`) its id is printed, and the status is 0, as with docker.
    """
    from lamina.cli.detached import made

    streams = args.attach or ("stdin", *OUTPUT)
    stdin = bool(args.interactive and "stdin" in streams)
    asked = wanted(stdin=stdin, keys=args.detach_keys, proxy=args.sig_proxy, streams=streams)
    container = made(args, stdin_once=stdin)
    if any(name in streams for name in OUTPUT):
        return status_of(started(container, asked))
    from lamina.cli import output

    output.line(container.id)
    attached = started(container, asked)
    return status_of(attached) if attached.status is None else 0


def started(container: Container, asked: Wanted) -> Attached:
    """Start it attached, and say what is not as it could be."""
    from lamina.cli.asked import warn

    def tell(warnings: list[str]) -> None:
        for warning in warnings:
            warn(warning)

    return container.start_attached(asked, tell)
