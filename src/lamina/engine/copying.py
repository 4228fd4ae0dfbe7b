"""Copying files out of containers, with the rules of docker's cp (into them: copying_in.py).

What comes out of a container is made by its processes, and hostile. It is packed where it is (packing_path.py), goes
through a pipe, and is unpacked below a new directory of our own at its destination; only what is whole is moved from
there to its place, by names below descriptors. So no name and no link of the container's is ever followed on this
machine, and a file is replaced at once or not at all.
"""

from __future__ import annotations

import os
import threading
from errno import EACCES, EIO, ENOENT, ENOTDIR, EXDEV
from stat import S_IMODE, S_IRWXU, S_ISDIR, S_ISREG

from lamina.engine.packing_path import Shown, is_directory, pack
from lamina.engine.roots import below_root, ids_of, maps_of
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, NotFound, Unsupported
from lamina.image.apply.directories import PLAINLY
from lamina.image.apply.extract import Extractor
from lamina.image.apply.ids import IdMap
from lamina.image.tar.limits import given
from lamina.image.tar.reader import entries
from lamina.linux.constants import AT_FDCWD, RESOLVE_NO_SYMLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.linux.procfs import has_trusted_attributes
from lamina.store.events import about, note
from lamina.store.tree import remove_tree
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from lamina.engine.container import Container
    from lamina.image.tar.entry import Entry

SET_IDS = 0o6000
_ITEM = b"item"  # what is copied, in the directory where it is unpacked
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@value
class Copied:
    """What was copied: bytes of all files, or of the archive; how many files were left out (devices, sockets); what of
    the others could not be set, as (attribute, how often).
    """

    size: int
    left_out: int = 0
    skipped: tuple[tuple[str, int], ...] = ()


def copy_to_stream(container: Container, path: str, out: int, *, follow: bool = False) -> Copied:
    """Write what is at *path* of the container as a tar archive to the descriptor *out*. As `Container.copy_out`."""
    source = os.fsencode(path)
    try:
        packed = _pack(container, source, out, name_of(source), follow=follow, owners=True, devices=True)
    except OSError as error:
        if isinstance(error, (LaminaError, BrokenPipeError)):
            raise
        raise KernelError("copy", error.errno or EIO, path) from error
    said(container, "archive-path", path)
    return Copied(*packed)


def copy_to_file(container: Container, path: str, file: IO[bytes], *, follow: bool = False) -> Copied:
    """As `copy_to_stream`, to a file object, which is written to in this thread."""
    source = os.fsencode(path)
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
    size = 0
    with reading:
        packing = _Packing(
            container, source, writing, name_of(source), follow=follow, owners=True, devices=True
        )
        packing.start()
        try:
            while piece := os.read(reading, 1 << 18):
                file.write(piece)
                size += len(piece)
        except BaseException:
            reading.close()
            packing.check()
            raise
        packing.check()
    said(container, "archive-path", path)
    return Copied(size, packing.left_out)


