"""An archive's files put to their places in a container, which may run and be hostile, with the rules of docker's cp.

Unlike what unpacks layers (image/apply), this shares its directories with others. Every directory is opened from the
one above it by one name that is not followed; what is made is made beside its place, finished through its descriptor,
and takes its place with one rename. Nothing that was there is opened for its content, written to or emptied: whatever
the container puts in our way (a link, a fifo, a device) is replaced or refused, and a file is there whole or not at
all.
"""

from __future__ import annotations

import os
from errno import (
    EBUSY,
    EDQUOT,
    EEXIST,
    EISDIR,
    ELOOP,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EROFS,
    EXDEV,
)
from stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFLNK, S_IFMT, S_ISBLK, S_ISCHR, S_ISDIR

from lamina.engine.in_root import (
    DIRECTORY,
    NewFile,
    checked,
    discard,
    fresh_name,
    place_of,
    reach,
    replaceable,
    said_of,
)
from lamina.errors import Conflict, InvalidInput, KernelError, LaminaError, NotFound
from lamina.image.apply.attributes import Attributes
from lamina.image.apply.pieces import write_pieces
from lamina.image.compression import OF_ARCHIVES, reader
from lamina.image.tar.limits import Limits
from lamina.image.tar.reader import entries
from lamina.linux.fd import Fd
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.apply.ids import IdMap
    from lamina.image.tar.entry import Entry

ITEM = b"item"  # what is copied, in an archive of our own
SET_IDS = 0o6000
_DEVICES = {"char": S_IFCHR, "block": S_IFBLK}
_REMEMBERED = 100_000  # directories that get their times again when they are come back to


@value
class Wanted:
    """Where an archive goes, and as what.

    `path` is the destination. `name` is what the source is called, b"." for the content of a directory, None for an
    archive of the caller's own, which `path` must be a directory for; `directory`: the source is one. `keep`: the
    owners of the archive, its set-id bits and attributes, else everything is the container's root's.
    """

    path: bytes
    name: bytes | None
    directory: bool
    keep: bool


@value
class Placed:
    """What was put to its place: bytes of all files; how many devices were left out; attributes that could not be set,
    as (what, how often).
    """

    size: int
    left_out: int
    skipped: tuple[tuple[str, int], ...]


def place(root: int, stream: int, wanted: Wanted, ids: IdMap | None, limits: Limits) -> Placed:
    """Put what the archive from the descriptor *stream* holds to its place below *root*.

    Raises NotFound, Conflict, InvalidInput, Corrupt, Unsupported, KernelError.
    """
    said = f"copy to {os.fsdecode(wanted.path)}"
    try:
        top, first = _destination(root, wanted, said)
        with _Placing(root, top, first, wanted, ids, limits, said) as placing:
            if wanted.name is None:
                chunks = reader(lambda size: os.read(stream, size), limits, OF_ARCHIVES).next_chunk
            else:
                chunks = lambda: os.read(stream, 1 << 18)  # noqa: E731
            for entry in entries(chunks, limits):
                placing.put(entry)
            return placing.finish()
    except OSError as error:
        if isinstance(error, LaminaError):
            raise
        raise said_of(error, "copy to", wanted.path) from error


