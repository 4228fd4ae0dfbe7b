"""Sockets of processes that stand still: of which kind they are, and which name they are bound to.

A list of those of AF_UNIX is in /proc for each network namespace, as long as a thread is in it. Of others, the socket
itself is asked. Sources: unix(7), proc_net(5), xattr(7) (`system.` attributes of sockets: net/socket.c).
"""

from __future__ import annotations

import os
from errno import ENOENT, ENOTDIR, ESRCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable

GONE = (ENOENT, ESRCH, ENOTDIR)  # what is said of whom in /proc that has ended


def names_of(inodes: Container[bytes], places: Iterable[str]) -> dict[bytes, bytes]:
    """What each of the AF_UNIX sockets *inodes* is bound to, b"" for nothing, that is in the list of one of the threads
    *places* (in /proc). An abstract name begins with "@", and so may others. Raises OSError.
    """
    names: dict[bytes, bytes] = {}
    for place in places:
        try:
            with open(f"{place}/net/unix", "rb") as file:
                for line in file:
                    fields = line.rstrip(b"\n").split(None, 7)
                    if len(fields) > 6 and fields[6] in inodes:
                        names[fields[6]] = fields[7] if len(fields) > 7 else b""
        except OSError as error:
            if error.errno not in GONE:
                raise
    return names


def is_unix(link: str) -> bool:
    """Whether the socket that *link* of /proc leads to is of AF_UNIX; True where this kernel does not tell."""
    try:
        return os.getxattr(link, "system.sockprotoname").startswith(b"UNIX")
    except OSError as error:
        return error.errno not in GONE


def address(end: int) -> bytes:
    """What the socket *end* is bound to, b"" for nothing, and where it is not of AF_UNIX. An abstract name begins with
    a null byte. getsockname(2); raises OSError.
    """
    import _socket

    there = _socket.socket(fileno=os.dup(end))
    try:
        return os.fsencode(there.getsockname()) if there.family == _socket.AF_UNIX else b""
    finally:
        there.close()