def copy_out(
    container: Container,
    path: str,
    target: str | os.PathLike[str],
    *,
    archive: bool = False,
    follow: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Copied:
    """See `Container.copy_out`."""
    if archive and os.geteuid() != 0:
        raise Unsupported(
            "copy with the owners of the files: only root may give files to others",
            remedy="leave out -a, or copy to '-', whose archive has the owners",
        )
    source = os.fsencode(path)
    try:
        with _Destination(os.fsencode(target)) as destination:
            copied = _unpack(
                container, source, destination.stage, archive=archive, follow=follow, progress=progress
            )
            destination.take(source)
    except OSError as error:
        if isinstance(error, LaminaError) and error.errno != EXDEV:
            raise
        remedy = "copy to a directory of one file system" if error.errno == EXDEV else ""
        raise KernelError("copy to", error.errno or EIO, os.fspath(target), remedy=remedy) from error
    said(container, "archive-path", path)
    return copied


def said(container: Container, event: str, path: str) -> None:
    """Note for those who watch events that files were copied."""
    note(container.store, about(container.record, event, path=path))


# -- reading in the container


def _pack(
    container: Container, path: bytes, out: int, name: bytes, *, follow: bool, owners: bool, devices: bool
) -> tuple[int, int]:
    """Pack *path* of the container to *out*, where its files can be read; the archive's size, and how many were left
    out.
    """
    if b"\0" in path:
        raise InvalidInput("copy: a path cannot have a NUL in it")
    maps = maps_of(container)
    ids = None
    if owners and (turned := ids_of(maps)) is not None:
        turned = turned.reversed()
        ids = Shown(turned.uids, turned.gids)
    done: tuple[int, int] = below_root(
        container, pack, path, name, follow, ids, devices, write=False, files=(out,)
    )
    return done


def name_of(path: bytes) -> bytes:
    """What a copy of *path* is called in an archive, b"." for the content of a directory."""
    return b"." if path.endswith(b"/.") else os.path.basename(path.rstrip(b"/")) or b"."


# -- unpacking here


class _Packing:
    """Packs into a pipe, in a thread of its own."""

    def __init__(
        self,
        container: Container,
        path: bytes,
        out: Fd,
        name: bytes,
        *,
        follow: bool,
        owners: bool,
        devices: bool,
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="lamina-copy", daemon=True)
        self._container, self._path, self._out, self._name = container, path, out, name
        self._follow, self._owners, self._devices = follow, owners, devices
        self._failure: BaseException | None = None
        self.left_out = 0

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._out:
                _, self.left_out = _pack(
                    self._container, self._path, self._out, self._name,
                    follow=self._follow, owners=self._owners, devices=self._devices,
                )  # fmt: skip
        except BaseException as failure:
            self._failure = failure

    def check(self) -> None:
        """Raise what went wrong: an archive that ends early looks like one that is cut off."""
        self._thread.join()
        failure, self._failure = self._failure, None
        if isinstance(failure, OSError) and not isinstance(failure, LaminaError):
            raise KernelError("copy", failure.errno or EIO, os.fsdecode(self._path)) from failure
        if failure is not None and not isinstance(failure, BrokenPipeError):
            raise failure


def _unpack(
    container: Container,
    path: bytes,
    stage: int,
    *,
    archive: bool,
    follow: bool,
    progress: Callable[[int], object] | None,
) -> Copied:
    """What is at *path* becomes the entry `item` of the directory *stage*."""
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
    with reading:
        packing = _Packing(container, path, writing, _ITEM, follow=follow, owners=archive, devices=False)
        packing.start()
        try:
            applied = _extracted(_counted(reading, progress), stage, archive=archive)
        except BaseException:
            reading.close()
            packing.check()
            raise
        packing.check()
    return Copied(applied, packing.left_out)


def _counted(reading: int, progress: Callable[[int], object] | None) -> Callable[[], bytes]:
    """What reads the next piece, and tells *progress* how many bytes there were so far."""
    done = 0

    def read() -> bytes:
        nonlocal done
        piece = os.read(reading, 1 << 18)
        if progress is not None and piece:
            done += len(piece)
            progress(done)
        return piece

    return read


def _extracted(read: Callable[[], bytes], stage: int, *, archive: bool) -> int:
    uid, gid, limits = os.geteuid(), os.getegid(), given()
    ids = None if archive else IdMap(((0, uid, 1),), ((0, gid, 1),))
    extractor = Extractor(stage, userxattr=not has_trusted_attributes(), ids=ids, limits=limits, layer=False)
    os.fchmod(stage, 0o700)  # nobody else looks in before it is in its place
    closed: list[tuple[bytes, int]] = []
    try:
        for entry in entries(read, limits):
            if not archive:
                _as_ours(entry)
            if uid and entry.kind == "directory" and entry.mode & S_IRWXU != S_IRWXU:
                closed.append((entry.name, entry.mode))  # what is in it can be made in an open one only
                entry.mode |= S_IRWXU
            extractor.put(entry)
        done = extractor.finish()
    finally:
        extractor.close()
    for name, mode in reversed(closed):
        with openat2(stage, name, _DIRECTORY, resolve=PLAINLY) as directory:
            os.fchmod(directory, mode)
    return done.size


def _as_ours(entry: Entry) -> None:
    """The file becomes the caller's: then what runs with its owner's rights, or was granted to others, must not."""
    entry.uid = entry.gid = 0
    entry.mode &= ~SET_IDS
    entry.xattrs = {name: text for name, text in entry.xattrs.items() if name.startswith("user.")}


# -- putting it in its place


class _Destination:
    """Where a copy goes, and a directory of our own there to make it in. For a `with`.

    The destination may be shared with a container, as a bind mount: so its path is looked up once, and no name below it
    is used again but from the descriptor.
    """

    def __init__(self, target: bytes) -> None:
        """Raises NotFound where there is no directory for it, KernelError."""
        self._target, self._said = target, os.fsdecode(target)
        real = os.path.realpath(target)
        self._is_directory = os.path.isdir(real)
        above, self._name = (real, b"") if self._is_directory else os.path.split(real)
        try:
            self._above = openat2(AT_FDCWD, above, os.O_RDONLY | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
        except KernelError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                raise
            raise NotFound(f"copy to {self._said}: there is no directory {os.fsdecode(above)}") from error
        self._staged = b".lamina-cp-" + os.urandom(8).hex().encode()

    def __enter__(self) -> _Destination:
        try:
            os.mkdir(self._staged, 0o700, dir_fd=self._above)
            self.stage = Fd(os.open(self._staged, _DIRECTORY, dir_fd=self._above))
            status = os.fstat(self.stage)
            if status.st_uid != os.geteuid() or S_IMODE(status.st_mode) & 0o77 or os.listdir(self.stage):
                raise Conflict(f"copy to {self._said}: somebody exchanges the files there")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._above:
            if hasattr(self, "stage"):
                self.stage.close()
            remove_tree(b"/proc/self/fd/%d/%b" % (self._above, self._staged))

    def take(self, source: bytes) -> None:
        """Move what was copied from *source* to where docker's cp puts it. Raises Conflict, NotFound, OSError."""
        directory = S_ISDIR(os.stat(_ITEM, dir_fd=self.stage, follow_symlinks=False).st_mode)
        if self._is_directory:
            name = name_of(source)
            if name in (b".", b".."):
                _merge(self.stage, _ITEM, self._above, self._said)
                return
        else:
            name = self._name
            self._check(directory)
        _move(self.stage, _ITEM, self._above, name, self._said)

    def _check(self, directory: bool) -> None:
        said = self._said
        try:
            there = os.stat(self._name, dir_fd=self._above, follow_symlinks=False)
        except FileNotFoundError:
            if is_directory(self._target) and not directory:
                raise NotFound(
                    f"copy to {said}: there is no such directory", remedy=f"mkdir {said}"
                ) from None
            return
        if is_directory(self._target):
            raise Conflict(f"copy to {said}: it is not a directory")
        if not directory and not S_ISREG(there.st_mode):
            raise Conflict(f"copy to {said}: it is neither a file nor a directory")


def _move(source: int, name: bytes, target: int, new: bytes, said: str) -> None:
    """The entry *name* of *source* becomes *new* of *target*; directories that are there already are filled."""
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    try:
        there = os.stat(new, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        there = None
    if there is not None and S_ISDIR(status.st_mode) != S_ISDIR(there.st_mode):
        what = (
            "a directory cannot take the place of a file" if S_ISDIR(status.st_mode) else "it is a directory"
        )
        raise Conflict(f"copy to {said}: {os.fsdecode(new)}: {what}")
    if there is not None and S_ISDIR(there.st_mode):
        with Fd(os.open(new, _DIRECTORY, dir_fd=target)) as directory:
            _merge(source, name, directory, said)
        return
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except PermissionError as error:
        if error.errno != EACCES or not S_ISDIR(status.st_mode):
            raise
        # a directory that may not be written to cannot get another parent: its ".." is changed
        with _opened_up(source, name) as moved:
            try:
                os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
            finally:
                os.fchmod(moved, S_IMODE(status.st_mode))


def _opened_up(above: int, name: bytes) -> Fd:
    """The directory *name* where nobody else has access, with all its owner may have."""
    if os.geteuid() != 0:
        os.chmod(name, S_IRWXU, dir_fd=above)
    return Fd(os.open(name, _DIRECTORY, dir_fd=above))


def _merge(source: int, name: bytes, directory: int, said: str) -> None:
    with _opened_up(source, name) as inside:
        for entry in sorted(map(os.fsencode, os.listdir(inside))):
            _move(inside, entry, directory, entry, said)
