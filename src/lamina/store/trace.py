"""Named steps of the store, at which a test can stop the process or let the step fail.

    LAMINA_STORE_TRACE=log:/tmp/steps          appends the name of every step to that file
    LAMINA_STORE_TRACE=kill:17                 kills this process (SIGKILL) before the 17th step
    LAMINA_STORE_TRACE=signal:17:15            sends this process signal 15 (SIGTERM) before the 17th step
    LAMINA_STORE_TRACE=fail:17:28              the 17th step fails with errno 28 (ENOSPC)
    LAMINA_STORE_TRACE=fail:17+:28             as do all that follow: a disk that stays full

The variable is read when this module is imported, and by `watch`. Without it `point` does nothing. Every call that
changes what is on the disk has a point before it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "LAMINA_STORE_TRACE"
SIGKILL = 9

# tests in the same process set it; None: nobody watches
hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """The step *name* comes next. Raises OSError where a test wants it to fail."""
    if hook is not None:
        hook(name)


def parse(text: str) -> Callable[[str], None]:
    """The hook that *text* describes. Raises ValueError."""
    what, _, rest = text.partition(":")
    if what == "log":
        return _logger(rest)
    if what == "kill":
        return _killer(int(rest))
    if what == "signal":
        number, _, signal = rest.partition(":")
        return _killer(int(number), int(signal))
    if what == "fail":
        number, _, errno = rest.partition(":")
        return _failer(int(number.rstrip("+")), int(errno), number.endswith("+"))
    raise ValueError(f"{VARIABLE}={text}: not log:, kill:, signal: or fail:")


def _logger(path: str) -> Callable[[str], None]:
    def log(name: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, name.encode() + b"\n")
        finally:
            os.close(descriptor)

    return log


def _killer(number: int, signal: int = SIGKILL) -> Callable[[str], None]:
    left = number

    def kill(name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal)

    return kill


def _failer(number: int, errno: int, for_ever: bool) -> Callable[[str], None]:
    left = number

    def fail(name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0 or (left < 0 and for_ever):
            raise OSError(errno, f"{os.strerror(errno)} (asked for at {name})")

    return fail


def watch() -> None:
    """Do what the variable says."""
    global hook
    asked = os.environ.get(VARIABLE)
    hook = None if asked is None else parse(asked)


watch()
