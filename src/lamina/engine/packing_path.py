"""One path of a container as an archive: out of a running container's root, or of a stack that nobody has mounted.

What is in a container is its own: names change hands while they are looked at (CVE-2018-15664). So the path is
resolved once, by the kernel, with the container's root as "/" (openat2(2), RESOLVE_IN_ROOT), and everything below is
reached from descriptors of what was found, never by a path again. Nothing but regular files is opened for reading.
"""

from __future__ import annotations

import os
from errno import EAGAIN, EIO, ELOOP, ENODATA, ENOENT, ENOTDIR, ENOTSUP, EPERM
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISLNK, S_ISREG

from lamina.errors import InvalidInput, KernelError, NotFound
from lamina.image.apply.ids import IdMap
from lamina.image.pack.packer import Packer
from lamina.linux.constants import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.overlay.stack import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.pack.sink import Packed
    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree

INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
DEEPEST = 200  # directories that are open at once; what unpacks takes no more (image.tar.limits)
_TRIES = 64  # a ".." that raced with a rename is refused with EAGAIN, openat2(2)
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

    def __init__(self, descriptor: int, name: bytes, ids: IdMap | None, *, devices: bool) -> None:
        """*devices*: whether device nodes are packed; else they are counted and left out."""
        self._descriptor, self._name, self._devices = descriptor, name, devices
        self.packer = Packer(self, "none", None, ids)
        self.left_out = 0

    def write(self, data: bytes, /) -> None:
        """All of *data*. Raises BrokenPipeError, KernelError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
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


# -- out of a container that runs


def pack_running(
    root: int, out: int, path: bytes, name: bytes, follow: bool, ids: IdMap | None, devices: bool
) -> tuple[int, int]:
    """Write what is at *path* below the directory *root* to *out*; the archive's size, how many files were left out.

    *root* and *out* are descriptors; *follow*: where *path* is a symbolic link, what it leads to. A *path* that ends
    with "/" or "/." is a directory. Raises NotFound, InvalidInput, Conflict, KernelError, OSError.
    """
    packing = Out(out, name, ids, devices=devices)
    with _found(root, path, follow) as fd:
        _put(packing, fd, ())
        if S_ISDIR(os.fstat(fd).st_mode):
            _put_below(packing, fd)
    return packing.finish()


def _found(root: int, path: bytes, follow: bool) -> Fd:
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW) | (os.O_DIRECTORY if is_directory(path) else 0)
    for left in reversed(range(_TRIES)):
        try:
            return openat2(root, path.lstrip(b"/") or b".", flags, resolve=INSIDE)
        except KernelError as error:
            if error.errno != EAGAIN or not left:
                raise missing(path, error) from error
    raise AssertionError("unreachable")


def missing(path: bytes, error: OSError) -> OSError | NotFound:
    """The error of looking for *path*, in words."""
    if error.errno in (ENOENT, ELOOP):
        return NotFound(f"copy {os.fsdecode(path)}: the container has no such file")
    return KernelError("copy", error.errno or EIO, os.fsdecode(path))


def is_directory(path: bytes) -> bool:
    """Whether *path* says that it is a directory, as docker's cp reads it."""
    return path.endswith((b"/", b"/.")) or path in (b"", b".")


def _put_below(packing: Out, top: Fd) -> None:
    """Everything below *top*, each directory before what is in it."""
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
                _put(packing, fd, (*names, entry))
                if S_ISDIR(os.fstat(fd).st_mode):
                    if len(opened) >= DEEPEST:
                        raise InvalidInput(f"copy: directories are more than {DEEPEST} deep")
                    opened.append(_listed(fd))
                    names = (*names, entry)
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


# -- out of one that does not


def pack_stopped(
    spec: MountSpec, out: int, path: bytes, name: bytes, follow: bool, ids: IdMap | None, devices: bool
) -> tuple[int, int]:
    """As `pack_running`, of what the stack *spec* shows; it is read without being mounted."""
    packing = Out(out, name, ids, devices=devices)
    with Overlay(spec).open() as tree:
        pending: list[tuple[tuple[bytes, ...], Tree]] = [((), _found_in(tree, path, follow))]
        while pending:
            names, node = pending.pop()
            status = node.lstat()
            if packing.wants(status):
                target = node.readlink_bytes() if S_ISLNK(status.st_mode) else b""
                packing.packer.put(
                    packing.below(names), status, node.xattrs(), target,
                    lambda node=node: node.open_content(follow_symlinks=False),  # type: ignore[misc]
                )  # fmt: skip
            if S_ISDIR(status.st_mode):
                pending += [((*names, entry.parts[-1]), entry) for entry in reversed(list(node.iterdir()))]
    return packing.finish()


def _found_in(tree: Tree, path: bytes, follow: bool) -> Tree:
    node = tree.root / path.lstrip(b"/")
    try:
        if follow or is_directory(path):
            node = node.resolve(strict=True)
            if is_directory(path) and not node.is_dir():
                raise KernelError("copy", ENOTDIR, os.fsdecode(path))
            return node
        node.lstat()
        parent = node.parent.resolve(strict=True)
        return (
            parent / node.parts[-1] if node.parts and node.parts[-1] != b".." else node.resolve(strict=True)
        )
    except KernelError:
        raise
    except OSError as error:
        raise missing(path, error) from error
