"""The modes of the built-in open(), for descriptors that were opened elsewhere."""

from __future__ import annotations

import io
import os
from stat import S_ISREG
from typing import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack
    from typing import IO, Any, BinaryIO

Text = Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt", "r+t", "w+t", "a+t", "x+t"]
Binary = Literal[
    "rb", "wb", "ab", "xb", "br", "bw", "ba", "bx", "rb+", "wb+", "ab+", "xb+", "r+b", "w+b", "a+b", "x+b"
]

_MADE = {"r": 0, "w": os.O_CREAT | os.O_TRUNC, "a": os.O_CREAT | os.O_APPEND, "x": os.O_CREAT | os.O_EXCL}
_ENDLESS = 64 << 20  # bytes of a file that says it has none (procfs)


def flags_of(mode: str) -> int:
    """The flags of open(2). Raises ValueError as open() does."""
    kind = [letter for letter in mode if letter in _MADE]
    if len(kind) != 1 or len({*mode}) != len(mode) or not {*mode} <= {*"rwaxbt+"} or {"b", "t"} <= {*mode}:
        raise ValueError(f"invalid mode: {mode!r}")
    way = os.O_RDWR if "+" in mode else os.O_RDONLY if kind == ["r"] else os.O_WRONLY
    return way | _MADE[kind[0]]


def writes(flags: int) -> bool:
    """Whether a file opened with these can be written to."""
    return flags & os.O_ACCMODE != os.O_RDONLY


class Raw(io.FileIO):
    """An open file that lets go of what it needs once it is closed."""

    def __init__(self, fd: int, mode: str, holding: ExitStack, name: str) -> None:
        self._holding = holding
        super().__init__(fd, mode)
        self.name = name  # the path in the container

    def close(self) -> None:
        """Close it; then what held its container."""
        try:
            super().close()
        finally:
            self._holding.close()


def wrapped(
    fd: int,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    holding: ExitStack,
    name: str,
) -> IO[Any]:
    """What open() would give for *mode*. *fd* and *holding* are its own from now on, also where it raises."""
    raw = Raw(fd, mode.replace("b", "").replace("t", ""), holding, name)
    try:
        return _layered(raw, mode, buffering, encoding, errors, newline)
    except BaseException:
        raw.close()
        raise


def _layered(
    raw: Raw, mode: str, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> IO[Any]:
    binary = "b" in mode
    if binary and not encoding is errors is newline is None:
        raise ValueError("binary mode doesn't take an encoding, errors or newline argument")
    if buffering == 0:
        if not binary:
            raise ValueError("can't have unbuffered text I/O")
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffered: io.BufferedRandom | io.BufferedReader | io.BufferedWriter
    if "+" in mode:
        buffered = io.BufferedRandom(raw, size)
    else:
        buffered = io.BufferedReader(raw, size) if raw.readable() else io.BufferedWriter(raw, size)
    if binary:
        return buffered
    text = io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
    text.mode = mode  # type: ignore[misc]
    return text


def content_of(file: BinaryIO) -> bytes:
    """What a raw file has, as far as it goes now. Raises OSError."""
    status = os.fstat(file.fileno())
    left = status.st_size if S_ISREG(status.st_mode) and status.st_size else _ENDLESS
    pieces = []
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
