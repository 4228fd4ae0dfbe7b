"""Making new entries, complete in everything but their place, in an area of their file system."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from lamina.engine.apply.attributes import EVERYTHING, Attributes, write_attributes
from lamina.engine.apply.contents import Contents, New
from lamina.engine.apply.hands import Hands
from lamina.engine.apply.places import Directories, Host, entry
from lamina.engine.apply.values import HostChange
from lamina.errors import Conflict, KernelError
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.overlay.layer import TRUSTED, USER
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lamina.overlay.spec import MountSpec

# of FICLONE and copy_file_range; anything else means: not these two files, not here
REAL_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ENOMEM)
CHUNK = 1 << 20
FEW = 32  # up to so many new entries are synced one by one; beyond, their whole file system at once


@contextmanager
def said_of(call: str, path: bytes) -> Iterator[None]:
    """An OSError that says on which of the host's paths: descriptors and slots mean nothing to anybody."""
    try:
        yield
    except OSError as error:
        hint = getattr(error, "hint", "")
        raise KernelError(call, error.errno or errno.EIO, os.fsdecode(path), hint=hint) from error


class Staging:
    """Stages the new entries of an apply. Hard links among them are kept."""

    def __init__(self, hands: Hands, host: Host, changes: Iterable[HostChange], *, sync_each: bool) -> None:
        """*changes* are all of the container: what is in none of them is, on the host, as the container has it."""
        self._hands, self._host, self._sync_each = hands, host, sync_each
        self._changed = {change.path for change in changes}
        self._contents: dict[MountSpec, Contents] = {}
        # of each file with several names: where its first one was staged
        self._linked: dict[bytes, tuple[int, Directories, bytes]] = {}
        self.linked_from: set[bytes] = set()  # paths of the host that got another name

    def stage(self, area: Fd, number: int, slot: bytes, made: Sequence[HostChange]) -> int:
        """Make the entries of *made*: the first becomes *slot* in *area* (its *number*), the others are below it.

        Returns the inode number of the first. Raises OSError, errors.Conflict (the container is still changing them).
        """
        top = made[0].path
        inside = Directories(area)
        directories: list[tuple[bytes, Attributes]] = []
        for change in made:
            place = slot + change.path[len(top) :]
            with said_of("stage", change.path):
                new = self._new(change)
                if stat.S_ISDIR(new.status.st_mode):
                    parent, name = inside.parent(place)
                    self._hands.mkdir(parent, name)
                    directories.append((place, new.attributes))
                elif not self._link(change, new, area, number, inside, place):
                    self._make(change.path, new, inside, place)
                self._hands.meter.path()
        for place, attributes in reversed(directories):
            with said_of("stage", top + place[len(slot) :]):
                held = inside.open(place)
                if self._sync_each:
                    sync_directory(self._hands, held)
                write_attributes(self._hands, held, attributes, EVERYTHING)
        status = entry(area, slot)
        assert status is not None
        inside.close()
        return status.st_ino

    def attributes(self, change: HostChange, old: Attributes) -> Attributes:
        """The container's attributes of a directory that stays, of which the host has *old*.

        What overlayfs hides, the marks of other overlays that the host's directories are part of, stays.
        """
        wanted = self._new(change).attributes
        own = USER if change.spec.userxattr else TRUSTED
        marks = tuple(item for item in old.xattrs if own.is_private(item[0]))
        return replace(wanted, atime_ns=old.atime_ns, xattrs=tuple(sorted(wanted.xattrs + marks)))

    def _new(self, change: HostChange) -> New:
        contents = self._contents.get(change.spec)
        if contents is None:
            contents = self._contents[change.spec] = Contents(change.spec)
        new = contents.read(change.change.path)
        after = change.after
        if after is None or (new.status.st_ino, new.status.st_ctime_ns) != (after.ino, after.ctime_ns):
            raise _moving(change.path)
        return new

    def _make(self, path: bytes, new: New, inside: Directories, place: bytes) -> None:
        parent, name = inside.parent(place)
        mode = new.status.st_mode
        if stat.S_ISREG(mode):
            with Fd(self._hands.create(parent, name)) as fd, new.open() as source:
                before = os.fstat(source)
                copy(self._hands, source, fd, new.status.st_size)
                if _version(os.fstat(source)) != _version(before):
                    raise _moving(path)
                write_attributes(self._hands, fd, new.attributes, EVERYTHING)
                if self._sync_each:
                    self._hands.fsync(fd)
            return
        if stat.S_ISLNK(mode):
            self._hands.symlink(new.target, parent, name)
        else:
            self._hands.mknod(parent, name, mode, new.status.st_rdev)
        with openat2(parent, name, os.O_PATH | os.O_NOFOLLOW) as fd:
            write_attributes(self._hands, fd, new.attributes, EVERYTHING)

    # -- hard links

    def _link(
        self, change: HostChange, new: New, area: Fd, number: int, inside: Directories, place: bytes
    ) -> bool:
        """Make another name of a file that is staged, or on the host and unchanged. False if it has to be made anew."""
        group = change.link_to or change.path
        first = self._linked.get(group)
        if first is None and change.link_to is not None and change.link_to not in self._changed:
            return self._link_to_host(change, new, inside, place)
        if first is None or first[0] != number:
            if change.link_to is not None or new.status.st_nlink > 1:
                self._linked[group] = (number, Directories(area), place)
            return False
        parent, name = inside.parent(place)
        from_directory, from_name = first[1].parent(first[2])
        self._hands.link(from_directory, from_name, parent, name)
        return True

    def _link_to_host(self, change: HostChange, new: New, inside: Directories, place: bytes) -> bool:
        assert change.link_to is not None and change.change.link_to is not None
        try:
            from_directory, from_name = self._host.below(change.mountpoint).parent(change.change.link_to)
            parent, name = inside.parent(place)
            self._hands.link(from_directory, from_name, parent, name)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOENT):
                return False
            raise
        status = entry(parent, name)
        wanted = new.status
        if status is None or _same(status) != _same(wanted):
            self._hands.unlink(parent, name)  # the host exchanged the file meanwhile
            return False
        self.linked_from.add(change.link_to)
        return True

    def close(self) -> None:
        """Close the layers."""
        for contents in self._contents.values():
            contents.close()
        self._contents.clear()
        self._linked.clear()


