"""Files of a container in the words of pathlib.

    box.files / "etc/motd"                          an object like pathlib's, of the file in there
    (box.files / "etc/motd").write_text("hello\\n")
    for path in (box.files / "var/log").glob("*.log"): ...

Names are looked up with the container's root as "/", by the kernel, at each call: a process of the container that
exchanges directories and links meanwhile gets no more out of it than out of its own calls. Nothing but regular files is
opened. No process is started, but one for all containers that have user namespaces (file_service.py).
"""

from __future__ import annotations

import os
from errno import EINVAL, ELOOP, ENOENT, ENOTDIR
from pathlib import PurePosixPath
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK
from typing import overload

from lamina.engine import file_calls, file_modes
from lamina.engine.packing_path import NOBODY
from lamina.engine.pure_paths import PureContainerPath, pure
from lamina.engine.roots import ids_of, maps_of, maps_to_mount, opened, owner_of
from lamina.errors import InvalidInput, MountError
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import ExitStack
    from typing import IO, Any, BinaryIO, Self, TextIO

    from lamina.engine.container import Container

_EXACT = (
    "st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize", "st_blocks",
    "st_rdev",
)  # fmt: skip
_MISSING = (ENOENT, ENOTDIR, ELOOP)  # as pathlib has it


class ContainerPath(PureContainerPath):
    """One path in a container, always absolute. Made by `Container.files` and "/".

    Paths are compared and put together as pathlib's PurePosixPath are; a ".." stays, and is followed by the kernel.
    What looks at files raises the OSErrors of pathlib (FileNotFoundError, PermissionError, ...), Conflict where a path
    leads to what is no file (a fifo, a device) or the container ends just then, Unsupported for writing below /proc and
    /sys, and for a user's container over this system that does not run. What is made belongs to the container's root,
    with the permissions that are asked for but `w` of group and others, whatever the caller's umask is.

    Of a container that does not run each call mounts its files for the moment; calls that write hold it meanwhile.
    """

    __slots__ = ()
    _container: Container

    def __init__(self, container: Container, path: str | PurePosixPath = "/") -> None:
        super().__init__(container, path)

    @property
    def container(self) -> Container:
        """Whose it is."""
        return self._container

    # -- what is there

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """As os.stat(); owners are those that the container sees, 65534 for whom it does not know."""
        found: os.stat_result = self._do(file_calls.stat, follow_symlinks)
        ids = ids_of(maps_of(self._container))
        if ids is None:
            return found
        shown = ids.reversed()
        owner = (_or_nobody(shown.uid, found.st_uid), _or_nobody(shown.gid, found.st_gid))
        exact = {name: getattr(found, name) for name in _EXACT}
        return os.stat_result((*found[:4], *owner, *found[6:10]), exact)

    def lstat(self) -> os.stat_result:
        """As `stat`, of a symbolic link itself."""
        return self.stat(follow_symlinks=False)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether anything is there."""
        return self._is(lambda mode: True, follow_symlinks)

    def is_file(self) -> bool:
        """Whether it is, or leads to, a regular file."""
        return self._is(S_ISREG)

    def is_dir(self) -> bool:
        """Whether it is, or leads to, a directory."""
        return self._is(S_ISDIR)

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self._is(S_ISLNK, False)

    def is_fifo(self) -> bool:
        """Whether it is, or leads to, a fifo."""
        return self._is(S_ISFIFO)

    def is_socket(self) -> bool:
        """Whether it is, or leads to, a socket."""
        return self._is(S_ISSOCK)

    def is_block_device(self) -> bool:
        """Whether it is, or leads to, a block device."""
        return self._is(S_ISBLK)

    def is_char_device(self) -> bool:
        """Whether it is, or leads to, a character device."""
        return self._is(S_ISCHR)

    def _is(self, kind: Callable[[int], bool], follow: bool = True) -> bool:
        try:
            return kind(self.stat(follow_symlinks=follow).st_mode)
        except OSError as error:
            if error.errno in _MISSING:
                return False
            raise

    def readlink(self) -> PurePosixPath:
        """What is written in the symbolic link, which may be relative: `path.parent / path.readlink()`."""
        return PurePosixPath(os.fsdecode(self._do(file_calls.readlink)))

    def resolve(self, strict: bool = False) -> Self:
        """The path of what it leads to, without links and ".."; with *strict* FileNotFoundError where nothing is there.
        Raises OSError (ELOOP) for links that lead to each other.
        """
        return self._at(PurePosixPath(os.fsdecode(self._do(file_calls.resolve, strict))))

    def samefile(self, other: str | PurePosixPath | PureContainerPath) -> bool:
        """Whether it and *other*, a path in the same container (a relative one as in `rename`), lead to the same."""
        if isinstance(other, PureContainerPath) and other._container.id != self._container.id:
            return False
        there = self._pure.parent / pure(other)
        return bool(self._do(file_calls.samefile, os.fsencode(str(there))))

    def iterdir(self) -> Iterator[Self]:
        """What is in the directory, in no order, as it was when it was listed."""
        for name, _ in self._scan():
            yield self / name

    def walk(
        self,
        top_down: bool = True,
        on_error: Callable[[OSError], object] | None = None,
        follow_symlinks: bool = False,
    ) -> Iterator[tuple[Self, list[str], list[str]]]:
        """As Path.walk: each directory with the names of its directories and of everything else."""
        # no call of itself for each level: a container makes directories as deep as it likes
        waiting: list[Self | tuple[Self, list[str], list[str]]] = [self]
        while waiting:
            top = waiting.pop()
            if isinstance(top, tuple):
                yield top
                continue
            if not follow_symlinks and top is not self and top.is_symlink():
                continue
            try:
                found = top._scan()
            except OSError as error:
                if on_error is not None:
                    on_error(error)
                continue
            directories: list[str] = []
            others: list[str] = []
            for name, kind in found:
                inner = kind == "d" or (kind == "l" and follow_symlinks and (top / name).is_dir())
                (directories if inner else others).append(name)
            if top_down:
                yield top, directories, others
            else:
                waiting.append((top, directories, others))
            waiting += [top / name for name in reversed(directories)]

    def glob(self, pattern: str) -> Iterator[Self]:
        """What below it matches: `*`, `?`, `[...]` within a name, `**` for directories of any depth. In no order."""
        from lamina.engine.globbing import globbed

        names = PurePosixPath(pattern)
        if not pattern or names.is_absolute():
            raise InvalidInput(f"glob {pattern!r}: a pattern is relative, and not empty")
        for found in globbed(_Scanner(self), names.parts):
            yield self._at(self._pure.joinpath(*found))

    def rglob(self, pattern: str) -> Iterator[Self]:
        """As `glob`, with `**/` before the pattern."""
        return self.glob(f"**/{pattern}")

    def _scan(self) -> list[tuple[str, str]]:
        found: list[tuple[bytes, str]] = self._do(file_calls.scan)
        return [(os.fsdecode(name), kind) for name, kind in found]

    # -- reading and writing

    @overload
    def open(
        self,
        mode: file_modes.Text = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> TextIO: ...
    @overload
    def open(self, mode: file_modes.Binary, buffering: int = -1) -> BinaryIO: ...
    @overload
    def open(
        self,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]: ...
    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """As the built-in open(), for regular files; text is UTF-8 unless *encoding* says otherwise.

        A file that is there is written in place, and seen half written by who looks meanwhile (`copy_in` replaces at
        once). One that was opened for writing in a container that does not run holds the container until it is closed.
        """
        from contextlib import ExitStack

        flags = file_modes.flags_of(mode)
        with ExitStack() as holding:
            fd = self._call(
                holding, file_modes.writes(flags), file_calls.open_file, flags, 0o644, self._owner()
            )
            file = file_modes.wrapped(
                fd.steal(), mode, buffering, encoding, errors, newline, holding.pop_all(), str(self)
            )
        return file

    def read_bytes(self) -> bytes:
        """Its content, as far as it went when it was opened: a file that grows without end does not keep one here."""
        with self.open("rb", 0) as file:
            return file_modes.content_of(file)

    def read_text(
        self, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> str:
        """Its content as text, UTF-8 unless *encoding* says otherwise."""
        import io

        with io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding or "utf-8", errors, newline) as text:
            return text.read()

    def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Make *data* its content, as `open("wb")` does."""
        view = memoryview(data)
        with self.open("wb") as file:
            return file.write(view)

    def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        """Make *data* its content, as `open("w")` does."""
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")
        with self.open("w", encoding=encoding, errors=errors, newline=newline) as file:
            return file.write(data)

    # -- changing what is there

    def touch(self, mode: int = 0o644, exist_ok: bool = True) -> None:
        """Make an empty file, or give the one that is there the time of now."""
        if exist_ok:
            try:
                self._do(file_calls.utime, None, write=True)
                return
            except FileNotFoundError:
                pass
        flags = os.O_WRONLY | os.O_CREAT | (0 if exist_ok else os.O_EXCL)
        self._do(file_calls.open_file, flags, mode & ~0o022, self._owner(), write=True).close()

    def mkdir(self, mode: int = 0o755, parents: bool = False, exist_ok: bool = False) -> None:
        """Make it as a directory; with *parents* those above it as well, with *exist_ok* unless it is one."""
        try:
            self._do(file_calls.mkdir, mode & ~0o022, self._owner(), write=True)
        except FileNotFoundError:
            if not parents or self.parent == self:
                raise
            self.parent.mkdir(parents=True, exist_ok=True)
            self.mkdir(mode, parents=False, exist_ok=exist_ok)
        except FileExistsError:
            if not exist_ok or not self.is_dir():
                raise

    def rmdir(self) -> None:
        """Remove it, an empty directory."""
        self._do(file_calls.rmdir, write=True)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it, which is no directory."""
        try:
            self._do(file_calls.unlink, write=True)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rename(self, target: str | PurePosixPath | PureContainerPath) -> Self:
        """Call it *target*, a path in the same container; a file of that name is replaced. The new path.

        A relative *target* is meant from its own directory on, since a container has no working directory.
        """
        if isinstance(target, PureContainerPath) and target._container.id != self._container.id:
            raise InvalidInput(f"rename {self}: {target!r} is in another container")
        new = self._at(self._pure.parent / pure(target))
        self._do(file_calls.rename, os.fsencode(str(new)), write=True)
        return new

    replace = rename

    def symlink_to(
        self, target: str | PurePosixPath | PureContainerPath, target_is_directory: bool = False
    ) -> None:
        """Make it a symbolic link to *target*, which is written down as it is."""
        text = str(target)
        if not text:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(self))
        self._do(file_calls.symlink, os.fsencode(text), self._owner(), write=True)

    def hardlink_to(self, target: str | PurePosixPath | PureContainerPath) -> None:
        """Make it another name of the file *target*, a relative one as in `rename`."""
        there = self._pure.parent / pure(target)
        self._do(file_calls.link, os.fsencode(str(there)), write=True)

    def chmod(self, mode: int) -> None:
        """Change its permissions, or those of what it leads to."""
        self._do(file_calls.chmod, mode, write=True)

    # -- how

    def _owner(self) -> tuple[int, int]:
        maps = maps_of(self._container)
        return (0, 0) if maps is None else owner_of(maps)

    def _do(self, work: Callable[..., Any], *args: Any, write: bool = False) -> Any:
        from contextlib import ExitStack

        with ExitStack() as holding:
            return self._call(holding, write, work, *args)

    def _call(self, holding: ExitStack, write: bool, work: Callable[..., Any], *args: Any) -> Any:
        """`work(root, path, *args)`; what must stay as long as its result is used is entered into *holding*."""
        maps = maps_of(self._container)
        path = os.fsencode(str(self._pure))
        try:
            root = holding.enter_context(opened(self._container, write=write))
            if maps is None:
                assert isinstance(root, Fd)
                return work(root, path, *args)
            from lamina.engine.file_service import ask

            reaching = maps if isinstance(root, Fd) else maps_to_mount(self._container, maps)
            return ask(reaching, owner_of(maps), root, write, work, path, *args)
        except OSError as error:
            if isinstance(error, MountError):
                raise
            raise OSError(error.errno or EINVAL, os.strerror(error.errno or EINVAL), str(self)) from error


class _Scanner:
    """Directories of one call of `glob`, each listed once."""

    def __init__(self, top: ContainerPath) -> None:
        self._top = top
        self._known: dict[tuple[str, ...], Sequence[tuple[str, str]]] = {}

    def scan(self, parts: tuple[str, ...]) -> Sequence[tuple[str, str]]:
        """Names and kinds, nothing of what cannot be listed."""
        if parts not in self._known:
            try:
                self._known[parts] = self._top.joinpath(*parts)._scan()
            except OSError:
                self._known[parts] = ()
        return self._known[parts]

    def exists(self, parts: tuple[str, ...]) -> bool:
        """Whether anything is there."""
        return self._top.joinpath(*parts).exists()


def _or_nobody(shown: Callable[[int], int], number: int) -> int:
    try:
        return shown(number)
    except InvalidInput:
        return NOBODY
