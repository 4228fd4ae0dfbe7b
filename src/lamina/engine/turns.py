"""Whose turn it is to change who runs in a container: who adds a process shares it, who stops them all has it alone.

A lock on a file of its own (`joining` in the container's directory): the directory itself is locked for a few system
calls at a time by whoever changes a record (store/lock.py, `turn`).
"""

from __future__ import annotations

from lamina.store.containers import no_such
from lamina.store.lock import LOCK_EX, LOCK_SH, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.containers import Home
    from lamina.store.lock import Lock


def joining(home: Home) -> Lock:
    """For who has a process begin in it, or works below its root: it does not stand still meanwhile, nor is its root
    replaced. Waits; raises NotFound.
    """
    return _take(home, LOCK_SH)


def alone(home: Home) -> Lock:
    """For who stops all of its processes: none is being added meanwhile, and nobody else stops them or has them go on.
    Waits; raises NotFound.
    """
    return _take(home, LOCK_EX)


def _take(home: Home, how: int) -> Lock:
    try:
        lock = take(home.path + b"/joining", how, create=True)
    except (FileNotFoundError, NotADirectoryError):
        raise no_such(home.short_id) from None
    assert lock is not None  # it was waited for
    return lock
