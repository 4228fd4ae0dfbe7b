"""Where a name in a stack of layers leads: the kernel's lookup, without a mount.

This follows `ovl_lookup()` and its helpers in fs/overlayfs/namei.c step by step, because that code, not its
documentation, is the definition: the order in which whiteouts, opaque directories, redirects and metacopies are met
decides what shows. Names of its variables (stop, last, opaque, redirect, metacopy) are kept.

Layers are numbered as the kernel numbers them: 0 is the upper directory (missing if there is none), 1 the topmost
lower directory, and so on; data-only layers come last. A place is a layer's number and a path in it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from lamina.errors import InvalidInput, KernelError
from lamina.linux.constants import (
    AT_EMPTY_PATH,
    OPEN_TREE_CLOEXEC,
    OPEN_TREE_CLONE,
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
)
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.linux.mount import open_tree
from lamina.linux.mountinfo import read_mountinfo
from lamina.overlay.layer import NAME_MAX, TRUSTED, USER, LayerFormat
from lamina.overlay.rules import Rules
from lamina.overlay.spec import MountSpec

BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
# held open of one merged directory: a process may often hold no more than 1024
DIRECTORIES_AT_ONCE = 100
# below PATH_MAX: deeper trees, which hostile layers may hold, are opened in several steps
PATH_AT_ONCE = 4000


class Hit(NamedTuple):
    """One layer's entry: its number, the path in it, what lstat(2) said, and the names of all stored attributes."""

    layer: int
    path: bytes
    status: os.stat_result
    names: list[str]


class Found(NamedTuple):
    """What a name leads to. `hits` is top first: of a directory everything that is merged, of others the entry itself.

    `content` is where a regular file's bytes are: (layer, path), which differs from the attributes' place for a
    metacopy; a layer of -1 stands for "the first data-only layer that has it".
    """

    hits: tuple[Hit, ...]
    content: tuple[int, bytes] | None

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.hits[0].status.st_mode)

    @property
    def status(self) -> os.stat_result:
        """What lstat(2) says in a mount, but for st_dev and st_ino, which are the real file's."""
        status = self.hits[0].status
        if len(self.hits) > 1 and status.st_nlink != 1:
            # ovl_getattr(): "it's probably not worth it to count subdirs to get the correct link count"
            status = os.stat_result((*status[:3], 1, *status[4:10]), _extra(status))
        return status


