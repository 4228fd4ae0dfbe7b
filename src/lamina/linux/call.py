"""The one door: a system call by name, its failure as KernelError."""

from __future__ import annotations

import os

from lamina.errors import KernelError
from lamina.linux.fd import Fd, owned
from lamina.linux.numbers import number

TYPE_CHECKING = False
if TYPE_CHECKING:
    Argument = int | bytes | bytearray | memoryview | None
    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

try:
    from lamina.linux import _native as _door
except ImportError:  # no compiler when the package was built: `lamina info` says so
    from lamina.linux import _door  # type: ignore[no-redef]

_raw = _door.syscall


def syscall(name: str, *args: Argument, target: object = "") -> int:
    """Call *name* with *args* (at most six); returns what the kernel does.

    bytes are passed as a pointer to them (Python ends them with a NUL), a bytearray is an out buffer, None is NULL.
    Raises KernelError (an OSError) with the errno; *target* says on what, for the message: a path, words, or a tuple
    of these, or a function that makes it up; paths as bytes are decoded. Nothing is formatted unless the call fails.
    A signal may interrupt it (EINTR): whoever makes a call that blocks repeats it. The interpreter's lock is released
    meanwhile. syscall(2).
    """
    result: int = _raw(number(name), *args)
    if -4096 < result < 0:
        raise KernelError(name, -result, shown(target))
    return result


def opened(name: str, *args: Argument, target: object = "") -> Fd:
    """`syscall`, of one that gives a descriptor: it has an owner from the beginning (`fd.owned`)."""
    result = owned(_raw, number(name), *args)
    if result < 0:
        result.disown()
        raise KernelError(name, -result, shown(target))
    return result


def shown(target: object) -> str:
    """How a call's object appears in a message: paths decoded, tuples joined, functions called, the rest as str()."""
    if isinstance(target, tuple):
        return " ".join(filter(None, [shown(word) for word in target if word is not None]))
    if isinstance(target, bytes | os.PathLike):
        return os.fsdecode(target)
    if isinstance(target, int):
        return f"descriptor {int(target)}"
    return str(target() if callable(target) else target)


def encoded(path: Path) -> bytes:
    """*path* as the kernel takes it. Raises ValueError for one with a NUL inside, as Python's own functions do."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    return name
