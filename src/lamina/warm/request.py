"""What a client sends: the words, the environment, and every descriptor that its caller left open.

    u32 version, descriptors, words, variables; u64 size      struct head of cli/warm_client.h
    i32 numbers[200]                                          what each descriptor is called
    bytes[size]                                               words, then variables, each ended by a zero

With the first byte come the descriptors (SCM_RIGHTS, unix(7)), and after them that of the working directory.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from time import monotonic

from lamina.values import value

VERSION = 1
MOST_DESCRIPTORS = 200
HEAD = struct.Struct(f"=4IQ{MOST_DESCRIPTORS}i")
# seconds for a client to send it all: it has the whole in memory
PATIENCE = 5.0
# execve(2) takes a quarter of the limit of the stack, at most 6 MiB
MOST_BYTES = 8 << 20


@value
class Request:
    """One command. `numbers` says under which numbers the command knows `descriptors`; both, and `cwd`, are ours."""

    words: tuple[bytes, ...]
    variables: tuple[bytes, ...]
    numbers: tuple[int, ...]
    descriptors: tuple[int, ...]
    cwd: int

    def close(self) -> None:
        """Let go of what came with it."""
        for descriptor in (*self.descriptors, self.cwd):
            os.close(descriptor)


def receive(connection: socket.socket) -> Request | None:
    """The request on *connection*; None where the client went away, or sent something else. Raises OSError."""
    size = socket.CMSG_SPACE((MOST_DESCRIPTORS + 1) * 4)
    end = monotonic() + PATIENCE
    if not _readable(connection, end):
        return None
    data, control, flags, _ = connection.recvmsg(HEAD.size, size, socket.MSG_CMSG_CLOEXEC)
    received = [
        number
        for level, kind, content in control
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (number,) in struct.iter_unpack("=i", content[: len(content) // 4 * 4])
    ]
    request = None
    try:
        if not flags & socket.MSG_CTRUNC:
            request = _read(connection, data, received, end)
    finally:
        if request is None:
            for descriptor in received:
                os.close(descriptor)
    return request


def _read(connection: socket.socket, data: bytes, received: list[int], end: float) -> Request | None:
    head = _all(connection, data, HEAD.size, end)
    if head is None:
        return None
    version, descriptors, words, variables, size, *numbers = HEAD.unpack(head)
    if version != VERSION or len(received) != descriptors + 1 or size > MOST_BYTES:
        return None
    text = _all(connection, b"", size, end)
    if text is None:
        return None
    strings = text.split(b"\0")
    known = numbers[:descriptors]
    if (
        len(strings) != words + variables + 1
        or strings[-1]
        or min(known, default=0) < 0
        or len(set(known)) != len(known)
    ):
        return None
    return Request(
        tuple(strings[:words]), tuple(strings[words:-1]), tuple(known), tuple(received[:-1]), received[-1]
    )


def _all(connection: socket.socket, data: bytes, size: int, end: float) -> bytes | None:
    pieces, missing = [data], size - len(data)
    while missing > 0:
        piece = connection.recv(min(missing, 1 << 20)) if _readable(connection, end) else b""
        if not piece:
            return None
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _readable(connection: socket.socket, end: float) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(max(0.0, end - monotonic()) * 1000))
