"""What an archive or a directory consists of, by name, readable in any order.

A file that is a plain tar archive is read in place; whatever comes through a pipe or is compressed is kept in a file of
the store's scratch space first, because what says what is in an archive may well come last in it. Names are looked up,
never used as paths; in a directory they are resolved by the kernel, below it.
"""

from __future__ import annotations

import os
from errno import ENOENT
from stat import S_ISREG
from typing import TYPE_CHECKING

from lamina.errors import Corrupt, InvalidInput, KernelError, NotFound
from lamina.image.compression import OF_ARCHIVES
from lamina.image.compression import reader as decompressed
from lamina.image.tar.limits import Limits, given
from lamina.image.tar.reader import entries
from lamina.linux.constants import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.store.durable import write_all
from lamina.store.root import raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.trace import point
from lamina.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from lamina.store.root import Store

    class Members(Protocol):
        """Named pieces of content. Close it, or use `with`."""

        def names(self) -> list[str]:
            """All names, without "./" in front."""

        def has(self, name: str) -> bool:
            """Whether there is one of that name."""

        def open(self, name: str) -> Piece:
            """Its content, to be read from the beginning. Raises NotFound."""

        def close(self) -> None:
            """Let go of it; what was opened stays readable no longer."""

        def __enter__(self) -> Members: ...
        def __exit__(self, *_: object) -> None: ...


_CHUNK = 1 << 20
_HEADERS = 16 << 10  # read at once where content is passed over
_MOST_LINKS = 8  # of one name to another, as old archives of docker's have them
# an archive of images has few entries, and all of them are remembered: so many, or a part of what a layer may have
_FEW, _PART = 100_000, 20
_ANY_SIZE = 1 << 50  # of what is on a disk already, and stays there


class Piece:
    """Some bytes of an open file: `read(n)` goes on where the last one ended, from any thread that has it alone."""

    __slots__ = ("_at", "_end", "_fd", "_own", "size")

    def __init__(self, fd: int, start: int, size: int, own: Fd | None = None) -> None:
        self._fd, self._at, self._end, self._own = fd, start, start + size, own
        self.size = size

    def read(self, count: int = _CHUNK) -> bytes:
        """At most *count* bytes, b"" at the end. Raises Corrupt where the file was cut off meanwhile."""
        count = min(count, self._end - self._at)
        if count <= 0:
            return b""
        data = os.pread(self._fd, count, self._at)
        if not data:
            raise Corrupt(f"read archive: it ends {self._end - self._at} bytes too early")
        self._at += len(data)
        return data

    def whole(self, limit: int, what: str) -> bytes:
        """All of it, at most *limit* bytes. Raises InvalidInput."""
        if self.size > limit:
            raise InvalidInput(f"read {what}: {self.size} bytes, at most {limit} are allowed")
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        return b"".join(pieces)


