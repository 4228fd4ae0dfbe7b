"""Descriptors: copied, locked, waited for, handed over. fcntl(2), flock(2), poll(2), socketpair(2), recvmsg(2).

The standard library has these in extension modules of their own (fcntl, select, _socket). Where Python was not built
with them inside, as it often is not, each is looked for and linked when it is imported: a tenth to a quarter of a
millisecond, of the twenty that a container takes. So the native extension has them, which a start needs anyway; where
it was not built, they are those of the standard library. All go on after a signal, unless its handler raises (PEP 475);
failures are OSErrors as the standard library's are. Numbers are the kernel's. `exchange` is here for the same reason,
though it takes names: renameat2(2). So is `locked`, which asks for the locks of many files with one call.
"""

from __future__ import annotations

import os
from errno import EINVAL, EMFILE

try:
    from lamina.linux._native import exchange, fcntl, flock, locked, poll, receive, socketpair
except ImportError as error:  # no compiler when the package was built: `lamina info` says so
    if "subinterpreters" in str(
        error
    ):  # as everything of C does, without which nothing goes; this is loaded first
        from lamina.errors import Unsupported

        raise Unsupported(
            f"load Lamina in an isolated subinterpreter: {error}",
            remedy="use it in the main interpreter, or in a process of its own",
        ) from None
    from lamina.linux._descriptors import exchange, fcntl, flock, locked, poll, receive, socketpair

__all__ = ["duplicate", "exchange", "fcntl", "flock", "locked", "poll", "receive", "socketpair"]

# asm-generic/fcntl.h, linux/fcntl.h
LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN = 1, 2, 4, 8
F_DUPFD_CLOEXEC, F_ADD_SEALS = 1030, 1033
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1, 2, 4, 8
# asm-generic/poll.h
POLLIN, POLLOUT, POLLERR, POLLHUP = 1, 4, 8, 16
# linux/net.h
SOCK_STREAM = 1


def duplicate(fd: int, lowest: int) -> int:
    """A copy of *fd*, close-on-exec, with the lowest free number from *lowest* on (F_DUPFD_CLOEXEC).

    Raises OSError: EMFILE also where the limit allows no number so high, which the kernel calls EINVAL. fcntl(2)
    """
    try:
        return fcntl(fd, F_DUPFD_CLOEXEC, lowest)
    except OSError as error:
        if error.errno != EINVAL:
            raise
    raise OSError(EMFILE, os.strerror(EMFILE))
