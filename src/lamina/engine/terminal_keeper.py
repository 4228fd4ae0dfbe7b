"""A program that has nothing but a terminal whose user went away, and reads what is written to it: so who writes there
is not kept waiting, and the terminal stays.
"""

from __future__ import annotations

import os

from lamina.linux.descriptors import duplicate
from lamina.linux.fd import Fd
from lamina.supervisor.interpreter import interpreter

# poll first: the file's flags are those of whoever served the terminal before
_KEEPER = """
import os, select
poll = select.poll()
poll.register(3, select.POLLIN)
os.chdir("/")
try:
    while poll.poll():
        try:
            if not os.read(3, 65536):
                break
        except BlockingIOError:
            pass
except OSError:
    pass
"""


def keep(pty: Fd) -> Fd:
    """Begin it for the terminal whose master *pty* is; a pidfd of it, which is a child of ours. Raises OSError."""
    # a number that is not overwritten while the new process's descriptors are put in order
    master, null = Fd(duplicate(pty, 10)), Fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    with master, null:
        actions = [(os.POSIX_SPAWN_DUP2, int(null), number) for number in (0, 1, 2)]
        keeper = os.posix_spawn(
            interpreter(),
            [interpreter(), "-I", "-S", "-c", _KEEPER],
            {},
            file_actions=[*actions, (os.POSIX_SPAWN_DUP2, int(master), 3)],
            setsid=True,
            setsigmask=(),
        )
    return Fd(os.pidfd_open(keeper))