def _same(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns


def _version(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _moving(path: bytes) -> Conflict:
    return Conflict(
        f"apply {os.fsdecode(path)}: the container changed it again after its changes were listed",
        remedy="stop the container, or look at its changes once more",
    )


def copy(hands: Hands, source: int, fd: int, size: int) -> None:
    """Copy a regular file's content to the empty file *fd*: shared where the file system can, holes kept.

    Raises OSError.
    """
    if size == 0:
        return
    try:
        hands.clone(source, fd)
        hands.meter.written(size)
        return
    except OSError as error:
        if error.errno in REAL_FAILURES:
            raise
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            hands.meter.written(size - at)
            break  # the rest is a hole
        hands.meter.written(start - at)
        at = min(os.lseek(source, start, os.SEEK_HOLE), size)
        _copy_extent(hands, source, fd, start, at)
    hands.truncate(fd, size)


def _copy_extent(hands: Hands, source: int, fd: int, start: int, end: int) -> None:
    try:
        hands.copy_range(source, fd, start, end)
        return
    except OSError as error:
        if error.errno in REAL_FAILURES:
            raise
    while start < end and (data := os.pread(source, min(CHUNK, end - start), start)):
        hands.write(fd, data, start)
        start += len(data)
        hands.meter.written(len(data))


def sync_directory(hands: Hands, directory: int) -> None:
    """fsync(2) of a directory given by an O_PATH descriptor."""
    with Fd(os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)) as fd:
        hands.fsync(fd)
