"""What a client sends: the words, the environment, what its caller left open; then, with "go", these descriptors.

    u32 version, descriptors, words, variables, terminals, 0; u64 size      struct head of cli/warm_client.h
    i32 numbers[200]                                          what each descriptor is called
    bytes[size]                                               words, then variables, each ended by a zero

With "go" come the descriptors (SCM_RIGHTS, unix(7)), and after them that of the working directory.
"""

from __future__ import annotations

import select
import socket
import struct
from time import monotonic

from lamina.values import value

VERSION = 1
MOST_DESCRIPTORS = 200
HEAD = struct.Struct(f"=6IQ{MOST_DESCRIPTORS}i")
GO = b"g"
# seconds for a client to send it all: it has the whole in memory
PATIENCE = 2.0
# execve(2) takes a quarter of the limit of the stack, at most 6 MiB
MOST_BYTES = 8 << 20


@value
class Request:
    """One command. `numbers` says under which numbers it knows its descriptors; `terminals` are those of 0, 1 and 2
    that are terminals.
    """

    words: tuple[bytes, ...]
    variables: tuple[bytes, ...]
    numbers: tuple[int, ...]
    terminals: tuple[int, ...]


def receive(connection: socket.socket) -> Request | None:
    """The request on *connection*; None where the client went away, or sent something else. Raises OSError."""
    end = monotonic() + PATIENCE
    head = _all(connection, HEAD.size, end)
    if head is None:
        return None
    version, descriptors, words, variables, terminals, _, size, *numbers = HEAD.unpack(head)
    if version != VERSION or descriptors > MOST_DESCRIPTORS or size > MOST_BYTES:
        return None
    text = _all(connection, size, end)
    if text is None:
        return None
    strings = text.split(b"\0")
    known = numbers[:descriptors]
    if not words or len(strings) != words + variables + 1 or strings[-1]:
        return None
    if min(known, default=0) < 0 or len(set(known)) != len(known):
        return None
    return Request(
        tuple(strings[:words]),
        tuple(strings[words:-1]),
        tuple(known),
        tuple(number for number in range(3) if terminals >> number & 1),
    )


def told_to_go(connection: socket.socket, descriptors: int) -> list[int] | None:
    """What comes with "go": so many descriptors, and the working directory; None where the client went away.

    It is waited for as long as the client is there, who may be stopped: what it says has then been said, and it would
    not do the command itself.
    """
    said = select.poll()
    said.register(connection.fileno(), select.POLLIN)
    said.poll()
    size = socket.CMSG_SPACE((MOST_DESCRIPTORS + 1) * 4)
    word, control, flags, _ = connection.recvmsg(1, size, socket.MSG_CMSG_CLOEXEC)
    received = [
        number
        for level, kind, content in control
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (number,) in struct.iter_unpack("=i", content[: len(content) // 4 * 4])
    ]
    complete = not flags & socket.MSG_CTRUNC and len(received) == descriptors + 1
    return received if word == GO and complete else None


def _all(connection: socket.socket, size: int, end: float) -> bytes | None:
    pieces, missing = [], size
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
