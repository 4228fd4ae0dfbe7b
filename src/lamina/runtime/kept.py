"""Results kept by what they were made from, so that a start reads one small file and imports no compiler.

A file holds the content that its result was made from, and is used only if that is, to the byte, what is asked for: the
number in the file's name need not be a cryptographic hash (importing one takes longer than the rest of this). A file
that is not ours, is writable for others, or is damaged is as good as none; a directory that cannot be written costs
time, not correctness.

    <directory>/                   0700, made here
    └── <hash of the content>.bpf  0600: head, content, result; staged and renamed
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"lamina kept 1   "
NUMBER = 16  # bytes of each: the content's length, the result's length, the checksum
HEAD = len(MAGIC) + 3 * NUMBER
LARGEST = 1 << 20
PRIME = (1 << 128) - 159  # the largest below 2**128
KEPT = 64  # files; the oldest go

_states: dict[tuple[str, ...], tuple[tuple[int, int], ...]] = {}


def kept(
    content: bytes,
    directory: bytes,
    suffix: bytes,
    make: Callable[[], bytes],
    valid: Callable[[bytes], bool] = bool,
) -> bytes:
    """What *make* makes from *content*, or made before. A result that is not *valid* counts as none; an empty one is
    not kept.
    """
    name = b"%032x" % _hash(content) + suffix
    found = _read(directory, name, content)
    if found is not None and valid(found):
        return found
    made = make()
    try:
        if made:
            _write(directory, name, content, made)
    except OSError:
        pass
    return made


def state_of(*paths: str) -> tuple[tuple[int, int], ...]:
    """Size and time of change of source files, as part of the content of what they compile. They are looked at once:
    what was imported does not change either.
    """
    if paths not in _states:
        _states[paths] = tuple(_state(path) for path in paths)
    return _states[paths]


def _state(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:  # only compiled sources are installed
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _hash(data: bytes) -> int:
    """A number that says whether bytes are the same as before, not whether somebody wanted them to look so."""
    return int.from_bytes(data, "little") % PRIME


def _read(directory: bytes, name: bytes, content: bytes) -> bytes | None:
    try:
        fd = os.open(
            os.path.join(directory, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if (
            not stat.S_ISREG(found.st_mode)
            or found.st_uid != os.geteuid()
            or found.st_mode & 0o022
            or found.st_size > LARGEST
        ):
            return None
        data = os.read(fd, found.st_size)
    except OSError:
        return None
    finally:
        os.close(fd)
    return _unpack(data, content)


def _unpack(data: bytes, content: bytes) -> bytes | None:
    lengths = [int.from_bytes(data[at : at + NUMBER], "little") for at in range(len(MAGIC), HEAD, NUMBER)]
    body = data[HEAD:]
    if data[: len(MAGIC)] != MAGIC or len(data) < HEAD or len(body) != lengths[0] + lengths[1]:
        return None
    if body[: lengths[0]] != content or lengths[2] != _hash(body):
        return None
    return body[lengths[0] :]


def _write(directory: bytes, name: bytes, content: bytes, result: bytes) -> None:
    os.makedirs(directory, 0o700, exist_ok=True)
    body = content + result
    head = b"".join(n.to_bytes(NUMBER, "little") for n in (len(content), len(result), _hash(body)))
    staged = os.path.join(directory, b".%d.%d.%s" % (os.getpid(), id(body), name))
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(MAGIC + head + body)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(staged, os.path.join(directory, name))
    except OSError:
        os.unlink(staged)
        raise
    _prune(directory)


def _prune(directory: bytes) -> None:
    """Drop the oldest files, and what writers that were killed have left; a reader only loses time."""
    with os.scandir(directory) as entries:
        files = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries)
    for _, path in files[:-KEPT]:
        os.unlink(path)