class Directory:
    """An OCI layout, or an unpacked archive, as a directory."""

    def __init__(self, path: str) -> None:
        try:
            self._top = Fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise KernelError("open", error.errno or ENOENT, path) from error
        self._path = path

    def names(self) -> list[str]:
        """The names at the top."""
        return os.listdir(self._top)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        try:
            self._open(name).close()
        except (OSError, ValueError):
            return False
        return True

    def open(self, name: str) -> Piece:
        """The content of a file. Raises NotFound, InvalidInput."""
        try:
            fd = self._open(name)
        except KernelError as error:
            raise NotFound(f"read {self._path}: {name[:200]}: {error.strerror}") from error
        except ValueError:  # a NUL, or text that no name can be
            raise InvalidInput(f"read {self._path}: {name[:200]!r} is no name of a file") from None
        status = os.fstat(fd)
        if not S_ISREG(status.st_mode):
            fd.close()
            raise InvalidInput(f"read {self._path}: {name} is no file")
        return Piece(fd, 0, status.st_size, fd)

    def _open(self, name: str) -> Fd:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
        return openat2(self._top, name, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)

    def close(self) -> None:
        """Close the directory."""
        self._top.close()

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Archive:
    """A tar archive, plain or compressed, from a file or a pipe. *source* stays the caller's."""

    def __init__(self, store: Store, source: int, limits: Limits | None = None) -> None:
        """Reads it once, to know what is where. What has to be kept is bounded by *limits* (None: `given()`), as a
        layer is. Raises InvalidInput (no archive, a limit), Corrupt, KernelError.
        """
        limits = limits or given()
        limits = replace(limits, entries=min(limits.entries, max(_FEW, limits.entries // _PART)))
        self._scratch: Scratch | None = None
        self._spool: Fd | None = None
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._fd = self._settle(store, source, limits)
        except BaseException:
            self.close()
            raise

    def _settle(self, store: Store, source: int, limits: Limits) -> int:
        """The descriptor from which pieces are read: the source, or a file of ours."""
        if S_ISREG(os.fstat(source).st_mode):
            start = os.lseek(source, 0, os.SEEK_CUR)
            stream = decompressed(lambda count: os.read(source, count), limits, OF_ARCHIVES)
            if stream.kind == "none":
                os.lseek(source, start, os.SEEK_SET)
                self._index(
                    lambda: os.read(source, _HEADERS),
                    replace(limits, size=_ANY_SIZE),
                    start,
                    lambda count: _skip(source, count),
                )
                return source
        else:
            stream = decompressed(lambda count: os.read(source, count), limits, OF_ARCHIVES)
        self._scratch = Scratch(store)
        path = self._scratch.path + b"/archive"
        point("archive.create")
        self._spool = spool = Fd(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

        def chunk() -> bytes:
            data = stream.next_chunk()
            try:
                point("archive.write")
                write_all(spool, data)
            except OSError as error:
                raise_storage_error(error, "keep archive", path)
                raise
            return data

        self._index(chunk, limits, 0)
        while stream.next_chunk():  # what is after its end: or its writer would be told that nobody reads
            pass
        return spool

    def _index(
        self,
        chunk: Callable[[], bytes],
        limits: Limits,
        start: int,
        skip: Callable[[int], int] | None = None,
    ) -> None:
        for entry in entries(chunk, limits, skip=skip):
            name = _plain(entry.name)
            if entry.kind == "file" and entry.sparse is None:
                self._places[name] = (start + entry.offset, entry.size)
                self._links.pop(name, None)
            elif entry.kind in ("link", "symlink"):
                self._links[name] = _target(name, entry.kind, entry.target)
                self._places.pop(name, None)

    def names(self) -> list[str]:
        """The names of all files and links."""
        return [*self._places, *self._links]

    def _place(self, name: str) -> tuple[int, int] | None:
        for _ in range(_MOST_LINKS):
            if name in self._places:
                return self._places[name]
            if name not in self._links:
                break
            name = self._links[name]
        return None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._place(name) is not None

    def open(self, name: str) -> Piece:
        """The content of a file. Raises NotFound."""
        place = self._place(name)
        if place is None:
            raise NotFound(f"read archive: there is no {name[:200]!r} in it")
        return Piece(self._fd, *place)

    def close(self) -> None:
        """Remove what was kept."""
        if self._spool is not None:
            self._spool.close()
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _skip(file: int, count: int) -> int:
    """Go *count* bytes on in a plain file; how many there were."""
    at = os.lseek(file, 0, os.SEEK_CUR)
    count = min(count, max(0, os.fstat(file).st_size - at))
    os.lseek(file, at + count, os.SEEK_SET)
    return count


def _plain(name: bytes) -> str:
    return os.fsdecode(name).removeprefix("./").strip("/")


def _target(name: str, kind: str, target: bytes) -> str:
    """Where a link points to, as a name of the archive: links of old archives are relative, hard links are not."""
    text = os.fsdecode(target)
    if kind == "symlink":
        text = os.path.normpath(os.path.join(os.path.dirname(name), text))
    return text.removeprefix("./").strip("/")
