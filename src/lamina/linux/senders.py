"""Who sent what comes by a socket of this machine, as the kernel says it. unix(7), cmsg(3)."""

from __future__ import annotations

import _socket
import sys
from struct import Struct

from lamina.linux.fd import Fd
from lamina.values import value

# asm-generic/socket.h, linux/socket.h: since Linux 6.5
SO_PASSPIDFD, SCM_PIDFD = 76, 4
_CREDENTIALS = Struct("=3I")  # struct ucred: the sender's pid as the receiver sees it, uid, gid
_NUMBER = 4  # bytes of a descriptor


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


def have_told(end: _socket.socket, *, pidfd: bool = True) -> None:
    """Whoever receives at *end* is told who has sent it, from now on, also by a *pidfd*. Raises OSError."""
    end.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
    if not pidfd:
        return
    try:
        end.setsockopt(_socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    except OSError:
        pass  # an older kernel


def received(end: _socket.socket, size: int, most: int) -> Sent:
    """What comes next, at most *size* bytes and *most* descriptors: of one with more the sender is not known. Nothing
    where nobody is left to send anything. Raises OSError.
    """
    room = sum(_socket.CMSG_SPACE(length) for length in (most * _NUMBER, _CREDENTIALS.size, _NUMBER))
    data, ancillary, flags, _ = end.recvmsg(size, room, _socket.MSG_CMSG_CLOEXEC)
    descriptors: tuple[Fd, ...] = ()
    sender: tuple[int, int, int] | None = None
    pidfd: Fd | None = None
    gone = bool(flags & _socket.MSG_CTRUNC)  # what was to say it may be what is missing
    for level, kind, content in ancillary:
        if level != _socket.SOL_SOCKET:
            continue
        if kind == _socket.SCM_RIGHTS:
            ends = range(_NUMBER, len(content) + 1, _NUMBER)
            descriptors += tuple(
                Fd(int.from_bytes(content[end - _NUMBER : end], sys.byteorder)) for end in ends
            )
        elif kind == _socket.SCM_CREDENTIALS:
            sender = _CREDENTIALS.unpack(content)
        elif kind == SCM_PIDFD:
            number = int.from_bytes(content, sys.byteorder, signed=True)
            pidfd = Fd(number) if number >= 0 else None
            gone = gone or number < 0  # before 6.16 an errno where it has been waited for
    return Sent(data, descriptors, None if gone else sender, pidfd)
