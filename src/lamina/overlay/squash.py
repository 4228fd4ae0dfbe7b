"""Adjacent layers made one: the stack with the new layer in their place reads as before, with less to look through.

    squash([top, middle, bottom], into, record=into + b".origins")

What comes of the entries of one name is what `lookup` makes of them: the topmost decides, directories merge down to the
first that is opaque or that something else lies below of. Since there are layers below the run, what hid something of
them goes on to: whiteouts are kept, and a directory at which the merging stopped becomes opaque. Below such a directory
nothing else shows, so that whiteouts in it are left out.

Every file gets an inode of its own, whose data is shared with the original's where the file system can (FICLONE), else
copied. A hard link between layers would cost less, and would be seen: a mount shows the lower file's st_nlink, and
keeps st_ino over a copy up only where that is 1 (ovl_getattr() in fs/overlayfs/inode.c); decision 0065.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from lamina.errors import Unsupported
from lamina.linux.fd import Fd
from lamina.overlay.copying import copy_content, set_mode, set_owner, set_times, set_xattrs
from lamina.overlay.lookup import Hit, Layers, OpenDir, View, look, open_beneath
from lamina.overlay.spec import MountSpec, steady_options
from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

# as in `difference`: every entry of a chain of directories names all of those above it
LONGEST_PATH = 16 << 10
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@value
class Squashed:
    """What was written: `size` in bytes of regular files, `inodes` with all other entries; each file once."""

    size: int
    inodes: int


def squash(
    run: Sequence[bytes], into: bytes, *, userxattr: bool = False, bottom: bool = False, record: bytes = b""
) -> Squashed:
    """Make of the layers *run* (their trees, top first) one, in the empty directory *into*.

    *userxattr*: the marks are `user.overlay.*`. *bottom*: nothing lies below the run, so that nothing needs to be
    hidden. *record* is a file to be written: for every entry "NUMBER PATH", ended by a NUL, in which NUMBER says of
    which layer of the run it is (0 is the topmost), and PATH has no leading "/"; whiteouts are among them.

    The layers must not change meanwhile; nothing is written to them. Raises Unsupported for a directory that was moved
    by a redirect, or a file of which only the metadata are there: what they are depends on where they are looked up
    from; OSError.
    """
    spec = MountSpec(lowerdirs=tuple(run), userxattr=userxattr, options=steady_options(userxattr))
    layers = Layers(spec)
    try:
        with Fd(os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as root:
            if not record:
                return _Squash(layers, root, bottom, None).run()
            with open(record, "xb") as written:
                return _Squash(layers, root, bottom, written).run()
    finally:
        layers.close()


@value
class _Below:
    """A directory to be filled: what is merged in it, top first. `alone`: nothing of the layers below shows in it."""

    path: bytes
    hits: tuple[Hit, ...]
    alone: bool


class _Squash:
    """One squash. `links` has where each file of several names was written first, by layer and inode."""

    def __init__(self, layers: Layers, root: Fd, bottom: bool, written: BinaryIO | None) -> None:
        self.layers, self.marks, self.root, self.written = layers, layers.format, root, written
        self.bottom = bottom
        self.links: dict[tuple[int, int, int], bytes] = {}
        self.size = self.inodes = 0
        self.directories: list[tuple[bytes, os.stat_result]] = []

    def run(self) -> Squashed:
        found = View(self.layers).root
        top = found.hits[0]
        self._dress(self.root, top, b"/proc/self/fd/%d" % self.layers.root(top.layer))
        self.directories.append((b"", top.status))
        pending = [_Below(b"", found.hits, self.bottom)]
        while pending:
            pending += self._fill(pending.pop())
        self._finish()
        return Squashed(self.size, self.inodes)

    def _finish(self) -> None:
        """Permissions and times of directories, deepest first: earlier they would not have lasted."""
        for path, status in reversed(self.directories):
            with open_beneath(self.root, path, os.O_RDONLY | os.O_DIRECTORY) as directory:
                set_mode(directory, stat.S_IMODE(status.st_mode))
                set_times(directory, status.st_atime_ns, status.st_mtime_ns)

    def _fill(self, below: _Below) -> list[_Below]:
        """Write what is in one directory; the directories in it, which are there now and are to be filled."""
        inner: list[_Below] = []
        hides = False
        with (
            open_beneath(self.root, below.path, os.O_RDONLY | os.O_DIRECTORY) as into,
            OpenDir(self.layers, below.hits) as within,
        ):
            for name in sorted(within.names()):
                path = b"%b/%b" % (below.path, name) if below.path else name
                if len(path) > LONGEST_PATH:
                    raise _refused(path, f"a path of more than {LONGEST_PATH} bytes")
                hits, stopped = self._meet(within, name, path)
                if not stat.S_ISDIR(hits[0].status.st_mode):
                    if self._is_whiteout(hits[0]):
                        if not below.alone:
                            hides = True
                            self.marks.make_whiteout(into, name)
                            self._note(hits[0], path)
                    else:
                        self._leaf(within, hits[0], into, name, path)
                    continue
                self._directory(within, hits[0], into, name, path, opaque=stopped and not below.alone)
                inner.append(_Below(path, hits, below.alone or stopped))
            if hides and below.path:
                # where the layers below have no such directory it is merged with nothing, and then a mount looks for
                # whiteouts in it only if it was copied up (ovl_get_inode())
                os.setxattr(into, self.marks.origin, b"")
        inner.reverse()
        return inner

    def _meet(self, within: OpenDir, name: bytes, path: bytes) -> tuple[tuple[Hit, ...], bool]:
        """What is of that name: the entry that shows, or the directories that are merged; and whether what the layers
        below the run have of it is hidden. As in `lookup.Search`.
        """
        hits: list[Hit] = []
        for index, above in enumerate(within.hits):
            if not within.may_have(index, name):
                continue
            status, names = look(within.fd(index), name)
            hit = Hit(above.layer, path, status, names)
            if self.marks.is_whiteout(status, names):
                return tuple(hits or [hit]), True
            if not stat.S_ISDIR(status.st_mode):
                if not hits and stat.S_ISREG(status.st_mode) and self.marks.metacopy in names:
                    raise _refused(path, "only its metadata were changed (metacopy)")
                return tuple(hits or [hit]), True
            if self.marks.redirect in names:
                raise _refused(path, "it was moved (redirect)")
            hits.append(hit)
            if self.marks.opaque in names and _mark(within.fd(index), name, self.marks.opaque) == b"y":
                return tuple(hits), True
        return tuple(hits), False

    def _is_whiteout(self, hit: Hit) -> bool:
        return self.marks.is_whiteout(hit.status, hit.names)

    # -- one entry

    def _directory(
        self, within: OpenDir, hit: Hit, into: Fd, name: bytes, path: bytes, *, opaque: bool
    ) -> None:
        os.mkdir(name, 0o700, dir_fd=into)
        self.inodes += 1
        with open_beneath(into, name, os.O_RDONLY | os.O_DIRECTORY) as made:
            self._dress(made, hit, self._place(within, hit, name))
            if opaque:
                self.marks.set_opaque(made)
        self.directories.append((path, hit.status))
        self._note(hit, path)

    def _leaf(self, within: OpenDir, hit: Hit, into: Fd, name: bytes, path: bytes) -> None:
        status = hit.status
        self._note(hit, path)
        if status.st_nlink > 1:
            first = self.links.setdefault((hit.layer, status.st_dev, status.st_ino), path)
            if first != path:
                self._link(first, into, name)
                return
        self.inodes += 1
        source = within.fd(_index(within, hit))
        if stat.S_ISREG(status.st_mode):
            self.size += status.st_size
            with (
                Fd(os.open(name, _NEW, 0o600, dir_fd=into)) as made,
                Fd(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)) as old,
            ):
                if status.st_size:
                    copy_content(old, made)
                self._complete(made, hit, self._place(within, hit, name))
            return
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=into)
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=into)
        with open_beneath(into, name, os.O_PATH) as made:
            self._complete(made, hit, self._place(within, hit, name))

    def _link(self, first: bytes, into: Fd, name: bytes) -> None:
        above, _, base = first.rpartition(b"/")
        with open_beneath(self.root, above, os.O_PATH | os.O_DIRECTORY) as parent:
            os.link(base, name, src_dir_fd=parent, dst_dir_fd=into, follow_symlinks=False)

    def _complete(self, made: Fd, hit: Hit, place: bytes) -> None:
        self._dress(made, hit, place)
        set_mode(made, stat.S_IMODE(hit.status.st_mode))
        set_times(made, hit.status.st_atime_ns, hit.status.st_mtime_ns)

    def _dress(self, made: Fd, hit: Hit, place: bytes) -> None:
        """Owner first, which takes capabilities away; then what is not overlayfs' own of the attributes, as stored."""
        set_owner(made, hit.status.st_uid, hit.status.st_gid)
        kept = [name for name in hit.names if not self.marks.is_private(name)]
        follow = not hit.path  # the layer's own directory is named by its descriptor
        set_xattrs(made, {name: os.getxattr(place, name, follow_symlinks=follow) for name in kept})

    def _place(self, within: OpenDir, hit: Hit, name: bytes) -> bytes:
        return b"/proc/self/fd/%d/%b" % (within.fd(_index(within, hit)), name)

    def _note(self, hit: Hit, path: bytes) -> None:
        if self.written is not None:
            self.written.write(b"%d %b\0" % (hit.layer - 1, path))


def _index(within: OpenDir, hit: Hit) -> int:
    """Which of the merged directories the entry is in."""
    return next(index for index, above in enumerate(within.hits) if above.layer == hit.layer)


def _mark(directory: Fd, name: bytes, attribute: str) -> bytes:
    return os.getxattr(b"/proc/self/fd/%d/%b" % (directory, name), attribute, follow_symlinks=False)


def _refused(path: bytes, why: str) -> Unsupported:
    return Unsupported(
        f"squash layers: /{os.fsdecode(path[:200])}: {why}",
        remedy="mount them with redirect_dir=off and metacopy=off, as Lamina does, and write it anew",
    )
