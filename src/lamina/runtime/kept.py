"""Results kept by what they were made from, so that a start reads one small file and imports no compiler.

A file holds the content that its result was made from, and is used only if that is, to the byte, what is asked for: the
number in the file's name need not be a cryptographic hash (importing one takes longer than the rest of this). A file
that is not ours, is writable for others, or is damaged is as good as none; a directory that cannot be written, or that
others may write to, costs time, not correctness.

    <directory>/                   0700, made here; ours, and no link
    └── <hash of the content>.bpf  0600: head, content, result; staged and renamed
"""

from __future__ import annotations

import os
import stat
from errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"lamina kept 1   "
NUMBER = 16  # bytes of each: the content's length, the result's length, the checksum
HEAD = len(MAGIC) + 3 * NUMBER
LARGEST = 1 << 20
KEPT = 64  # files; the oldest go
# an identity is 64 digits, and its first 12 stand for it where people read it: names and paths have no such bytes
LENGTH, SHORT = 64, 12
MARK = (b"\1identity\1\2\3" * 6)[:LENGTH]

_HERE = os.path.dirname(__file__)
# every module of ours that the compiler of plans executes; a test compares
COMPILER = tuple(
    os.path.normpath(os.path.join(_HERE, path))
    for path in [
        "bundle.py",
        "command.py",
        "destinations.py",
        "init/__init__.py",
        "plan/__init__.py",
        "plan/cgroup_mounts.py",
        "plan/devices.py",
        "plan/identity.py",
        "plan/labels.py",
        "plan/masks.py",
        "plan/mounts.py",
        "plan/namespaces.py",
        "plan/options.py",
        "plan/paths.py",
        "plan/process.py",
        "plan/procfs.py",
        "plan/rootfs.py",
        "plan/scheduling.py",
        "plan/stage.py",
        "plan/sysctl.py",
        "plan/waits.py",
        "waits.py",
        "template.py",
        "kept.py",
        "../linux/capabilities.py",
        "../linux/constants.py",
        "../linux/mount_options.py",
        "../linux/numbers.py",
        "../linux/packed.py",
        "../linux/program.py",
        "../overlay/spec.py",
        "../overlay/steps.py",
        "../values.py",
        "../errors.py",
    ]
)
# the same of the compiler of filters, and the tables that it reads
FILTERS = tuple(
    os.path.normpath(os.path.join(_HERE, "seccomp", name))
    for name in (
        "compiler.py",
        "assembler.py",
        "rules.py",
        "words.py",
        "architectures.py",
        "profile.py",
        "syscalls.txt",
        "default.json",
        "../../linux/constants.py",
    )
)

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
    name = b"%016x" % _hash(content) + suffix
    found = _read(directory, name, content)
    if found is not None and valid(found):
        return found
    made = make()
    try:
        if made and HEAD + len(content) + len(made) <= LARGEST:
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
    """A number that says whether bytes are the same as before, not whether somebody wanted them to look so. The same in
    every process, as the hash of a number is and that of bytes is not: what it leaves when divided by a prime
    (sys.hash_info.modulus), which takes half of the time that `%` does.
    """
    return hash(int.from_bytes(data, "little"))


def _own(directory: bytes) -> int:
    """The directory, opened. Raises OSError where it is missing, somebody else's, or writable for others: who can put
    files there could have others removed, or have our own ones found where they do not belong.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise PermissionError(EPERM, "somebody else may write there", os.fsdecode(directory))
    return fd


def _read(directory: bytes, name: bytes, content: bytes) -> bytes | None:
    fd = -1
    try:
        place = _own(directory)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=place)
        finally:
            os.close(place)
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
        if fd >= 0:
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
    staged = b".%d.%d.%s" % (os.getpid(), id(body), name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    place = _own(directory)
    try:
        fd = os.open(staged, flags, 0o600, dir_fd=place)
        try:
            try:
                view = memoryview(MAGIC + head + body)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(staged, name, src_dir_fd=place, dst_dir_fd=place)
        except OSError:
            os.unlink(staged, dir_fd=place)
            raise
        _prune(place)
    finally:
        os.close(place)


def _prune(place: int) -> None:
    """Drop the oldest files, and what writers that were killed have left; a reader only loses time."""
    with os.scandir(place) as entries:
        files = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries)
    for _, name in files[:-KEPT]:
        os.unlink(name, dir_fd=place)
