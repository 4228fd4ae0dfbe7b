"""Whether other processes of this user may look at ours (PR_SET_DUMPABLE): a helper has to, at the namespaces of a
process that waits for it.

That process shares our memory, and the kernel notes with the memory that nobody may look: whenever a process that
shares it takes other ids than ours, as that of a container with ids of its own does. So does that of another thread, at
any moment: who is disturbed by it tries again.
"""

from __future__ import annotations

import os
from _thread import allocate_lock

from lamina.linux.constants import PR_GET_DUMPABLE, PR_SET_DUMPABLE
from lamina.linux.process import prctl

_lock = allocate_lock()
_users = 0  # threads that want it
_losses = 0  # how often it was taken away from them
_was_so = True  # before the first of them, and none was taken away since


def _begin_anew() -> None:
    global _lock, _users
    _lock, _users = allocate_lock(), 0


os.register_at_fork(after_in_child=_begin_anew)


class Traceable:
    """While it is open others may look, but for moments: see `was_lost`."""

    def __init__(self) -> None:
        self._losses = 0

    def __enter__(self) -> Traceable:
        global _users, _was_so
        with _lock:
            if not _users:
                _was_so = prctl(PR_GET_DUMPABLE) == 1
                if not _was_so:
                    prctl(PR_SET_DUMPABLE, 1)
            else:
                _take_back()
            _users += 1
            self._losses = _losses
        return self

    def __exit__(self, *_: object) -> None:
        global _users
        with _lock:
            _users -= 1
            if not _users and not _was_so:
                prctl(PR_SET_DUMPABLE, 0)  # before, it may have been what only the kernel sets (2)

    def was_lost(self) -> bool:
        """Whether nobody could look for a while, since this was asked last; now others may again."""
        with _lock:
            _take_back()
            before, self._losses = self._losses, _losses
            return before != _losses


def _take_back() -> None:
    global _losses, _was_so
    if prctl(PR_GET_DUMPABLE) != 1:
        prctl(PR_SET_DUMPABLE, 1)
        _losses += 1
        _was_so = False
