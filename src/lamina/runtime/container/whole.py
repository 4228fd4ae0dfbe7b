"""A container from its bundle to its end, by one caller who stays with it."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput, LaminaError
from lamina.linux.fd import Fd
from lamina.runtime.container.creation import create
from lamina.runtime.waits import reap
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.runtime.container.creation import Wishes
    from lamina.runtime.container.directory import Container


def run(
    root: bytes,
    identity: str,
    wishes: Wishes,
    *,
    keep: bool = False,
    before: Callable[[Container, int], None] | None = None,
    stay: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> int:
    """Create the container *identity* from a bundle, start it, wait for its end, delete it (unless *keep*).

    Its exit status, 128 + n after signal n. *before* its start the container and a pidfd of its first process are
    shown; *stay* returns when that has ended. *warn* is told what hooks failed at that stop nothing. Raises what
    `create` and `start` raise, and then nothing is left behind.
    """
    made = create(root, identity, replace(wishes, meanwhile=_load))
    from lamina.runtime.container.begin import start
    from lamina.runtime.container.ending import delete

    try:
        with Fd(os.pidfd_open(made.pid)) as pidfd:
            if before is not None:
                before(made, pidfd)
            _tell(start(made), warn)
            if stay is not None:
                stay(pidfd)
            status = reap(pidfd)
    except BaseException as failure:
        try:
            delete(made, force=True)
        except (OSError, LaminaError) as second:
            failure.add_note(f"while cleaning up: {second}")
        raise
    if not keep:
        _tell(delete(made), warn)
    if status is None:
        raise InvalidInput("run: somebody else has waited for the container")
    return status


def _tell(failures: tuple[str, ...], warn: Callable[[str], None] | None) -> None:
    if warn is not None:
        for failure in failures:
            warn(failure)


def _load() -> None:
    """What comes next is looked for while the new process furnishes itself."""
    from lamina.runtime.container import begin, ending  # noqa: F401
