"""Entries of an archive become files of a layer."""

from __future__ import annotations

import os
import stat
from errno import EDQUOT, EEXIST, EIO, EMFILE, ENOSPC, EPERM

from lamina.errors import InvalidInput, KernelError
from lamina.image.apply.attributes import DEFAULT_ACL, Attributes
from lamina.image.apply.count import count
from lamina.image.apply.directories import PLAINLY, Directories, Directory, NoDirectory
from lamina.image.apply.marks import Marks
from lamina.image.apply.names import AUFS, AUFS_LINKS, OPAQUE, WHITEOUT, hidden_by, parts_of
from lamina.image.apply.pieces import write_pieces
from lamina.linux.create import create_files
from lamina.linux.files import openat2
from lamina.overlay.apply import remove
from lamina.overlay.layer import WHITEOUT_DEV
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.image.apply.ids import IdMap
    from lamina.image.apply.recipe import Recipe
    from lamina.image.tar.entry import Entry
    from lamina.image.tar.limits import Limits
    from lamina.linux.create import NewFile

AT_ONCE = 256  # files made with one call, and how much of the archive is held in memory for them
BYTES_AT_ONCE = 4 << 20
# Hard links may come before what they are links to; so many, and so often they are gone through. Of links to links
# that come later each round may make but one.
_LATER, _ROUNDS = 100_000, 32
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
_NANO = 1_000_000_000
REMEDIES = {
    EMFILE: "allow this program more open files (ulimit -n)",
    ENOSPC: "free some space",
    EDQUOT: "free some space within your quota",
}


@value
class Applied:
    """What was unpacked: bytes of all files, each hard link's once; how many inodes; what could not be done here,
    as (what, how often): devices and attributes that are refused in a user namespace.
    """

    size: int
    inodes: int
    skipped: tuple[tuple[str, int], ...] = ()


