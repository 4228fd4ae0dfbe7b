"""What lamina/linux/descriptors.py has, by the standard library: for where the native extension was not built."""

from __future__ import annotations

import _socket
import os
import select
from fcntl import LOCK_NB, LOCK_SH, LOCK_UN, fcntl, flock

__all__ = ["exchange", "fcntl", "flock", "locked", "poll", "receive", "socketpair"]


def patient(end: _socket.socket, blocks: bool = True) -> _socket.socket:
    """*end*, which was made just now. How long a program's sockets wait where nothing else is said, by
    socket.setdefaulttimeout(), is not for ours: these wait, or do not (*blocks*), as the kernel has it.
    """
    if _socket.getdefaulttimeout() is not None:
        end.setblocking(blocks)
    return end


def exchange(one: bytes, other: bytes, /) -> None:
    """As _native.exchange."""
    from lamina.linux.constants import AT_FDCWD, RENAME_EXCHANGE
    from lamina.linux.files import renameat2

    renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE)


def locked(directory: int, names: list[bytes], file: bytes, /) -> list[bool | None]:
    """As _native.locked."""
    return [_is_locked(directory, name + b"/" + file) for name in names]


def _is_locked(directory: int, path: bytes) -> bool | None:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        flock(lock, LOCK_SH | LOCK_NB)
        flock(lock, LOCK_UN)  # closing alone does not, while a child that was forked just now has a copy
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def poll(wanted: list[tuple[int, int]], milliseconds: int, /) -> list[tuple[int, int]]:
    """As _native.poll."""
    polling = select.poll()
    for fd, events in wanted:
        polling.register(fd, events)
    return polling.poll(None if milliseconds < 0 else milliseconds)


def receive(fd: int, most: int, /) -> tuple[list[int], bool]:
    """As _native.receive."""
    blocks = os.get_blocking(fd)
    channel = patient(_socket.socket(fileno=os.dup(fd)), blocks)
    try:
        _, parts, flags, _ = channel.recvmsg(1, _socket.CMSG_SPACE(4 * most), _socket.MSG_CMSG_CLOEXEC)
    finally:
        channel.close()
    received = [
        number
        for level, kind, data in parts
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for number in memoryview(data).cast("i")
    ]
    return received, bool(flags & _socket.MSG_CTRUNC)


def socketpair(type: int, /) -> tuple[int, int]:
    """As _native.socketpair."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, type | _socket.SOCK_CLOEXEC, 0)
    return patient(ours).detach(), patient(theirs).detach()
