"""Copying files into containers, with the rules of docker's cp, and archives from anywhere.

What is copied is packed here, goes through a pipe, and is put to its place where the container's ids are (roots.py), by
what is made for a container that works against it (placing.py). An archive of the caller's own takes the same way.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from errno import EIO, ENOENT, ENOTDIR
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISSOCK

from lamina.engine.copying import Copied, said
from lamina.engine.packing_path import is_directory, pack
from lamina.engine.placing import ITEM, Placed, Wanted, place
from lamina.engine.roots import below_root, ids_of, maps_of, still_runs
from lamina.errors import InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.image.tar.limits import Limits, given
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from lamina.engine.container import Container

    Source = str | bytes | os.PathLike[str] | os.PathLike[bytes] | int | IO[bytes]
    Progress = Callable[[int], object]

_PIECE = 1 << 18
_OURS = Limits(entries=1 << 62, size=1 << 62)  # of an archive that was packed here nothing has to be doubted
_PATIENCE = 0.5  # seconds for whoever feeds an archive to say why it ended; he may be waiting for more


def copy_in(
    container: Container,
    source: Source,
    path: str,
    *,
    archive: bool = False,
    follow: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """See `Container.copy_in`."""
    target = os.fsencode(path)
    if b"\0" in target:
        raise InvalidInput("copy: a path cannot have a NUL in it")
    feeding: _Feeding
    if isinstance(source, (str, bytes, os.PathLike)):
        found = _Source(os.fsencode(source), follow)
        wanted = Wanted(target, found.name, found.directory, archive)
        feeding = _Files(container, found, progress)
    else:
        wanted = Wanted(target, None, False, keep=True)
        feeding = _Stream(container, source, progress)
    limits = given() if wanted.name is None else _OURS
    placed = _place(container, wanted, feeding, limits)
    said(container, "extract-to-dir", path)
    return Copied(placed.size, placed.left_out + feeding.left_out, placed.skipped)


def _place(container: Container, wanted: Wanted, feeding: _Feeding, limits: Limits) -> Placed:
    ids = ids_of(maps_of(container))
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
    with reading:
        feeding.begin(writing)
        try:
            placed: Placed = below_root(container, place, wanted, ids, limits, write=True, files=(reading,))
        except BaseException:
            reading.close()  # whoever feeds it sees that nobody listens
            feeding.end(failed=True)
            raise
        feeding.end()
    return placed


class _Source:
    """A path of this system, looked at as docker's cp does."""

    def __init__(self, path: bytes, follow: bool) -> None:
        """Raises NotFound, InvalidInput, Unsupported, KernelError."""
        self.said = os.fsdecode(path)
        if b"\0" in path or not path:
            raise InvalidInput(f"copy {path!r}: this is no path")
        self.follow = follow
        self.path = os.path.join(os.getcwdb(), path)
        asserted = is_directory(path)
        try:
            status = os.stat(path) if follow or asserted else os.lstat(path)
        except OSError as error:
            if error.errno == ENOENT:
                raise NotFound(f"copy {self.said}: there is no such file or directory") from error
            if error.errno == ENOTDIR:
                raise InvalidInput(f"copy {self.said}: it is not a directory") from error
            raise KernelError("copy", error.errno or EIO, self.said) from error
        self.directory = S_ISDIR(status.st_mode)
        if asserted and not self.directory:
            raise InvalidInput(f"copy {self.said}: it is not a directory")
        if S_ISBLK(status.st_mode) or S_ISCHR(status.st_mode) or S_ISSOCK(status.st_mode):
            raise Unsupported(f"copy {self.said}: devices and sockets are not copied into containers")
        # what it is called there; b"." where its content alone is meant
        dotted = path.endswith(b"/.") or path == b"."
        self.name = b"." if dotted else os.path.basename(os.path.abspath(path)) or b"."


class _Feeding(threading.Thread, ABC):
    """Writes an archive into a pipe, as long as the container lives that it is for."""

    waits_for_others = False  # whether it may be blocked for as long as somebody else likes

    def __init__(self, container: Container, progress: Progress | None) -> None:
        super().__init__(name="lamina-copy", daemon=True)
        self._check = still_runs(container)
        self._progress, self._done = progress, 0
        self._failure: BaseException | None = None
        self.left_out = 0

    def begin(self, out: Fd) -> None:
        """Begin to write to *out*, which is closed at the end."""
        self._out = out
        self.start()

    def run(self) -> None:
        try:
            with self._out:
                self.feed(self._out)
        except BaseException as failure:
            self._failure = failure

    @abstractmethod
    def feed(self, out: Fd) -> None:
        """Write all of it. Raises LaminaError, OSError, and what reading raises."""

    def written(self, size: int) -> None:
        """So many bytes more are on their way."""
        self._check()
        self._done += size
        if self._progress is not None:
            self._progress(self._done)

    def end(self, *, failed: bool = False) -> None:
        """Wait for its end, and raise what went wrong: an archive that ends early looks like one that is cut off."""
        self.join(_PATIENCE if failed and self.waits_for_others else None)
        failure, self._failure = self._failure, None
        if failure is not None and not isinstance(failure, BrokenPipeError):
            raise failure


class _Files(_Feeding):
    """Packs a path of this system."""

    def __init__(self, container: Container, source: _Source, progress: Progress | None) -> None:
        super().__init__(container, progress)
        self._source = source

    def feed(self, out: Fd) -> None:
        source = self._source
        try:
            with Fd(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
                _, self.left_out = pack(
                    root, out, source.path, ITEM, source.follow, None, False, self.written
                )
        except NotFound as error:
            raise NotFound(f"copy {source.said}: it has just gone") from error
        except OSError as error:
            if isinstance(error, (LaminaError, BrokenPipeError)):
                raise
            raise KernelError("copy", error.errno or EIO, source.said) from error


class _Stream(_Feeding):
    """Hands an archive through from a descriptor or a file object."""

    waits_for_others = True

    def __init__(self, container: Container, source: int | IO[bytes], progress: Progress | None) -> None:
        super().__init__(container, progress)
        self._stream = source

    def feed(self, out: Fd) -> None:
        source = self._stream
        read = source.read if not isinstance(source, int) else lambda size: os.read(source, size)
        while piece := read(_PIECE):
            view = memoryview(piece)
            while view:
                done = os.write(out, view)
                self.written(done)
                view = view[done:]
