"""What the methods of `ContainerPath` do, below the root of a container: each one step that cannot be led astray.

Arguments and results can be pickled; descriptors that are results are handed over. Errors are plain OSErrors, as
pathlib's are, and what `in_root` refuses.
"""

from __future__ import annotations

import os
from errno import EEXIST, ELOOP, ENOENT, ENOTDIR
from stat import S_ISLNK

from lamina.engine.in_root import MOST_LINKS, checked, opened_again, parent_of, place_of, reach, replaceable
from lamina.errors import KernelError
from lamina.linux.fd import Fd

_TRIES = 64  # between looking for a file and making it, somebody else may make or remove one
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
Owner = tuple[int, int]


def stat(root: int, path: bytes, follow: bool) -> os.stat_result:
    """stat(2), or lstat(2)."""
    with reach(root, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW)) as found:
        return os.fstat(found)


def samefile(root: int, path: bytes, other: bytes) -> bool:
    """Whether both lead to the same file. In one call: each mount of what does not run is another device."""
    with reach(root, path) as one, reach(root, other) as two:
        return os.path.sameopenfile(one, two)


def scan(root: int, path: bytes) -> list[tuple[bytes, str]]:
    """The names in the directory, and of what kind each is: "d" directory, "l" symbolic link, "" anything else."""
    with reach(root, path, os.O_RDONLY | os.O_DIRECTORY) as found, os.scandir(found) as entries:
        return [(os.fsencode(entry.name), _kind(entry)) for entry in entries]


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "l"
    return "d" if entry.is_dir(follow_symlinks=False) else ""


def readlink(root: int, path: bytes) -> bytes:
    """readlink(2)."""
    with reach(root, path, os.O_PATH | os.O_NOFOLLOW) as found:
        if not S_ISLNK(os.fstat(found).st_mode):
            parent, name = parent_of(root, path)
            with parent:
                return os.readlink(name, dir_fd=parent)  # says what it is instead
        return os.readlink(b"", dir_fd=found)


def resolve(root: int, path: bytes, strict: bool) -> bytes:
    """The absolute path of what *path* leads to, without links and "..", as realpath(3); unless *strict* also of what
    is not there. It is a name, which somebody in the container may give to something else meanwhile.
    """
    way: list[bytes] = []
    left, links, missing = path.split(b"/")[::-1], 0, False
    while left:
        name = left.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del way[-1:]
            continue
        way.append(name)
        if missing:
            continue
        try:
            with reach(root, b"/".join(way), os.O_PATH | os.O_NOFOLLOW) as found:
                target = os.readlink(b"", dir_fd=found) if S_ISLNK(os.fstat(found).st_mode) else None
        except OSError as error:
            if strict or error.errno not in (ENOENT, ENOTDIR):
                raise
            missing = True
            continue
        if target is not None:
            links += 1
            if links > MOST_LINKS:
                raise KernelError("resolve", ELOOP, os.fsdecode(path))
            way = [] if target.startswith(b"/") else way[:-1]
            left += target.split(b"/")[::-1]
    return b"/" + b"/".join(way)


def open_file(root: int, path: bytes, flags: int, mode: int, owner: Owner) -> Fd:
    """open(2) of a regular file; one that it makes belongs to *owner* and has *mode*."""
    wanted = flags & ~(os.O_CREAT | os.O_EXCL)
    for _ in range(_TRIES):
        if not flags & os.O_EXCL:
            try:
                with reach(root, path) as found:
                    return opened_again(found, wanted)
            except KernelError as error:
                if error.errno != ENOENT or not flags & os.O_CREAT:
                    raise
        try:
            return _new(root, path, wanted & ~os.O_TRUNC, mode, owner, follow=not flags & os.O_EXCL)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
    raise KernelError("open", EEXIST, os.fsdecode(path))


def _new(root: int, path: bytes, flags: int, mode: int, owner: Owner, *, follow: bool) -> Fd:
    parent, name = place_of(root, path) if follow else parent_of(root, path)
    with parent:
        checked(parent)
        made = Fd(os.open(name, flags | _NEW, 0o600, dir_fd=parent))
    _give(made, owner)
    os.fchmod(made, mode)
    return made


def _give(fd: int, owner: Owner) -> None:
    if os.fstat(fd).st_uid != owner[0]:
        os.chown(b"/proc/self/fd/%d" % fd, *owner)


def mkdir(root: int, path: bytes, mode: int, owner: Owner) -> None:
    """mkdir(2)."""
    parent, name = parent_of(root, path)
    with parent:
        checked(parent)
        os.mkdir(name, 0o700, dir_fd=parent)
        with Fd(
            os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        ) as made:
            if os.listdir(made):  # of somebody in the container, who put it there in between
                raise FileExistsError(EEXIST, os.strerror(EEXIST))
            _give(made, owner)
            os.fchmod(made, mode)


def unlink(root: int, path: bytes) -> None:
    """unlink(2)."""
    parent, name = parent_of(root, path)
    with parent:
        checked(parent)
        replaceable(parent, name)
        os.unlink(name, dir_fd=parent)


def rmdir(root: int, path: bytes) -> None:
    """rmdir(2)."""
    parent, name = parent_of(root, path)
    with parent:
        checked(parent)
        replaceable(parent, name)
        os.rmdir(name, dir_fd=parent)


def rename(root: int, path: bytes, target: bytes) -> None:
    """rename(2): what has the name *target* is replaced."""
    parent, name = parent_of(root, path)
    with parent:
        checked(parent)
        above, new = parent_of(root, target)
        with above:
            checked(above)
            replaceable(parent, name)
            replaceable(above, new)
            os.rename(name, new, src_dir_fd=parent, dst_dir_fd=above)


def symlink(root: int, path: bytes, target: bytes, owner: Owner) -> None:
    """symlink(2): *path* becomes a link with the text *target*."""
    parent, name = parent_of(root, path)
    with parent:
        checked(parent)
        os.symlink(target, name, dir_fd=parent)
        with Fd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as made:
            if S_ISLNK(os.fstat(made).st_mode):
                _give(made, owner)


def link(root: int, path: bytes, target: bytes) -> None:
    """link(2): *path* becomes another name of the file *target*."""
    there, name = parent_of(root, target)
    with there:
        os.stat(name, dir_fd=there, follow_symlinks=False)  # said first where it is missing, as link(2) does
        parent, new = parent_of(root, path)
        with parent:
            checked(parent)
            os.link(name, new, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)


def chmod(root: int, path: bytes, mode: int) -> None:
    """chmod(2)."""
    with reach(root, path) as found:
        checked(found)
        if S_ISLNK(os.fstat(found).st_mode):
            raise KernelError("chmod", ELOOP, os.fsdecode(path))
        os.chmod(b"/proc/self/fd/%d" % found, mode)


def utime(root: int, path: bytes, times: tuple[int, int] | None) -> None:
    """utimensat(2), *times* in nanoseconds; None: now."""
    with reach(root, path) as found:
        checked(found)
        os.utime(b"/proc/self/fd/%d" % found, ns=times) if times else os.utime(b"/proc/self/fd/%d" % found)
