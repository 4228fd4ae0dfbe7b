"""Sockets of this machine (AF_UNIX), and messages by them with descriptors and with who sent them. unix(7), cmsg(3),
socket(2), bind(2), connect(2), sendmsg(2), recvmsg(2), setsockopt(2).

Every container takes some, and the standard library's come with an extension module that has to be found and linked,
and makes a thousand names: a third of a millisecond. So the native extension has them, as it has the calls of
lamina/linux/descriptors.py; where it was not built, they are the standard library's. What is made is close-on-exec. All
go on after a signal, unless its handler raises (PEP 475); failures are OSErrors.
"""

from __future__ import annotations

from lamina.linux.descriptors import socketpair

try:
    from lamina.linux._native import bound, connected, message, send, set_option
except ImportError:  # see descriptors
    from lamina.linux._messages import bound, connected, message, send, set_option

__all__ = ["bound", "connected", "message", "send", "set_option", "socketpair"]

# linux/net.h
SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET = 1, 2, 5
# linux/socket.h
MSG_DONTWAIT = 0x40
# asm-generic/socket.h; SO_PASSPIDFD since Linux 6.5
SO_PASSCRED, SO_PASSPIDFD = 16, 76