class Extractor:
    """One layer being unpacked. Call `put` for each entry, then `finish`; `close` in any case."""

    def __init__(
        self,
        root: int,
        *,
        userxattr: bool,
        ids: IdMap | None,
        limits: Limits,
        recipe: Recipe | None = None,
        layer: bool = True,
    ) -> None:
        """*root* is the layer's empty directory, a descriptor that stays the caller's; *recipe* is told of files. With
        *layer* some names are marks, else the archive is an ordinary one.
        """
        self._layer = layer
        self._recipe = recipe
        self._limits = limits
        self._attributes = Attributes(ids, namespaced=userxattr)
        self._marks = Marks(userxattr)
        self._batch: list[NewFile] = []
        # of the batch, in the same order: real path -> directory, and how many files the recipe had before it
        self._names: dict[bytes, tuple[Directory, int]] = {}
        self._since = 0  # where in the archive the first of them is: what is kept in memory for them
        self._later: list[tuple[bytes, bytes]] = []
        self._size, self._inodes = 0, 1
        self._recount = False  # directories were taken away: count what is left
        self._root_owner = self._attributes.owner(0, 0)
        self._aufs = False
        self._clean_root(root)
        self._directories = Directories(
            root, self.flush, self._flush_below, self._take_whiteout, self._default
        )
        self._directories.root.mtime_ns = 0

    def _clean_root(self, root: int) -> None:
        """Nothing of where the layer is made spreads into it."""
        os.fchown(root, *self._root_owner)
        os.fchmod(root, 0o755)
        for name in (DEFAULT_ACL, "system.posix_acl_access"):
            try:
                os.removexattr(root, name)
            except OSError:
                pass  # there is none

    # -- entries

    def put(self, entry: Entry) -> None:
        """Make one entry. Raises InvalidInput, Corrupt, OSError."""
        parts = parts_of(entry.name, self._limits)
        if not parts:
            if entry.kind != "directory":
                raise InvalidInput(f"unpack layer: the root of the layer is a {entry.kind}")
            self._describe(self._directories.root, entry)
            return
        base = parts.pop()
        marked = self._layer and (base[:4] == WHITEOUT or any(part[:4] == WHITEOUT for part in parts))
        if marked and self._mark(entry, parts, base):
            return
        parent = self._directories.get(b"/".join(parts))
        kind = entry.kind
        if kind == "file":
            self._file(parent, base, entry)
        elif kind == "directory":
            self._directory(parent, base, entry)
        elif kind == "symlink":
            self._symlink(parent, base, entry)
        elif kind == "link":
            self._link(parent, base, entry)
        else:
            self._special(parent, base, entry)

    def finish(self) -> Applied:
        """Make what had to wait, and give the directories their times. Raises InvalidInput, OSError."""
        self.flush()
        self._links_to_later_ones()
        self._directories.close_below(b"")
        root = self._directories.root
        if self._aufs:
            try:
                self._remove(root, AUFS_LINKS, AUFS_LINKS)
            except FileNotFoundError:
                pass
            self._recount = True
        if self._recount:
            self._size, self._inodes = count(root.fd)
        root.close()
        return Applied(self._size, self._inodes, tuple(sorted(self._attributes.skipped.items())))

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        self._batch.clear()
        self._names.clear()
        self._directories.abandon()

    # -- whiteouts

    def _mark(self, entry: Entry, parts: list[bytes], base: bytes) -> bool:
        """Whether the entry is a mark and was dealt with; False if it is a file like others."""
        first = parts[0] if parts else base
        if first == AUFS_LINKS:  # a directory of files that others are hard links to: it goes in the end
            self._aufs = True
            return False
        for part in parts:
            if part[: len(AUFS)] == AUFS:
                return True
            if part[:4] == WHITEOUT:
                raise InvalidInput(f"unpack layer: {entry.name!r} is below a whiteout")
        if base != OPAQUE and base[: len(AUFS)] == AUFS:
            return True  # aufs' own files, which mean nothing elsewhere
        if entry.kind not in ("file", "link"):
            raise InvalidInput(f"unpack layer: the whiteout {entry.name!r} is a {entry.kind}")
        try:
            parent = self._directories.get(b"/".join(parts))
        except NoDirectory:
            # umoci says so of all that was in a directory where a file is now: whatever was below is hidden by that
            return True
        if base == OPAQUE:
            if not parent.path:
                raise InvalidInput(
                    "unpack layer: it hides all layers below it at once, which no overlay of directories can say",
                    remedy="import it as an image of one layer",
                )
            self._marks.set_opaque(parent.fd)
            return True
        hidden = hidden_by(base, entry.name)
        self._flush_for(_below(parent, hidden))
        if self._marks.whiteout(parent.fd, hidden):
            self._inodes += 1
        return True

    def _take_whiteout(self, parent: Directory, base: bytes) -> bool:
        """Take away the whiteout *base*; False if it is something else."""
        status = os.stat(base, dir_fd=parent.fd, follow_symlinks=False)
        if not self._marks.is_whiteout(parent.fd, base, status):
            return False
        os.unlink(base, dir_fd=parent.fd)
        self._inodes -= 1
        return True

    # -- files

    def _file(self, parent: Directory, base: bytes, entry: Entry) -> None:
        uid, gid = self._owner(parent, entry)
        xattrs = self._attributes.wanted(entry.xattrs) if entry.xattrs else {}
        real = _below(parent, base)
        if real in self._names:
            self.flush()
        data = entry.at_hand() if entry.sparse is None and not xattrs else None
        self._size += entry.size
        self._inodes += 1
        recipe = self._recipe
        number = 0
        if recipe is not None:
            number = recipe.file(real, entry.sparse or ((0, entry.size),)) if entry.stored else recipe.files
        if data is None or entry.offset - self._since > BYTES_AT_ONCE:
            self.flush()
        if data is not None:
            seconds, rest = divmod(entry.mtime_ns, _NANO)
            self._batch.append((parent.fd, base, entry.mode, uid, gid, seconds, rest, data))
            self._names[real] = parent, number
            parent.waiting = True
            if len(self._batch) == 1:
                self._since = entry.offset
            elif len(self._batch) >= AT_ONCE:
                self.flush()
            return
        try:
            fd = os.open(base, _NEW, 0o600, dir_fd=parent.fd)
        except FileExistsError:
            self._make_room(parent, base, number=number)
            fd = os.open(base, _NEW, 0o600, dir_fd=parent.fd)
        try:
            write_pieces(fd, entry)
            if uid != -1:
                os.fchown(fd, uid, gid)
            os.fchmod(fd, entry.mode)
            if (
                xattrs
            ):  # after the owner, whose change takes capabilities away, and the mode, which an ACL adjusts
                self._attributes.set_xattrs(fd, xattrs)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def flush(self) -> None:
        """Make the files that wait to be made together. Raises OSError."""
        batch, names = self._batch, self._names
        if not batch:
            return
        self._batch, self._names = [], {}
        for parent, _ in names.values():
            parent.waiting = False
        while batch:
            made, error = create_files(batch)
            if error is None:
                return
            del batch[:made]
            paths = list(names)[-len(batch) :]
            if error.errno != EEXIST:
                raise KernelError(
                    "make file",
                    error.errno or EIO,
                    os.fsdecode(paths[0]),
                    remedy=REMEDIES.get(error.errno or 0, ""),
                )
            self._make_room(names[paths[0]][0], batch[0][1], paths, names[paths[0]][1])

    def _flush_for(self, path: bytes) -> None:
        """What is about to be looked at must be there."""
        if path in self._names:
            self.flush()

    def _flush_below(self, path: bytes) -> None:
        """As `_flush_for`, for each name on the way."""
        if self._names:
            while path:
                self._flush_for(path)
                path = path.rpartition(b"/")[0]

    def _make_room(
        self, parent: Directory, base: bytes, later: Iterable[bytes] = (), number: int | None = None
    ) -> bool:
        """Take away what has the name already: the last entry of a name counts. Whether it hid a directory below.

        *later* are the paths that wait to be made after it; *number* is the recipe's of what takes its place.
        """
        status = os.stat(base, dir_fd=parent.fd, follow_symlinks=False)
        real = _below(parent, base)
        self._directories.forget_links()
        if not stat.S_ISDIR(status.st_mode):
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            if not (size and self._lose(parent, base, real, number, size)):
                os.unlink(base, dir_fd=parent.fd)
            if status.st_nlink == 1:
                self._inodes -= 1
                self._size -= size
            return True
        if any(path.startswith(real + b"/") for path in later):
            raise InvalidInput(f"unpack layer: an entry is below {real!r}, which is no directory any more")
        self._directories.close_below(real)
        self._recount = True
        self._remove(parent, base, real, number)
        return False

    def _remove(self, parent: Directory, base: bytes, real: bytes, number: int | None = None) -> None:
        """Take a directory away, with all that is in it."""
        if self._recipe is not None and not self._recipe.given_up:
            with openat2(parent.fd, base, os.O_RDONLY | os.O_DIRECTORY, resolve=PLAINLY) as fd:
                size, _ = count(fd)
            if self._lose(parent, base, real, number, size):
                return
        remove(parent.fd, base)

    def _lose(self, parent: Directory, base: bytes, real: bytes, number: int | None, size: int) -> bool:
        recipe = self._recipe
        if recipe is None:
            return False
        return recipe.lose(parent.fd, base, real, recipe.files if number is None else number, size)

    # -- directories

    def _directory(self, parent: Directory, base: bytes, entry: Entry) -> None:
        real = _below(parent, base)
        self._flush_for(real)
        found = self._directories.held(real)
        opaque = False
        if found is None:
            try:
                os.mkdir(base, 0o700, dir_fd=parent.fd)
                self._inodes += 1
            except FileExistsError:
                status = os.stat(base, dir_fd=parent.fd, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    opaque = self._make_room(parent, base)
                    os.mkdir(base, 0o700, dir_fd=parent.fd)
                    self._inodes += 1
            fd = openat2(parent.fd, base, os.O_RDONLY | os.O_DIRECTORY, resolve=PLAINLY)
            found = self._directories.hold(real, fd)
        self._describe(found, entry)
        if opaque:  # as it was when the entries came one after the other: what is below was hidden in between
            self._marks.set_opaque(found.fd)

    def _describe(self, found: Directory, entry: Entry) -> None:
        uid, gid = self._attributes.owner(entry.uid, entry.gid)
        status = os.fstat(found.fd)
        if (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(found.fd, uid, gid)
            found.gid = gid
        xattrs = self._attributes.wanted(entry.xattrs) if entry.xattrs else {}
        acl = xattrs.pop(DEFAULT_ACL, None)
        if acl is not None:
            self._directories.acls = True
        found.settle(entry.mode, entry.mtime_ns, acl)
        if xattrs:
            self._attributes.set_xattrs(found.fd, xattrs)

    def _default(self, found: Directory, opaque: bool) -> None:
        """A directory that no entry has described yet."""
        self._inodes += 1
        os.fchown(found.fd, *self._root_owner)
        found.settle(0o755, 0, None)
        if opaque:
            self._marks.set_opaque(found.fd)

    # -- links

    def _symlink(self, parent: Directory, base: bytes, entry: Entry) -> None:
        if not entry.target:
            raise InvalidInput(f"unpack layer: the symbolic link {entry.name!r} leads to nothing")
        self._flush_for(_below(parent, base))
        try:
            os.symlink(entry.target, base, dir_fd=parent.fd)
        except FileExistsError:
            self._make_room(parent, base)
            os.symlink(entry.target, base, dir_fd=parent.fd)
        self._inodes += 1
        self._finish_by_name(parent, base, entry)

    def _link(self, parent: Directory, base: bytes, entry: Entry) -> None:
        parts = parts_of(entry.target, self._limits)
        if not parts:
            raise InvalidInput(f"unpack layer: {entry.name!r} is a hard link to the root of the layer")
        target = b"/".join(parts)
        real = _below(parent, base)
        if not self._try_link(real, target):
            if len(self._later) >= _LATER:
                raise InvalidInput("unpack layer: too many hard links to what only comes later")
            self._later.append((real, target))

    def _try_link(self, real: bytes, target: bytes) -> bool:
        """Whether what it is a link to is there."""
        above, _, to = target.rpartition(b"/")
        home = self._directories.find(above)
        if home is None:
            return False
        there = _below(home, to)
        self._flush_for(there)
        self._flush_for(real)
        try:
            status = os.stat(to, dir_fd=home.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(status.st_mode):
            raise InvalidInput(f"unpack layer: {real!r} is a hard link to the directory {target!r}")
        if self._marks.is_whiteout(home.fd, to, status):
            return False
        above, _, base = real.rpartition(b"/")
        parent = self._directories.get(above)
        home = self._directories.get(home.path)
        try:
            os.link(to, base, src_dir_fd=home.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except FileExistsError:
            now = os.stat(base, dir_fd=parent.fd, follow_symlinks=False)
            if (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino):
                return True
            if stat.S_ISDIR(now.st_mode) and (there + b"/").startswith(real + b"/"):
                raise InvalidInput(f"unpack layer: {real!r} is a hard link to what is in it") from None
            self._make_room(parent, base)
            home, parent = self._directories.get(home.path), self._directories.get(above)
            os.link(to, base, src_dir_fd=home.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        return True

    def _links_to_later_ones(self) -> None:
        for _ in range(_ROUNDS):
            if not self._later:
                return
            left = [pair for pair in self._later if not self._try_link(*pair)]
            if len(left) == len(self._later):
                real, target = left[0]
                raise InvalidInput(
                    f"unpack layer: {real!r} is a hard link to {target!r}, which is not in the archive"
                )
            self._later = left
        if self._later:
            raise InvalidInput(
                "unpack layer: hard links to hard links that come later, and so on, are too many"
            )

    # -- devices and fifos

    def _special(self, parent: Directory, base: bytes, entry: Entry) -> None:
        major, minor = entry.device if entry.kind != "fifo" else (0, 0)
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise InvalidInput(f"unpack layer: {entry.name!r} is the device {major}:{minor}, which cannot be")
        number = os.makedev(major, minor)
        if entry.kind == "char" and number == WHITEOUT_DEV:
            raise InvalidInput(
                f"unpack layer: {entry.name!r} is the device 0:0, by which overlayfs means a deletion"
            )
        self._flush_for(_below(parent, base))
        mode = _KINDS[entry.kind] | 0o600
        try:
            try:
                os.mknod(base, mode, number, dir_fd=parent.fd)
            except FileExistsError:
                self._make_room(parent, base)
                os.mknod(base, mode, number, dir_fd=parent.fd)
        except PermissionError as error:
            if error.errno != EPERM or not self._attributes.namespaced:
                raise
            self._attributes.skip("devices")
            return
        self._inodes += 1
        self._finish_by_name(parent, base, entry)

    # -- attributes

    def _owner(self, parent: Directory, entry: Entry) -> tuple[int, int]:
        """Whom to give a new file to; (-1, -1) if it is his already. It may have got its directory's group."""
        attributes = self._attributes
        uid, gid = attributes.owner(entry.uid, entry.gid)
        if uid == attributes.uid and gid == attributes.gid == parent.gid:
            return -1, -1
        return uid, gid

    def _finish_by_name(self, parent: Directory, base: bytes, entry: Entry) -> None:
        uid, gid = self._owner(parent, entry)
        if uid != -1:
            os.chown(base, uid, gid, dir_fd=parent.fd, follow_symlinks=False)
        place = b"/proc/self/fd/%d/%b" % (parent.fd, base)
        if entry.kind != "symlink":
            with openat2(parent.fd, base, os.O_PATH | os.O_NOFOLLOW, resolve=PLAINLY) as fd:
                os.chmod(b"/proc/self/fd/%d" % fd, entry.mode)
        if entry.xattrs:
            self._attributes.set_xattrs(place, self._attributes.wanted(entry.xattrs))
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent.fd, follow_symlinks=False)


def _below(parent: Directory, base: bytes) -> bytes:
    return b"%b/%b" % (parent.path, base) if parent.path else base
