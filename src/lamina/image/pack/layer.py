"""A layer in overlay form becomes a layer of an image: whiteouts `.wh.NAME`, opaque directories `.wh..wh..opq`."""

from __future__ import annotations

import os
import stat

from lamina.errors import Unsupported
from lamina.image.apply.names import OPAQUE, WHITEOUT
from lamina.image.pack.packer import Packer
from lamina.linux.fd import Fd
from lamina.overlay.layer import TRUSTED, USER, WHITEOUT_DEV, LayerFormat
from lamina.overlay.lookup import open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from lamina.image.apply.ids import IdMap
    from lamina.image.pack.sink import Out, Packed

_FAMILIES = ("trusted.overlay.", "user.overlay.")


def pack_layer(
    directory: int,
    out: Out,
    *,
    compression: str = "none",
    level: int | None = None,
    userxattr: bool | None = None,
    ids: IdMap | None = None,
) -> Packed:
    """Write the layer in *directory* (an upper, or what a layer of the store holds) to *out*.

    *userxattr*: its marks are of that family (None: if this is not root). *ids*: what owners become in the archive.
    Raises Unsupported for what no archive of a layer can say: directories that were moved by a redirect, files of
    which only the metadata were copied up, names that begin with .wh.; Conflict where something changes meanwhile;
    OSError.
    """
    marks = USER if (os.geteuid() != 0 if userxattr is None else userxattr) else TRUSTED
    packer = Packer(out, compression, level, ids)
    pending: list[Iterator[bytes]] = []
    root = _Place(directory, b"")
    packer.put(b".", root.status(), root.xattrs(root.names()), b"", root.content)
    pending.append(_walk(directory, b"", marks, packer))
    while pending:
        below = next(pending[-1], None)
        if below is None:
            pending.pop()
        else:
            pending.append(_walk(directory, below, marks, packer))
    return packer.finish()


def _walk(root: int, path: bytes, family: LayerFormat, packer: Packer) -> Iterator[bytes]:
    """Pack what is in one directory; yields each directory in it, which is then to be walked."""
    prefix = path + b"/" if path else b""
    with open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        names = sorted(map(os.fsencode, os.listdir(fd)))
        opaque = _value(fd, family.opaque) if path else None
    if opaque == b"y":
        packer.mark(prefix + OPAQUE)
    others = []
    for name in names:
        place = _Place(root, prefix + name)
        status = place.status()
        stored = [] if stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEV else place.names()
        if family.is_whiteout(status, stored):
            if name.startswith(WHITEOUT):
                raise Unsupported(f"pack {os.fsdecode(prefix + name)}: no whiteout can hide such a name")
            if opaque != b"y":
                packer.mark(prefix + WHITEOUT + name)
        else:
            others.append((name, place, status, stored))
    for name, place, status, stored in others:
        for mark in (family.redirect, family.metacopy):
            if mark in stored:
                raise Unsupported(
                    f"pack {os.fsdecode(prefix + name)}: it was moved, or only its metadata were changed, which a"
                    f" layer alone does not hold ({mark})"
                )
        target = place.target() if stat.S_ISLNK(status.st_mode) else b""
        packer.put(prefix + name, status, place.xattrs(stored), target, place.content)
        if stat.S_ISDIR(status.st_mode):
            yield prefix + name


class _Place:
    """One entry of the layer, looked at through a descriptor of its own."""

    def __init__(self, root: int, path: bytes) -> None:
        self._root, self._path = root, path

    def _open(self, flags: int) -> Fd:
        return open_beneath(self._root, self._path, flags)

    def status(self) -> os.stat_result:
        with self._open(os.O_PATH) as fd:
            return os.fstat(fd)

    def names(self) -> list[str]:
        with self._open(os.O_PATH) as fd:
            try:
                return os.listxattr(b"/proc/self/fd/%d" % fd)
            except OSError:
                return []

    def xattrs(self, names: list[str]) -> dict[str, bytes]:
        wanted = [name for name in names if not name.startswith(_FAMILIES)]
        if not wanted:
            return {}
        with self._open(os.O_PATH) as fd:
            return {name: os.getxattr(b"/proc/self/fd/%d" % fd, name) for name in wanted}

    def target(self) -> bytes:
        with self._open(os.O_PATH) as fd:
            return os.readlink(b"", dir_fd=fd)

    def content(self) -> Fd:
        return self._open(os.O_RDONLY | os.O_NONBLOCK)


def _value(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return None