def _extra(status: os.stat_result) -> dict[str, object]:
    names = ("st_atime", "st_mtime", "st_ctime", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_blksize")
    return {name: getattr(status, name) for name in (*names, "st_blocks", "st_rdev")}


class Layers:
    """The directories of a stack, each opened when first needed.

    As in a mount, what is mounted below a layer's directory does not belong to the layer. Root sees the directory
    that such a mount point hides, through a private copy of the mount; whoever may not make one gets EXDEV there.
    """

    def __init__(self, spec: MountSpec, beside: Layers | None = None) -> None:
        """Opens nothing yet. A directory that *beside* has too is opened once for both.

        Raises errors.InvalidInput for a stack without a lower directory.
        """
        self.spec = spec
        self.format: LayerFormat = USER if spec.userxattr else TRUSTED
        self.rules: Rules = Rules.of(spec)
        self.first: int = 0 if spec.upperdir is not None else 1
        self.directories: dict[int, bytes] = dict(enumerate((*spec.lowerdirs, *spec.datadirs), start=1))
        if spec.upperdir is not None:
            self.directories[0] = spec.upperdir
        self.last: int = len(spec.lowerdirs)
        self.data: range = range(self.last + 1, self.last + 1 + len(spec.datadirs))
        if not spec.lowerdirs:
            raise InvalidInput("read a stack of directories: it has no lower directory")
        # relative directories are relative to where the caller was when the stack was opened
        relative = any(directory[:1] != b"/" for directory in self.directories.values())
        self._cwd = Fd(os.open(b".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) if relative else None
        self._roots: dict[bytes, Fd] = {} if beside is None else beside._roots
        self._mount_points: list[bytes] | None = None
        self.closed: bool = False

    def close(self) -> None:
        """Close everything, for good. Idempotent."""
        self.closed = True
        for root in self._roots.values():
            root.close()
        self._roots.clear()
        if self._cwd is not None:
            self._cwd.close()

    def root(self, layer: int) -> Fd:
        """The layer's directory, O_PATH. Raises KernelError naming it, ValueError once closed."""
        directory = self.directories[layer]
        root = self._roots.get(directory)
        if root is None:
            if self.closed:
                raise ValueError("the layers of this tree were closed")
            try:
                root = self.open_directory(directory)
            except OSError as error:
                name = os.fsdecode(directory)
                more = "allow this program more open files (ulimit -n)" if error.errno == errno.EMFILE else ""
                raise KernelError("open layer", error.errno or errno.EIO, name, remedy=more) from None
            root = self._roots[directory] = self._without_submounts(root)
        return root

    def open_directory(self, directory: bytes, access: int = os.O_PATH) -> Fd:
        """A directory of the stack, relative to where the layers are. Raises OSError."""
        return Fd(os.open(directory, access | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._cwd))

    def _without_submounts(self, root: Fd) -> Fd:
        """What clone_private_mount() does for the kernel's overlay; only where something is mounted below."""
        if self._mount_points is None:
            self._mount_points = [mount.mount_point for mount in read_mountinfo()]
        above = os.readlink(b"/proc/self/fd/%d" % root).rstrip(b"/") + b"/"
        if any(point.startswith(above) and point != above for point in self._mount_points):
            try:
                private = open_tree(root, b"", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)
            except KernelError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                    raise
            else:
                root.close()
                return private
        return root

    def open(self, layer: int, path: bytes, flags: int) -> Fd:
        """Open *path* in a layer; no symbolic link is followed, the layer never left. Raises KernelError."""
        try:
            return open_beneath(self.root(layer), path, flags)
        except KernelError as error:
            raise self._named(error, layer, path) from None

    def _named(self, error: OSError, layer: int, path: bytes) -> KernelError:
        """The error with the whole path: a path within a layer says little without the layer."""
        if isinstance(error, KernelError) and error.call == "open layer":
            return error
        place = os.fsdecode(os.path.join(self.directories[layer], path))
        hint = "something is mounted there" if error.errno == errno.EXDEV else ""
        return KernelError("open", error.errno or errno.EIO, place, hint=hint)

    def open_content(self, found: Found) -> Fd:
        """A regular file's bytes, for reading. Raises KernelError; EINVAL for what is not a regular file."""
        if found.content is None:
            raise KernelError("open", errno.EINVAL, "what is not a regular file")
        layer, path = found.content
        if layer != -1:
            return self._open_regular(layer, path, errno.EINVAL)
        for number in self.data:
            try:
                return self._open_regular(number, path, errno.ENOENT)
            except KernelError:  # ovl_lookup_data_layers(): whatever it is, the next one may have it
                if number == self.data[-1]:
                    raise
        raise AssertionError("there is no data-only layer")

    def _open_regular(self, layer: int, path: bytes, otherwise: int) -> Fd:
        # by way of O_PATH: what has meanwhile become a fifo or a device must not be opened
        with self.open(layer, path, os.O_PATH) as held:
            if not stat.S_ISREG(os.fstat(held).st_mode):
                raise KernelError("open", otherwise, f"{os.fsdecode(path)}, which is no regular file")
            return Fd(os.open(b"/proc/self/fd/%d" % held, os.O_RDONLY | os.O_CLOEXEC))

    def readlink(self, hit: Hit) -> bytes:
        """The text of a symbolic link. Raises KernelError."""
        with self.open(hit.layer, hit.path, os.O_PATH) as fd:
            return os.readlink(b"", dir_fd=fd)

    def xattrs(self, hit: Hit) -> dict[str, bytes]:
        """Every attribute that a mount shows, by the name it shows. Raises KernelError, OSError."""
        visible = {name: shown for name in hit.names if (shown := self.format.to_visible(name)) is not None}
        if not visible:
            return {}
        with self.open(hit.layer, hit.path, os.O_PATH) as fd:
            place = b"/proc/self/fd/%d" % fd
            return {shown: os.getxattr(place, name) for name, shown in visible.items()}


def open_beneath(root: int, path: bytes, flags: int) -> Fd:
    """Open *path* below the directory *root* (b"": itself), following nothing and entering no other file system.

    Raises KernelError: ELOOP for a symbolic link on the way, EXDEV for a mount point.
    """
    held: int = root
    while len(path) > PATH_AT_ONCE:
        cut = path.rindex(b"/", 0, PATH_AT_ONCE)
        held = openat2(held, path[:cut], os.O_PATH | os.O_DIRECTORY, resolve=BENEATH)
        path = path[cut + 1 :]
    return openat2(held, path or b".", flags | os.O_NOFOLLOW, resolve=BENEATH)


class OpenDir:
    """A merged directory whose layers' directories are held open while names in it are looked up."""

    def __init__(self, layers: Layers, hits: tuple[Hit, ...]) -> None:
        """*hits* are what is merged, top first."""
        self.layers = layers
        self.hits = hits
        self._fds: dict[int, Fd] = {}
        self._listed: dict[int, frozenset[bytes]] = {}

    def fd(self, index: int) -> Fd:
        """The directory of `hits[index]`, O_PATH, open until a hundred others were asked for. Raises KernelError."""
        fd = self._fds.get(index)
        if fd is None:
            hit = self.hits[index]
            if not hit.path:
                return self.layers.root(hit.layer)
            if len(self._fds) == DIRECTORIES_AT_ONCE:
                self._fds.pop(next(iter(self._fds))).close()
            fd = self._fds[index] = self.layers.open(hit.layer, hit.path, os.O_PATH | os.O_DIRECTORY)
        return fd

    def may_have(self, index: int, name: bytes) -> bool:
        """False if the layer was listed and does not have the name."""
        listed = self._listed.get(index)
        return listed is None or name in listed

    def listing(self, index: int) -> frozenset[bytes]:
        """The stored names of one layer, marks included. Raises KernelError."""
        listed = self._listed.get(index)
        if listed is None:
            hit = self.hits[index]
            # not by way of self.fd: reading takes another permission than looking up
            with self.layers.open(hit.layer, hit.path, os.O_RDONLY | os.O_DIRECTORY) as fd:
                listed = self._listed[index] = frozenset(map(os.fsencode, os.listdir(fd)))
        return listed

    def names(self) -> set[bytes]:
        """The stored names of all layers together: some may be whiteouts. Raises OSError."""
        return set().union(*(self.listing(index) for index in range(len(self.hits))))

    def close(self) -> None:
        """Close the directories. They are opened again when needed."""
        for fd in self._fds.values():
            fd.close()
        self._fds.clear()

    def __enter__(self) -> OpenDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class View:
    """The merged tree of some layers: of the whole stack, or of those from a layer on downwards."""

    def __init__(self, layers: Layers, *, first: int = 0) -> None:
        """*first*: the number of the topmost layer that counts; 1 looks past the upper directory."""
        self.layers = layers
        self.first: int = max(layers.first, first)
        self._below: tuple[Hit, ...] | None = None

    @property
    def root(self) -> Found:
        """The root directory as it is now; marks on the layers' own directories mean nothing. Raises KernelError."""
        top = self._root_hit(self.first)  # of the others nothing but the place matters
        if self._below is None:
            self._below = tuple(map(self._root_hit, range(self.first + 1, self.layers.last + 1)))
        return Found((top, *self._below), None)

    def _root_hit(self, layer: int) -> Hit:
        directory = self.layers.root(layer)
        # by descriptor, not as ".": nobody needs to be able to search a directory to know that it is one
        return Hit(layer, b"", os.fstat(directory), _attributes(b"/proc/self/fd/%d" % directory, follow=True))

    def find(self, within: OpenDir, name: bytes) -> Found | None:
        """What *name* leads to in the directory *within*; None if nothing.

        Raises OSError: EPERM for a metacopy or redirect that the mount options do not follow, EIO for a metacopy
        without content, EINVAL and EACCES for a malformed redirect, ENAMETOOLONG.
        """
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), os.fsdecode(name))
        return Search(self.layers, within, name).run(self.first > 0)


def at(view: View, path: bytes) -> Found | None:
    """What a path without symbolic links leads to; None if nothing. Raises OSError."""
    found: Found | None = view.root
    for name in filter(None, path.split(b"/")):
        if found is None or not found.is_dir:
            return None
        with OpenDir(view.layers, found.hits) as within:
            found = view.find(within, name)
    return found


def look(dir_fd: int, name: bytes) -> tuple[os.stat_result, list[str]]:
    """What lstat(2) says of a name in a directory, and its attributes as stored. Raises OSError."""
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return status, []  # a whiteout, whatever else is written on it
    return status, _attributes(b"/proc/self/fd/%d/%b" % (dir_fd, name), follow=False)


def _attributes(path: bytes, *, follow: bool) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


class Search:
    """One lookup: struct ovl_lookup_data and do_ovl_lookup()."""

    __slots__ = ("absolute", "is_dir", "last", "layers", "metacopy", "name", "redirect", "stop", "within")

    def __init__(self, layers: Layers, within: OpenDir, name: bytes) -> None:
        self.layers, self.within, self.name = layers, within, name
        self.is_dir = self.stop = self.metacopy = self.absolute = False
        self.redirect = b""
        self.last = False

    def run(self, skip_upper: bool) -> Found | None:
        """do_ovl_lookup(). A redirect to "/..." goes on in every layer's root, any other in the directory itself."""
        hits: list[Hit] = []
        lowers = 0  # ctx->ctr
        upper_metacopy = False
        rules, last_layer = self.layers.rules, self.layers.last
        stack = [hit.layer for hit in self.within.hits]  # poe: where the directory itself is
        at_root = not self.within.hits[0].path
        index = 1 if stack[0] == 0 else 0
        if index and not skip_upper:
            self.last = not rules.reads_redirects and len(stack) == 1
            hit = self.in_layer(0, 0)
            if hit is not None:
                hits.append(hit)
                upper_metacopy = self.metacopy
                if self.redirect[:1] == b"/":
                    stack, index, at_root = list(range(1, last_layer + 1)), 0, True
        while not self.stop and index < len(stack):
            self._check_follow()
            layer = stack[index]
            if not rules.reads_redirects:
                self.last = index == len(stack) - 1
            elif self.is_dir or not self.layers.data:
                self.last = layer == last_layer
            hit = self.in_layer(layer, index)
            index += 1
            if hit is None:
                continue
            hits.append(hit)
            lowers += 1
            if self.stop:
                break
            if self.redirect[:1] == b"/" and not at_root:
                stack, index, at_root = list(range(1, last_layer + 1)), layer, True
        return self._result(hits, lowers, upper_metacopy)

    def _result(self, hits: list[Hit], lowers: int, upper_metacopy: bool) -> Found | None:
        if self.metacopy and lowers and self.layers.data and self.absolute:
            return Found(
                (hits[0],), (-1, self.redirect[1:])
            )  # looked for when first read, as the kernel does
        self._check_follow()
        if self.metacopy or (upper_metacopy and not lowers):
            raise OSError(
                errno.EIO, "metacopy without the content that belongs to it", os.fsdecode(self.name)
            )
        if not hits:
            return None
        if self.is_dir:
            return Found(tuple(hits), None)
        regular = stat.S_ISREG(hits[0].status.st_mode)
        return Found((hits[0],), (hits[-1].layer, hits[-1].path) if regular else None)

    def _check_follow(self) -> None:
        """ovl_check_follow_redirect(): like a symbolic link into a lower layer without that layer's permissions."""
        rules = self.layers.rules
        if self.metacopy and not rules.metacopy:
            why = "a metacopy, which is followed with the option metacopy=on only"
        elif self.redirect and not rules.follow:
            why = "a redirect, which the options do not follow (redirect_dir=nofollow, userxattr)"
        else:
            return
        raise OSError(errno.EPERM, why, os.fsdecode(self.name))

    def in_layer(self, layer: int, index: int) -> Hit | None:
        """ovl_lookup_layer(): the entry of this layer, by the current name, which lookups may change."""
        if self.name[:1] != b"/":
            if not self.within.may_have(index, self.name) and self.name not in (b".", b".."):
                return None
            return self._single(
                layer, self.within.fd(index), self.within.hits[index].path, self.name, b"", b""
            )
        left = len(self.name) - 1  # counted from the end, since what is before may change
        directory: Fd = self.layers.root(layer)
        path = b""
        while True:
            done = len(self.name) - left
            this, slash, after = self.name[done:].partition(b"/")
            hit = self._single(layer, directory, path, this, self.name[:done], slash + after)
            if hit is None or not slash:
                return hit
            left -= len(this) + 1
            path = hit.path
            directory = self.layers.open(layer, path, os.O_PATH | os.O_DIRECTORY)

    def _single(
        self, layer: int, directory: Fd, path: bytes, name: bytes, before: bytes, after: bytes
    ) -> Hit | None:
        """ovl_lookup_single(): *name* in one directory; *before* and *after* are the rest of the name looked for."""
        if name in (b".", b".."):  # lookup_one() refuses both: a redirect is no way out
            raise OSError(errno.EACCES, "a redirect through . or ..", os.fsdecode(self.name))
        try:
            status, names = look(directory, name)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return None
            raise
        marks = self.layers.format
        hit = Hit(layer, b"%b/%b" % (path, name) if path else name, status, names)
        if marks.is_whiteout(status, names):
            self.stop = True
            return None
        regular = stat.S_ISREG(status.st_mode)
        if self.metacopy and not after and not regular:
            self.stop = True
            return None
        if not stat.S_ISDIR(status.st_mode):
            if self.is_dir or after:
                self.stop = True
                return None
            self.metacopy = regular and marks.metacopy in names
            self.stop = not self.metacopy
            if self.stop or self.last:
                return hit
        else:
            self.is_dir = self.is_dir or not after
            if self.last:
                return hit
            if marks.opaque in names and _mark(directory, name, marks.opaque) == b"y":
                self.stop = True
                return hit
        self.absolute = False
        if marks.redirect in names:
            self._follow(marks.parse_redirect(_mark(directory, name, marks.redirect)), before, after)
        return hit

    def _follow(self, redirect: bytes, before: bytes, after: bytes) -> None:
        """ovl_check_redirect(): under which name to go on in the layers below."""
        if redirect[:1] == b"/":
            self.absolute = True
            # an opaque directory on the way to here does not matter to what moved elsewhere
            self.stop = False
        else:
            redirect = before + redirect
        self.redirect = self.name = redirect + after


def _mark(directory: Fd, name: bytes, attribute: str) -> bytes:
    return os.getxattr(b"/proc/self/fd/%d/%b" % (directory, name), attribute, follow_symlinks=False)
