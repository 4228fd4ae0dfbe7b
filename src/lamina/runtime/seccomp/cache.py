"""Compiled filters by content, so that a start reads one small file and imports no compiler.

A file holds what its program was made from, and is used only if that is, to the byte, what is asked for: the number in
the file's name need not be a cryptographic hash (importing one takes longer than the rest of this). A file that is not
ours, is writable for others, or is damaged is as good as none; a cache that cannot be written costs time, not
correctness.

    <cache_dir>/                     0700, made here
    └── <hash of the content>.bpf    0600: head, content, program; staged and renamed
"""

from __future__ import annotations

import os
import stat
from marshal import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

COMPILER_VERSION = (
    1  # of the meaning and layout of the files; the sources' own state is part of the key as well
)
MAGIC = b"lamina seccomp 1"
NUMBER = 16  # bytes of each: the content's length, the program's length, the checksum
HEAD = len(MAGIC) + 3 * NUMBER
LARGEST = 1 << 20
LONGEST_PROGRAM = 4096 * 8
PRIME = (1 << 128) - 159  # the largest below 2**128
KEPT = 64  # files; the oldest go
_SOURCES = [
    "compiler.py",
    "assembler.py",
    "rules.py",
    "architectures.py",
    "profile.py",
    "syscalls.txt",
    "default.json",
]


def filter_for(seccomp: dict[str, Any], cache_dir: bytes) -> bytes:
    """The BPF program (an array of struct sock_filter) for a `linux.seccomp` object of the OCI specification.

    *cache_dir* is made if it is missing. Raises what `compile_filter()` raises.
    """
    try:
        content = dumps(("oci", _making(), seccomp), 2)
    except ValueError:  # something that JSON cannot say either: the compiler knows what to say to it
        content = b""

    def compiled() -> bytes:
        from lamina.runtime.seccomp.compiler import compile_filter

        return compile_filter(seccomp)

    return _cached(content, cache_dir, compiled) if content else compiled()


def default_filter(capabilities: Collection[str], cache_dir: bytes) -> bytes:
    """The BPF program of the default profile for a container with *capabilities* (CAP_* names, the bounding set)."""
    content = dumps(("default", _making(), sorted(capabilities)), 2)

    def compiled() -> bytes:
        from lamina.runtime.seccomp.compiler import compile_filter
        from lamina.runtime.seccomp.profile import default_profile

        return compile_filter(default_profile(capabilities))

    return _cached(content, cache_dir, compiled)


def _making() -> tuple[Any, ...]:
    """Everything besides the profile that a program depends on: the machine, and the state of the compiler."""
    machine = os.uname()
    here = os.path.dirname(__file__)
    states = []
    for name in _SOURCES:
        try:
            found = os.stat(os.path.join(here, name))
            states.append((found.st_size, found.st_mtime_ns))
        except OSError:  # only compiled sources are installed
            states.append((0, 0))
    return (COMPILER_VERSION, machine.machine, machine.release, tuple(states))


def _cached(content: bytes, cache_dir: bytes, compiled: Any) -> bytes:
    name = b"%032x.bpf" % _hash(content)
    program = _read(cache_dir, name, content)
    if program is None:
        made: bytes = compiled()
        try:
            _write(cache_dir, name, content, made)
        except OSError:
            pass
        return made
    return program


def _hash(data: bytes) -> int:
    """A number that says whether bytes are the same as before, not whether somebody wanted them to look so."""
    return int.from_bytes(data, "little") % PRIME


def _read(cache_dir: bytes, name: bytes, content: bytes) -> bytes | None:
    try:
        fd = os.open(
            os.path.join(cache_dir, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
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
    held, program = body[: lengths[0]], body[lengths[0] :]
    if held != content or lengths[2] != _hash(body):
        return None
    return program if 0 < len(program) <= LONGEST_PROGRAM and len(program) % 8 == 0 else None


def _write(cache_dir: bytes, name: bytes, content: bytes, program: bytes) -> None:
    os.makedirs(cache_dir, 0o700, exist_ok=True)
    body = content + program
    head = b"".join(n.to_bytes(NUMBER, "little") for n in (len(content), len(program), _hash(body)))
    staged = os.path.join(cache_dir, b".%d.%d.%s" % (os.getpid(), id(body), name))
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(MAGIC + head + body)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(staged, os.path.join(cache_dir, name))
    except OSError:
        os.unlink(staged)
        raise
    _prune(cache_dir)


def _prune(cache_dir: bytes) -> None:
    """Drop the oldest files, and what writers that were killed have left; a reader only loses time."""
    with os.scandir(cache_dir) as entries:
        files = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.path) for entry in entries)
    for _, path in files[:-KEPT]:
        os.unlink(path)
