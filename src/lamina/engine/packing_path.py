"""One path of a container as an archive.

What is in a container is its own: names change hands while they are looked at (CVE-2018-15664). So the path is
resolved once, by the kernel, with the container's root as "/" (openat2(2), RESOLVE_IN_ROOT), and everything below is
reached from descriptors of what was found, never by a path again. Nothing but regular files is opened for reading.
"""

from __future__ import annotations

import os
from errno import EIO, ENODATA, ENOTSUP, EPERM
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISLNK, S_ISREG

from lamina.engine.in_root import reach, said_of
from lamina.errors import InvalidInput, KernelError, LaminaError
from lamina.image.apply.ids import IdMap
from lamina.image.pack.packer import Packer
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.image.pack.sink import Packed

DEEPEST = 200  # directories that are open at once; what unpacks takes no more (image.tar.limits)
NOBODY = 65534  # what the kernel shows of owners that it has no number for, user_namespaces(7)


class Shown(IdMap):
    """Owners as the container's processes see them: whoever has no number there is nobody."""

    def uid(self, number: int) -> int:
        """The number in the container."""
        return _or_nobody(super().uid, number)

    def gid(self, number: int) -> int:
        """The number in the container."""
        return _or_nobody(super().gid, number)


def _or_nobody(mapped: object, number: int) -> int:
    try:
        return int(mapped(number))  # type: ignore[operator]
    except InvalidInput:
        return NOBODY


class Out:
    """Packs what is found at one path; *name* is its name in the archive, b"." for the archive's root."""

    def __init__(
        self,
        descriptor: int,
        name: bytes,
        ids: IdMap | None,
        *,
        devices: bool,
        written: Callable[[int], object] | None,
    ) -> None:
        """*devices*: whether device nodes are packed; else they are counted and left out."""
        self._descriptor, self._name, self._devices, self._written = descriptor, name, devices, written
        self.packer = Packer(self, "none", ids, layer=False)
        self.left_out = 0

    def write(self, data: bytes, /) -> None:
        """All of *data*. Raises BrokenPipeError, KernelError."""
        view = memoryview(data)
        try:
            while view:
                done = os.write(self._descriptor, view)
                if self._written is not None:
                    self._written(done)
                view = view[done:]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise KernelError("write", error.errno or EIO, "archive") from error

    def wants(self, status: os.stat_result) -> bool:
        """Whether this is packed."""
        if self._devices or not (S_ISBLK(status.st_mode) or S_ISCHR(status.st_mode)):
            return True
        self.left_out += 1
        return False

    def below(self, names: tuple[bytes, ...]) -> bytes:
        """The archive's name of what is at *names* below the path."""
        return b"/".join(names if self._name == b"." and names else (self._name, *names))

    def finish(self) -> tuple[int, int]:
        """End the archive; its size, and how many devices and sockets were left out."""
        packed: Packed = self.packer.finish()
        return packed.archive, self.left_out + packed.sockets


def pack(
    root: int,
    out: int,
    path: bytes,
    name: bytes,
    follow: bool,
    ids: IdMap | None,
    devices: bool,
    written: Callable[[int], object] | None = None,
) -> tuple[int, int]:
    """Write what is at *path* below the directory *root* to *out*; the archive's size, how many files were left out.

    *root* and *out* are descriptors; *follow*: where *path* is a symbolic link, what it leads to. A *path* that ends
    with "/" or "/." is a directory. *written* is told of each piece of the archive. Raises NotFound, InvalidInput,
    Conflict, KernelError, OSError.
    """
    packing = Out(out, name, ids, devices=devices, written=written)
    with _found(root, path, follow) as fd:
        _put(packing, fd, ())
        if S_ISDIR(os.fstat(fd).st_mode):
            _put_below(packing, fd, path)
    return packing.finish()


def _found(root: int, path: bytes, follow: bool) -> Fd:
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW) | (os.O_DIRECTORY if is_directory(path) else 0)
    try:
        return reach(root, path, flags)
    except KernelError as error:
        raise said_of(error, "copy", path) from error


def is_directory(path: bytes) -> bool:
    """Whether *path* says that it is a directory, as docker's cp reads it."""
    return path.endswith((b"/", b"/.")) or path in (b"", b".")


def _put_below(packing: Out, top: Fd, path: bytes) -> None:
    """Everything below *top*, which is at *path*, each directory before what is in it."""
    said = (path[:-2] if path.endswith(b"/.") else path).rstrip(b"/")
    opened = [_listed(top)]
    names: tuple[bytes, ...] = ()
    try:
        while opened:
            directory, waiting = opened[-1]
            if not waiting:
                opened.pop()[0].close()
                names = names[:-1]
                continue
            entry = waiting.pop()
            try:
                fd = Fd(os.open(entry, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory))
            except FileNotFoundError:
                continue  # it has gone since the directory was read
            with fd:
                try:
                    _put(packing, fd, (*names, entry))
                    below = _listed(fd) if S_ISDIR(os.fstat(fd).st_mode) else None
                except OSError as error:
                    if isinstance(error, (LaminaError, BrokenPipeError)):
                        raise
                    where = os.fsdecode(b"/".join((said, *names, entry)))
                    raise KernelError("copy", error.errno or EIO, where) from error
                if below is not None:
                    opened.append(below)
                    names = (*names, entry)
                    if len(opened) > DEEPEST:
                        raise InvalidInput(f"copy: directories are more than {DEEPEST} deep")
    finally:
        for directory, _ in opened:
            directory.close()


def _listed(fd: int) -> tuple[Fd, list[bytes]]:
    """The directory, open for reading, and its names, last first."""
    opened = Fd(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd))
    return opened, sorted(map(os.fsencode, os.listdir(opened)), reverse=True)


def _put(packing: Out, fd: Fd, names: tuple[bytes, ...]) -> None:
    status = os.fstat(fd)
    if not packing.wants(status):
        return
    target = os.readlink(b"", dir_fd=fd) if S_ISLNK(status.st_mode) else b""
    packing.packer.put(packing.below(names), status, _attributes(fd, status), target, lambda: _content(fd))


def _content(fd: Fd) -> Fd:
    """The very file that was looked at, whatever has its name now."""
    assert S_ISREG(os.fstat(fd).st_mode)
    return Fd(os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def _attributes(fd: Fd, status: os.stat_result) -> dict[str, bytes]:
    if not (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode)):
        return {}
    place, found = b"/proc/self/fd/%d" % fd, {}
    try:
        for name in os.listxattr(place):
            found[name] = os.getxattr(place, name)
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP, EPERM):
            raise
    return found
