"""What lamina/linux/messages.py has, by the standard library: for where the native extension was not built."""

from __future__ import annotations

import _socket
import os
from errno import ENOTCONN
from operator import index

from lamina.linux._descriptors import patient

__all__ = ["bound", "connected", "message", "send", "set_option"]

# linux/socket.h, since Linux 6.5
SCM_PIDFD = 4
_NUMBER, _CREDENTIALS = 4, 12  # bytes of a descriptor, and of struct ucred
_LONGEST = 107
_MOST_RIGHTS = 64


def bound(type: int, path: bytes, /) -> int:
    """As _native.bound."""
    return _made(type, path, _socket.socket.bind)


def connected(type: int, path: bytes, /) -> int:
    """As _native.connected."""
    return _made(type, path, _connect)


def _connect(end: _socket.socket, path: bytes) -> None:
    while True:
        end.connect(path)
        try:
            end.getpeername()
            return
        except OSError as error:
            # after a signal the standard library takes a socket that can be written to for one that is connected, which
            # holds for those of networks
            if error.errno != ENOTCONN:
                raise


def _made(type: int, path: bytes, call: object) -> int:
    if not path or len(path) > _LONGEST or b"\0" in path:
        raise ValueError("the path of a socket has 1 to 107 bytes, and no null")
    end = patient(_socket.socket(_socket.AF_UNIX, type | _socket.SOCK_CLOEXEC))
    try:
        call(end, path)  # type: ignore[operator]
        return end.detach()
    except BaseException:
        end.close()
        raise


def _known(fd: int) -> _socket.socket:
    """The socket that *fd* is; to be detached, for it is the caller's."""
    blocks = os.get_blocking(fd)
    return patient(_socket.socket(fileno=fd), blocks)


def set_option(fd: int, option: int, number: int, /) -> None:
    """As _native.set_option."""
    end = _known(fd)
    try:
        end.setsockopt(_socket.SOL_SOCKET, option, number)
    finally:
        end.detach()


def send(fd: int, data: bytes | bytearray | memoryview, descriptors: tuple[int, ...] = (), /) -> int:
    """As _native.send."""
    if len(descriptors) > _MOST_RIGHTS:
        raise ValueError("send takes at most 64 descriptors")
    rights = b"".join(index(one).to_bytes(_NUMBER, "little", signed=True) for one in descriptors)
    beside = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else []
    end = _known(fd)
    try:
        return end.sendmsg([data], beside, _socket.MSG_NOSIGNAL)
    finally:
        end.detach()


def message(
    fd: int, size: int, most: int, flags: int = 0, /
) -> tuple[bytes, tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None, bool]:
    """As _native.message."""
    if size < 0 or not 0 <= most <= _MOST_RIGHTS:
        raise ValueError("message takes a size, and 0 to 64 descriptors")
    lengths = (most * _NUMBER, _CREDENTIALS, _NUMBER)
    room = sum(_socket.CMSG_SPACE(length) for length in lengths if length)
    end = _known(fd)
    try:
        data, parts, told, _ = end.recvmsg(size, room, flags | _socket.MSG_CMSG_CLOEXEC)
    finally:
        end.detach()
    kinds = (_socket.SCM_RIGHTS, _socket.SCM_CREDENTIALS, SCM_PIDFD)
    found = {
        kind: tuple(memoryview(content).cast("i"))
        for level, kind, content in parts
        if level == _socket.SOL_SOCKET and kind in kinds
    }
    rights, credentials, pidfd = map(found.get, kinds)
    missing = bool(told & _socket.MSG_CTRUNC)
    if rights is not None and len(rights) > most:  # the kernel filled the room of what did not come with them
        for one in rights[most:]:
            os.close(one)
        rights, missing = rights[:most], True
    return data, rights, credentials, pidfd, missing
