"""A new volume begins with what the image has at its place, as in Docker: copied from the layers, nothing is mounted.

The image is hostile. Its tree is read by `overlay.tree`, which follows no link out of it. So is whoever has the volume
mounted already, and left it empty: he may exchange any name in it while this goes on. What is written goes by
descriptors of what was made here, each found by one name that is not followed.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP, EOPNOTSUPP, EPERM

from lamina.errors import KernelError
from lamina.linux.constants import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.overlay.copying import copy_content
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from lamina.store.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.image.apply.ids import IdMap
    from lamina.overlay.tree import Tree

DEEPEST = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMED = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
# attributes that a copy has as well; security.selinux and the like are the system's
_COPIED = ("user.", "security.capability", "system.posix_acl", "trusted.")


def fill(
    volume: bytes,
    lowers: tuple[bytes, ...],
    userxattr: bool,
    path: str,
    ids: IdMap | None = None,
    *,
    again: bool = False,
) -> None:
    """Copy what the stack of *lowers* has at *path* into the directory *volume*, with the directory's own owner and
    mode. Nothing happens if there is no directory. *ids* are what the owners become. *again*: somebody began, and did
    not come to the end; what else others have written by now stays. Raises OSError, InvalidInput for an owner that is
    not in *ids*; then nothing of it is there.
    """
    with Overlay(MountSpec(lowerdirs=lowers, userxattr=userxattr)).open() as tree:
        place = (tree / path).resolve()
        if not place.is_dir():
            return
        if again:
            _remove(volume, [os.fsencode(entry.name) for entry in place.iterdir()])
        with Fd(os.open(volume, _DIRECTORY)) as target:
            there = {os.fsencode(name) for name in os.listdir(target)}
            try:
                _Copier(target, ids).directory(place, target, b"")
            except BaseException:
                mine = [os.fsencode(entry.name) for entry in place.iterdir()]
                _remove(volume, [name for name in mine if name not in there])
                raise


def _remove(volume: bytes, names: Iterable[bytes]) -> None:
    for name in names:
        remove_tree(volume + b"/" + name)


class _Copier:
    """One copy: knows where the first of the names of each file is, and which file has that name here."""

    def __init__(self, top: Fd, ids: IdMap | None) -> None:
        self.top, self.ids = top, ids
        self.linked: dict[tuple[int, int], bytes] = {}
        self.made: dict[bytes, tuple[int, int]] = {}

    def directory(self, source: Tree, target: Fd, path: bytes) -> None:
        if path.count(b"/") > DEEPEST:
            raise OSError(ELOOP, os.strerror(ELOOP), os.fsdecode(path))
        for entry in source.iterdir():
            name = os.fsencode(entry.name)
            found = entry.lstat()
            if stat.S_ISDIR(found.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                with Fd(os.open(name, _DIRECTORY, dir_fd=target)) as below:
                    self.directory(entry, below, path + name + b"/")
            elif not self._link(found, path + name, name, target):
                self._other(entry, found, name, target)
                if found.st_nlink > 1:
                    self._remember(path + name, name, target)
        _finish(source, source.lstat(), target, self.ids)

    def _link(self, found: os.stat_result, path: bytes, name: bytes, target: Fd) -> bool:
        """Whether it is another name of something that is there, and now is that here as well.

        The first name is looked up once more, so only the file that was made there is given another: a link(2) to a
        path follows what a directory on the way was exchanged for, and what it leads to would be in the volume.
        """
        if found.st_nlink < 2:
            return False
        first = self.linked.setdefault((found.st_dev, found.st_ino), path)
        if first == path or first not in self.made:  # not a device, which was left out
            return False
        try:
            with openat2(self.top, first, _NAMED, resolve=_BENEATH) as there:
                if _which(there) != self.made[first]:
                    return False
                os.link(b"/proc/self/fd/%d" % there, name, dst_dir_fd=target, follow_symlinks=True)
        except KernelError:  # nothing of that name any more
            return False
        return True

    def _remember(self, path: bytes, name: bytes, target: Fd) -> None:
        try:
            with Fd(os.open(name, _NAMED, dir_fd=target)) as made:
                self.made[path] = _which(made)
        except FileNotFoundError:  # a device, or taken away by somebody
            pass

    def _other(self, entry: Tree, found: os.stat_result, name: bytes, target: Fd) -> None:
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFREG:
            with Fd(os.open(name, _NEW, 0o600, dir_fd=target)) as new, entry.open_content() as old:
                copy_content(old, new)
                _finish(entry, found, new, self.ids)
            return
        if kind == stat.S_IFLNK:
            os.symlink(entry.readlink_bytes(), name, dir_fd=target)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            return  # no device of an image gets into a volume, where nothing says that it is not the host's
        else:
            os.mknod(name, kind | 0o600, dir_fd=target)
        os.chown(name, *_owner(found, self.ids), dir_fd=target, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            with Fd(os.open(name, _NAMED, dir_fd=target)) as made:
                # a link that took its place has no mode, but leads to something that has
                if stat.S_IFMT(os.fstat(made).st_mode) == kind:
                    os.chmod(b"/proc/self/fd/%d" % made, stat.S_IMODE(found.st_mode))
        times = (found.st_atime_ns, found.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _which(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _owner(found: os.stat_result, ids: IdMap | None) -> tuple[int, int]:
    if ids is None:
        return found.st_uid, found.st_gid
    return ids.uid(found.st_uid), ids.gid(found.st_gid)


def _finish(source: Tree, found: os.stat_result, target: Fd, ids: IdMap | None) -> None:
    """Owner, then what a change of owner takes away: mode and attributes; times last."""
    os.fchown(target, *_owner(found, ids))
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name in source.listxattr(follow_symlinks=False):
        if name.startswith(_COPIED):
            content = source.getxattr(name, follow_symlinks=False)
            try:
                os.setxattr(target, name, content if ids is None else ids.xattr(name, content))
            except OSError as error:
                if error.errno not in (EOPNOTSUPP, EPERM, EACCES):
                    raise
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def give(path: bytes, uid: int, gid: int) -> None:
    """Make uid and gid the owner of *path* and of all that is in it; links are given, not followed. Raises OSError."""
    top = Fd(os.open(path, os.O_PATH | os.O_CLOEXEC))
    with top:
        os.chown(b"/proc/self/fd/%d" % top, uid, gid)
        if stat.S_ISDIR(os.fstat(top).st_mode):
            with Fd(
                os.open(b"/proc/self/fd/%d" % top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            ) as directory:
                _give_below(directory, uid, gid)


def _give_below(directory: Fd, uid: int, gid: int, depth: int = 0) -> None:
    if depth > DEEPEST:  # a container makes them as deep as it likes; each level is a descriptor here
        raise OSError(ELOOP, os.strerror(ELOOP))
    device = os.fstat(directory).st_dev
    for name in os.listdir(directory):
        os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and found.st_dev == device:
            try:
                below = Fd(os.open(name, _DIRECTORY, dir_fd=directory))
            except (NotADirectoryError, FileNotFoundError):  # exchanged, or gone, meanwhile
                continue
            with below:
                _give_below(below, uid, gid, depth + 1)