def _destination(root: int, wanted: Wanted, said: str) -> tuple[Fd, bytes | None]:
    """The directory to work in, and what the source is called there, None for an archive of the caller's own."""
    path, asserted = wanted.path, wanted.path.endswith((b"/", b"/.")) or wanted.path in (b"", b".")
    plain = (path[:-2] if path.endswith(b"/.") else path).rstrip(b"/")
    try:
        with reach(root, plain) as found:
            status = os.fstat(found)
            if S_ISDIR(status.st_mode):
                top = Fd(os.open(b".", DIRECTORY, dir_fd=found))
                return top, wanted.name
    except KernelError as error:
        if error.errno not in (ENOENT, ENOTDIR):
            raise said_of(error, "copy to", path) from error
        status = None
    if wanted.name is None:
        if status is None:
            raise NotFound(f"{said}: there is no such directory in the container")
        raise Conflict(f"{said}: an archive needs a directory, and it is none")
    try:
        top, name = place_of(root, plain)
    except KernelError as error:
        if error.errno not in (ENOENT, ENOTDIR):
            raise
        above = os.fsdecode(os.path.dirname(plain) or b"/")
        raise NotFound(f"{said}: the container has no directory {above}") from error
    if status is not None:
        if asserted:
            raise Conflict(f"{said}: it is not a directory")
        if wanted.directory:
            raise Conflict(f"{said}: a directory cannot take the place of a file")
        if S_ISBLK(status.st_mode) or S_ISCHR(status.st_mode):
            raise Conflict(f"{said}: it is a device")
    elif asserted and not wanted.directory:
        raise NotFound(f"{said}: there is no such directory in the container")
    return top, name


