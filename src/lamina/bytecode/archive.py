"""Writes the archive of compiled modules: what `finder` reads, in one file beside the compiled modules themselves.

    header    Python's number of its bytecode, "lamina", mtime and size of finder.py; filled up to 56 bytes; and in 8
              bytes the length of what comes next
    head      marshalled: the code of finder.py, the tag, the index, the firsts
    pieces    of each module: the tag, and its code, marshalled: what Python's own .pyc file has behind its header
    firsts    of verbs that are called often: the tag, and marshalled the names and codes of what they import, in the
              order in which that is executed, some in a piece; a room says in its module `first` which these are

As Python writes .pyc files: the first command that misses something writes it, after its work, as a new file that is
renamed; whoever may not write the directory does without. It is made of valid .pyc files and nothing else, so it tells
nothing that Python would not have believed anyway, and belongs to a directory where only somebody may write who may
change the modules. It holds what commands have loaded until now. Several that write at once do not disturb each other:
what one adds while another one writes is added again by the next command that misses it.
"""

from __future__ import annotations

import errno
import marshal
import os
import sys
import time
from _frozen_importlib_external import MAGIC_NUMBER

from lamina.bytecode.finder import TAG, Finder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.bytecode.finder import Firsts, Index

    # a module's file below the package, its mtime in nanoseconds, its size, and its code, marshalled
    Piece = tuple[str, int, int, bytes]

# what isolated.py reads
HEADER, PROOF = 64, 56
FINDER = "lamina.bytecode.finder"
PAGE = 4096
# so much is read at once: memory of more than 128 KiB is new to the process each time (mallopt(3), M_MMAP_THRESHOLD)
AT_ONCE = 96 << 10
# what a writer that was killed left behind is removed after so many seconds
ABANDONED = 600


def write(finder: Finder) -> None:
    """Write the archive with what is loaded, and with what an archive has by now, as far as that holds.

    Raises OSError where it cannot be written.
    """
    pieces: dict[str, Piece | None] = {}
    kept = {**present(finder), **finder.index}
    for name, file in sorted(wanted(finder, kept).items()):
        piece = compiled(finder, file)
        # what Python found elsewhere, or not at all, is to be left to it; others are added when they are asked for
        if piece or name in finder.missed or kept.get(name, "") is None:
            pieces[name] = piece
    first = pieces.get(FINDER)
    if first is not None:  # else there is nothing to begin with
        mode = os.stat(f"{finder.here}/isolated.py").st_mode & 0o666 | 0o200
        replace(finder.archive, arranged(pieces, first, together(finder)), mode)


def present(finder: Finder) -> Index:
    """The index of the archive that is there now: another command may have written one since we began."""
    try:
        with open(finder.archive, "rb", 0) as file:
            header = file.read(HEADER)
            if header.startswith(MAGIC_NUMBER + b"lamina "):
                index: Index = marshal.loads(file.read(int.from_bytes(header[PROOF:], "little")))[2]
                return dict(index)
    except Exception:
        pass  # as good as none
    return {}


def wanted(finder: Finder, kept: Index) -> dict[str, str]:
    """The modules that were loaded or asked for, and those that are *kept*, with their files below the package; "" for
    what has none there.
    """
    files = dict.fromkeys(finder.missed, "")
    files.update((name, held[0] if held else "") for name, held in kept.items())
    for name, module in list(sys.modules.items()):
        if name == "lamina" or name.startswith("lamina."):
            file = getattr(module, "__file__", None) or ""
            files[name] = file[len(finder.here) :] if file.startswith(finder.here + "/") else ""
    return files


def compiled(finder: Finder, file: str) -> Piece | None:
    """What Python has compiled *file* to; None if there is no such thing, or not of the file as it is now."""
    location = finder.here + file
    try:
        found = os.stat(location)
        if file.endswith(".so"):
            return file, found.st_mtime_ns, found.st_size, b""
        if not file.endswith(".py"):
            return None
        with open(finder.compiled(location), "rb", 0) as kept:
            data = kept.read()
    except OSError:
        return None
    # PEP 552: a .pyc file that is checked by time and size (flags 0), not by a hash
    proof = (int(number) & 0xFFFF_FFFF for number in (0, found.st_mtime, found.st_size))
    header = MAGIC_NUMBER + b"".join(number.to_bytes(4, "little") for number in proof)
    if not data.startswith(header) or len(data) == len(header):
        return None
    return file, found.st_mtime_ns, found.st_size, data[len(header) :]


def together(finder: Finder) -> dict[str, tuple[str, ...]]:
    """What the rooms say of their verbs: what each imports, by its module."""
    found: dict[str, tuple[str, ...]] = {}
    for room in sorted(os.listdir(finder.here)):
        if os.path.exists(f"{finder.here}/{room}/first.py"):
            name = f"lamina.{room}.first"
            __import__(name)
            found.update((verb, tuple(names.split())) for verb, names in sys.modules[name].FIRST.items())
    return found


def parts(names: list[str], codes: dict[str, bytes]) -> list[list[str]]:
    """*names* in their order, so many together as are read at once."""
    found: list[list[str]] = []
    size = AT_ONCE
    for name in names:
        if size + len(codes[name]) > AT_ONCE:
            found.append([])
            size = 0
        found[-1].append(name)
        size += len(codes[name])
    return found


def arranged(pieces: dict[str, Piece | None], first: Piece, groups: dict[str, tuple[str, ...]]) -> bytes:
    """The archive of *pieces*; *first* is the finder itself, *groups* are those of `together`."""
    tag = os.urandom(TAG)
    codes = {name: piece[3] for name, piece in pieces.items() if piece is not None and piece[3]}
    grouped = {
        verb: [
            marshal.dumps(tuple((name, marshal.loads(codes[name])) for name in some))
            for some in parts([name for name in names if name in codes], codes)
        ]
        for verb, names in groups.items()
        if verb in codes
    }
    _, mtime, size, code = first
    proof = (b"%blamina %d %d" % (MAGIC_NUMBER, mtime, size)).ljust(PROOF)

    def headed(begin: int) -> tuple[bytes, list[bytes]]:
        """The head where the first piece lies at *begin*, and the pieces."""
        index: Index = {}
        firsts: Firsts = {}
        body: list[bytes] = []
        at = begin
        for name, piece in pieces.items():
            index[name] = None
            if piece is not None:
                length = len(piece[3]) and TAG + len(piece[3])
                index[name] = (*piece[:3], at, length)
                body += [tag, piece[3]] if length else []
                at += length
        for verb, several in grouped.items():
            for data in several:
                firsts[verb] = (*firsts.get(verb, ()), (at, TAG + len(data)))
                body += [tag, data]
                at += TAG + len(data)
        return marshal.dumps((marshal.loads(code), tag, index, firsts)), body

    # a head is as long wherever the pieces lie: marshal writes every number in as many bytes
    begin = (HEADER + len(headed(0)[0]) + PAGE) // PAGE * PAGE
    head, body = headed(begin)
    return b"".join(((proof + len(head).to_bytes(HEADER - PROOF, "little") + head).ljust(begin), *body))


def replace(path: str, data: bytes, mode: int) -> None:
    """Make *path* a file of *data*: it appears complete, or not at all."""
    directory, _, name = path.rpartition("/")
    for other in os.listdir(directory):
        if (
            other.startswith(name + ".")
            and os.stat(f"{directory}/{other}").st_mtime < time.time() - ABANDONED
        ):
            os.unlink(f"{directory}/{other}")
    staged = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb", 0) as file:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), staged)
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
