"""Sockets of this machine (AF_UNIX), and messages by them with descriptors and with who sent them. unix(7), cmsg(3),
socket(2), bind(2), connect(2), sendmsg(2), recvmsg(2), setsockopt(2).

Every container takes some, and the standard library's come with an extension module that has to be found and linked,
and makes a thousand names: a third of a millisecond. So the native extension has them, as it has the calls of
lamina/linux/descriptors.py; where it was not built, they are the standard library's. What is made is close-on-exec. All
go on after a signal, unless its handler raises (PEP 475); failures are OSErrors.
"""

from __future__ import annotations

from lamina.linux.descriptors import socketpair
from lamina.linux.fd import Fd
from lamina.values import value

try:
    from lamina.linux._native import bound, connected, message, send, set_option
except ImportError:  # see descriptors
    from lamina.linux._messages import bound, connected, message, send, set_option

__all__ = [
    "Sent",
    "bound",
    "connected",
    "have_told",
    "message",
    "received",
    "send",
    "set_option",
    "socketpair",
]

# linux/net.h
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
# linux/socket.h
MSG_DONTWAIT = 0x40
# asm-generic/socket.h; SO_PASSPIDFD since Linux 6.5
SO_PASSCRED, SO_PASSPIDFD = 16, 76


@value
class Sent:
    """One piece of what came: `data`, and the descriptors that came with it. `sender` is (pid, uid, gid) at that time,
    which may have ended since, or have other rights by now; None where it is not known. `pidfd` is that process
    whatever becomes of its pid; None before Linux 6.5.
    """

    data: bytes
    descriptors: tuple[Fd, ...]
    sender: tuple[int, int, int] | None
    pidfd: Fd | None


def have_told(end: int, *, pidfd: bool = True) -> None:
    """Whoever receives at *end* is told who has sent it, from now on, also by a *pidfd*. Raises OSError."""
    set_option(end, SO_PASSCRED, 1)
    if not pidfd:
        return
    try:
        set_option(end, SO_PASSPIDFD, 1)
    except OSError:
        pass  # an older kernel


def received(end: int, size: int, most: int, flags: int = 0) -> Sent:
    """What comes next, at most *size* bytes and *most* descriptors: of one with more the sender is not known. Nothing
    where nobody is left to send anything. *flags* are those of recvmsg(2). Raises OSError.
    """
    data, rights, credentials, told, missing = message(end, size, most, flags)
    descriptors = tuple(map(Fd, rights or ()))
    # before 6.16 an errno where it has been waited for
    pidfd = Fd(told[0]) if told and told[0] >= 0 else None
    # what was to say who it was may be what is missing
    if missing or credentials is None or (told and pidfd is None):
        return Sent(data, descriptors, None, pidfd)
    pid, uid, gid = credentials
    return Sent(data, descriptors, (pid, uid % (1 << 32), gid % (1 << 32)), pidfd)
