"""Where a saved image goes: a tar archive that is streamed, or a directory. Same content, same bytes."""

from __future__ import annotations

import os
from errno import EIO
from typing import TYPE_CHECKING

from lamina.errors import Conflict, KernelError, LaminaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Out(Protocol):
        """What content is written to."""

        def write(self, data: bytes, /) -> object:
            """Takes all of *data*."""

    Fill = Callable[[Out], object]

    class Target(Protocol):
        """Takes named pieces of content, each once. Names are relative and made by us."""

        def put(self, name: str, size: int, fill: Fill) -> None:
            """Write the *size* bytes that *fill* writes. Raises KernelError, LaminaError if they are not so many."""

        def finish(self) -> None:
            """Nothing more comes."""


BLOCK = 512
_OCTAL = 8 << 30  # sizes from here on do not fit into eleven octal digits


def header(name: str, size: int, kind: bytes = b"0", mode: int = 0o644) -> bytes:
    """One header of a ustar archive: without a time, an owner or a name of one. Names are short: no prefix."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise LaminaError(f"write archive: the name {name!r} is longer than a header holds")
    octal = b"%011o\0" % size if size < _OCTAL else b"\x80" + size.to_bytes(11, "big")  # as GNU tar has it
    fields = (
        encoded.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, octal, b"%011o\0" % 0, b" " * 8,
        kind, b"\0" * 100, b"ustar\x0000", b"\0" * 64, b"%07o\0" % 0, b"%07o\0" % 0, b"\0" * 167,
    )  # fmt: skip
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


class Tar:
    """A tar archive written to a descriptor, which stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._directories: set[str] = set()

    def put(self, name: str, size: int, fill: Fill) -> None:
        """See Target. Directories on the way come first."""
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            directory = "/".join(parts[:count]) + "/"
            if directory not in self._directories:
                self._directories.add(directory)
                _write(self._fd, header(directory, 0, b"5", 0o755), "archive")
        _write(self._fd, header(name, size), "archive")
        Counted(name, size, self._fd).take(fill)
        _write(self._fd, b"\0" * (-size % BLOCK), "archive")

    def finish(self) -> None:
        """Two blocks of zeros end an archive."""
        _write(self._fd, b"\0" * (2 * BLOCK), "archive")


class Layout:
    """An OCI layout as a directory, which must be new or empty."""

    def __init__(self, path: str) -> None:
        try:
            os.makedirs(path, 0o755, exist_ok=True)
            if os.listdir(path):
                raise Conflict(
                    f"save to {path}: the directory is not empty", remedy="name one that is not there yet"
                )
        except OSError as error:
            raise KernelError("save to", error.errno or EIO, path) from error
        self._path = path

    def put(self, name: str, size: int, fill: Fill) -> None:
        """See Target."""
        path = os.path.join(self._path, name)
        try:
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise KernelError("write", error.errno or EIO, path) from error
        try:
            Counted(name, size, fd).take(fill)
        finally:
            os.close(fd)

    def finish(self) -> None:
        """Nothing is left to be done."""


class Counted:
    """Takes what is written for one member, and no more than was said."""

    def __init__(self, name: str, size: int, descriptor: int) -> None:
        self._name, self._size, self._fd = name, size, descriptor
        self._count = 0

    def write(self, data: bytes, /) -> None:
        """Write all of *data*. Raises KernelError, LaminaError."""
        self._count += len(data)
        if self._count > self._size:
            raise LaminaError(f"write {self._name}: more than the {self._size} bytes that it should have")
        _write(self._fd, data, self._name)

    def take(self, fill: Fill) -> None:
        """Let *fill* write all of it. Raises LaminaError where it writes less."""
        fill(self)
        if self._count != self._size:
            raise LaminaError(
                f"write {self._name}: {self._size - self._count} of its {self._size} bytes are missing"
            )


def _write(fd: int, data: bytes, what: str) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise KernelError("write", error.errno or EIO, what) from error