class _Placing:
    """One archive on its way. For a `with`."""

    def __init__(
        self,
        root: int,
        top: Fd,
        first: bytes | None,
        wanted: Wanted,
        ids: IdMap | None,
        limits: Limits,
        said: str,
    ) -> None:
        self._root, self._first, self._wanted, self._limits, self._said = root, first, wanted, limits, said
        self._attributes = Attributes(ids, namespaced=True)
        self._nobody = (0, 0) if ids is None else (ids.uid(0), ids.gid(0))
        # from the top down to where the last entry went: name, descriptor, the time it is to have when it is left
        self._open: list[tuple[bytes, Fd, int | None]] = [(b"", top, None)]
        self._times: dict[tuple[bytes, ...], int] = {}
        self._size = self._left_out = 0

    def __enter__(self) -> _Placing:
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open:
            opened[1].close()

    def finish(self) -> Placed:
        """Give the directories that are still open their times."""
        self._leave(1)
        return Placed(self._size, self._left_out, tuple(sorted(self._attributes.skipped.items())))

    def put(self, entry: Entry) -> None:
        """One entry. Raises Conflict, InvalidInput, Corrupt, OSError."""
        parts = self._parts(entry.name)
        if not parts:
            if entry.kind != "directory":
                raise InvalidInput(f"{self._said}: the archive's own root is a {entry.kind}")
            return
        name = parts.pop()
        try:
            parent = self._directory(parts)
            if entry.kind == "directory":
                self._make_directory(parent, (*parts, name), entry)
            elif entry.kind == "file":
                self._file(parent, name, entry)
            elif entry.kind == "link":
                self._link(parent, name, entry)
            elif entry.kind == "symlink":
                self._symlink(parent, name, entry)
            else:
                self._special(parent, name, entry)
        except OSError as error:
            if isinstance(error, LaminaError):
                raise
            raise self._explained(error, (*parts, name)) from error

    def _parts(self, name: bytes) -> list[bytes]:
        parts = [part for part in name.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise InvalidInput(
                f"{self._said}: the path {name!r} of the archive goes up",
                remedy="it is malformed, or hostile",
            )
        if len(parts) > self._limits.depth:
            self._limits.exceeded("depth", f"a path {len(parts)} levels deep")
        if self._first is None:
            return parts
        assert parts[0] == ITEM
        return parts[1:] if self._first == b"." else [self._first, *parts[1:]]

    def _explained(self, error: OSError, parts: tuple[bytes, ...]) -> OSError | LaminaError:
        at = f"{self._said}: {os.fsdecode(b'/'.join(parts))}"
        if error.errno in (EISDIR, ENOTEMPTY, EEXIST):
            return Conflict(f"{at}: a file cannot take the place of a directory")
        if error.errno in (ELOOP, ENOTDIR):
            return Conflict(f"{at}: a directory cannot take the place of a file")
        if error.errno in (EBUSY, EXDEV):
            return Conflict(
                f"{at}: something is mounted there",
                remedy="write into it instead: lamina exec -i CONTAINER sh -c 'cat > FILE' < FILE",
            )
        if error.errno == EROFS:
            return Conflict(f"{at}: it is read-only in the container")
        if error.errno == ENOENT:
            return self._exchanged(parts)
        remedy = "free some space; what was copied before stays" if error.errno in (ENOSPC, EDQUOT) else ""
        return KernelError("copy to", error.errno or 0, os.fsdecode(self._wanted.path), remedy=remedy)

    def _exchanged(self, parts: tuple[bytes, ...]) -> Conflict:
        where = os.fsdecode(b"/".join(parts))
        return Conflict(f"{self._said}: {where}: somebody in the container exchanges the files there")

    # -- directories

    def _directory(self, parts: list[bytes], *, make: bool = True) -> Fd:
        """The directory *parts* below the top, open; with *make* what is missing of it is made."""
        same = 0
        while same < len(parts) and same + 1 < len(self._open) and self._open[same + 1][0] == parts[same]:
            same += 1
        self._leave(same + 1)
        for number in range(same, len(parts)):
            path = tuple(parts[: number + 1])
            fd = self._enter(self._open[-1][1], path, make=make)
            self._open.append((path[-1], fd, self._times.get(path)))
        return self._open[-1][1]

    def _leave(self, left: int) -> None:
        """Close all but the first *left* of those that are open."""
        while len(self._open) > left:
            _, fd, time = self._open.pop()
            with fd:
                if time is not None:
                    os.utime(fd, ns=(time, time))

    def _enter(self, parent: Fd, path: tuple[bytes, ...], *, make: bool) -> Fd:
        try:
            fd = Fd(os.open(path[-1], DIRECTORY, dir_fd=parent))
        except FileNotFoundError:  # no entry has described it
            if not make:
                raise
            fd = self._make(parent, path)
            self._give(fd, self._nobody)
            os.fchmod(fd, 0o755)
        except OSError as error:
            if error.errno not in (ELOOP, ENOTDIR):
                raise
            if self._wanted.name is not None:
                raise self._explained(error, path) from error
            fd = self._by_links(path)
        checked(fd)
        return fd

    def _by_links(self, path: tuple[bytes, ...]) -> Fd:
        """As tar(1) does with what is in an archive below a link of the destination: /lib, which is usr/lib."""
        try:
            return reach(self._root, b"/".join((self._wanted.path, *path)), os.O_RDONLY | os.O_DIRECTORY)
        except KernelError as error:
            raise self._explained(error, path) from error

    def _make(self, parent: Fd, path: tuple[bytes, ...]) -> Fd:
        """A new directory, open, which nobody else can enter yet. Raises FileExistsError, Conflict, OSError."""
        checked(parent)
        os.mkdir(path[-1], 0o700, dir_fd=parent)
        fd = Fd(os.open(path[-1], DIRECTORY, dir_fd=parent))
        if os.listdir(fd):
            fd.close()
            raise self._exchanged(path)
        return fd

    def _make_directory(self, parent: Fd, path: tuple[bytes, ...], entry: Entry) -> None:
        try:
            fd, new = self._make(parent, path), True
        except FileExistsError:
            fd, new = Fd(os.open(path[-1], DIRECTORY, dir_fd=parent)), False
        with fd:
            checked(fd)
            if not (new or self._wanted.keep):
                return  # what is there already keeps its owner and its permissions
            self._describe(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        if len(self._times) < _REMEMBERED:
            self._times[path] = entry.mtime_ns

    # -- files

    def _file(self, parent: Fd, name: bytes, entry: Entry) -> None:
        checked(parent)
        with NewFile(parent) as new:
            write_pieces(new.fd, entry)
            self._describe(new.fd, entry)
            os.utime(new.fd, ns=(entry.mtime_ns, entry.mtime_ns))
            new.appear(name)
        self._size += entry.size

    def _describe(self, fd: Fd, entry: Entry) -> None:
        """Owner, then what a change of owner takes away."""
        self._give(fd, self._owner(entry))
        keep = self._wanted.keep
        os.fchmod(fd, entry.mode if keep else entry.mode & ~SET_IDS)
        if entry.xattrs:
            wanted = self._attributes.wanted(entry.xattrs)
            if not keep:
                wanted = {name: text for name, text in wanted.items() if name.startswith("user.")}
            self._attributes.set_xattrs(fd, wanted)

    def _give(self, fd: Fd, owner: tuple[int, int]) -> None:
        status = os.fstat(fd)
        if (
            status.st_uid,
            status.st_gid,
        ) != owner:  # some file systems know but one owner, and refuse any other
            os.chown(b"/proc/self/fd/%d" % fd, *owner)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        if not self._wanted.keep:
            return self._nobody
        try:
            return self._attributes.owner(entry.uid, entry.gid)
        except InvalidInput as error:
            raise InvalidInput(
                f"{self._said}: the container has no ids {entry.uid}:{entry.gid}, which a file belongs to",
                remedy="copy it without -a: then it is the container's root's",
            ) from error

    def _link(self, parent: Fd, name: bytes, entry: Entry) -> None:
        target = self._parts(entry.target)
        if not target:
            raise InvalidInput(f"{self._said}: {os.fsdecode(name)} is a hard link to the archive's root")
        to = target.pop()
        with Fd(os.dup(parent)) as here:  # the other's directory may take its place among those that are open
            checked(here)
            passing = fresh_name()
            try:
                there = self._directory(target, make=False)
                os.link(to, passing, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            except FileNotFoundError as error:
                raise Conflict(
                    f"{self._said}: {os.fsdecode(name)} is a hard link to what is not there, {entry.target!r}"
                ) from error
            try:
                replaceable(here, name)
                os.rename(passing, name, src_dir_fd=here, dst_dir_fd=here)
            finally:
                discard(here, passing)  # still there where both are the same file already, rename(2)

    def _symlink(self, parent: Fd, name: bytes, entry: Entry) -> None:
        if not entry.target:
            raise InvalidInput(f"{self._said}: the symbolic link {os.fsdecode(name)} leads to nothing")
        checked(parent)
        passing = fresh_name()
        os.symlink(entry.target, passing, dir_fd=parent)
        self._pass(parent, passing, name, entry, S_IFLNK)

    def _special(self, parent: Fd, name: bytes, entry: Entry) -> None:
        checked(parent)
        kind, number = S_IFIFO, 0
        if entry.kind != "fifo":
            kind, number = _DEVICES[entry.kind], os.makedev(*entry.device)
            if not number:  # overlayfs means a deletion by it
                self._left_out += 1
                return
        passing = fresh_name()
        try:
            os.mknod(passing, kind | 0o600, number, dir_fd=parent)
        except PermissionError as error:
            if error.errno != EPERM or kind == S_IFIFO:
                raise
            self._left_out += 1  # in a user namespace there are none
            return
        self._pass(parent, passing, name, entry, kind)

    def _pass(self, parent: Fd, passing: bytes, name: bytes, entry: Entry, kind: int) -> None:
        """Finish what was just made as *passing*, by a descriptor of just that, and give it its name."""
        try:
            with Fd(os.open(passing, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as made:
                status, itself = os.fstat(made), b"/proc/self/fd/%d" % made
                if S_IFMT(status.st_mode) != kind or status.st_nlink != 1:
                    raise self._exchanged((name,))
                if kind == S_IFLNK and os.readlink(b"", dir_fd=made) != entry.target:
                    raise self._exchanged((name,))
                self._give(made, self._owner(entry))
                if kind != S_IFLNK:
                    os.chmod(itself, entry.mode if self._wanted.keep else entry.mode & ~SET_IDS)
                os.utime(itself, ns=(entry.mtime_ns, entry.mtime_ns))
            replaceable(parent, name)
            os.rename(passing, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            discard(parent, passing)
            raise
