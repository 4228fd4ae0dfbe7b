"""A layer in overlay form becomes a layer of an image: whiteouts `.wh.NAME`, opaque directories `.wh..wh..opq`."""

from __future__ import annotations

import os
import stat
from errno import ENOENT, ENOTDIR
from functools import partial

from lamina.errors import Conflict, Unsupported
from lamina.image.apply.names import OPAQUE, WHITEOUT
from lamina.image.pack.packer import Packer
from lamina.linux.fd import Fd
from lamina.linux.procfs import has_trusted_attributes
from lamina.overlay.copying import listed
from lamina.overlay.layer import TRUSTED, USER, LayerFormat
from lamina.overlay.lookup import look, open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lamina.image.apply.ids import IdMap
    from lamina.image.pack.sink import Out, Packed

_FAMILIES = ("trusted.overlay.", "user.overlay.")
_GONE = (ENOENT, ENOTDIR)


def pack_layer(
    directory: int,
    out: Out,
    *,
    compression: str = "none",
    userxattr: bool | None = None,
    ids: IdMap | None = None,
    without: Collection[bytes] = (),
    living: bool = False,
) -> Packed:
    """Write the layer in *directory* (an upper, or what a layer of the store holds) to *out*.

    *userxattr*: its marks are of that family (None: if this is not root of the machine). *ids*: what owners become in
    the archive. *without* are paths ("etc/hosts") that are left out, with all that is below them. *living*: it is
    written to meanwhile, and what goes before it is read is left out.
    Raises Unsupported for what no archive of a layer can say: directories that were moved by a redirect, files of
    which only the metadata were copied up, names that begin with .wh.; Conflict where something changes meanwhile;
    OSError.
    """
    marks = USER if (not has_trusted_attributes() if userxattr is None else userxattr) else TRUSTED
    packer = Packer(out, compression, ids)
    with open_beneath(directory, b"", os.O_RDONLY | os.O_DIRECTORY) as root:
        packer.put(b".", os.fstat(root), _xattrs(root, listed(b"/proc/self/fd/%d" % root)), b"", _no_content)
    pending = [_walk(directory, b"", marks, packer, without, living)]
    while pending:
        below = next(pending[-1], None)
        if below is None:
            pending.pop()
        else:
            pending.append(_walk(directory, below, marks, packer, without, living))
    return packer.finish()


def _walk(
    root: int, path: bytes, family: LayerFormat, packer: Packer, without: Collection[bytes], living: bool
) -> Iterator[bytes]:
    """Pack what is in one directory; yields each directory in it, which is then to be walked."""
    prefix = path + b"/" if path else b""
    fd = _opened(root, path, living)
    if fd is None:
        return
    try:
        others = _marks(fd, path, prefix, family, packer, living)
        for name, status, stored in others:
            if prefix + name in without:
                continue
            for mark in (family.redirect, family.metacopy):
                if mark in stored:
                    raise Unsupported(
                        f"pack {os.fsdecode(prefix + name)}: it was moved, or only its metadata were changed, which a"
                        f" layer alone does not hold ({mark})"
                    )
            try:
                target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else b""
                xattrs = _xattrs(b"/proc/self/fd/%d/%b" % (fd, name), stored) if stored else {}
                packer.put(prefix + name, status, xattrs, target, partial(_content, fd, name, living))
            except OSError as error:
                if not living or error.errno not in _GONE:
                    raise
                continue
            if stat.S_ISDIR(status.st_mode):
                fd.close()  # what is below may be deep
                yield prefix + name
                fd = _opened(root, path, living)
                if fd is None:
                    return
    finally:
        if fd is not None:
            fd.close()


def _opened(root: int, path: bytes, living: bool) -> Fd | None:
    """The directory; None where that is gone, of one that is *living*."""
    try:
        return open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if not living or error.errno not in _GONE:
            raise
        return None


def _marks(
    fd: int, path: bytes, prefix: bytes, family: LayerFormat, packer: Packer, living: bool
) -> list[tuple[bytes, os.stat_result, list[str]]]:
    """Write the marks of one directory; its other entries."""
    opaque = _value(fd, family.opaque) == b"y" if path else False  # on the root it means nothing
    if opaque:
        packer.mark(prefix + OPAQUE)
    others = []
    for name in sorted(map(os.fsencode, os.listdir(fd))):
        try:
            status, stored = look(fd, name)
        except FileNotFoundError:
            if not living:
                raise
            continue
        if stat.S_ISSOCK(status.st_mode):  # no archive holds one; what it hides stays hidden
            packer.leave_out()
            if not opaque and not name.startswith(WHITEOUT):
                packer.mark(prefix + WHITEOUT + name)
        elif not family.is_whiteout(status, stored):
            others.append((name, status, stored))
        elif name.startswith(WHITEOUT):
            raise Unsupported(f"pack {os.fsdecode(prefix + name)}: no whiteout can hide such a name")
        elif not opaque:
            packer.mark(prefix + WHITEOUT + name)
    return others


def _xattrs(place: int | bytes, names: list[str]) -> dict[str, bytes]:
    """Those that are not overlayfs' own; of a path, the last name is not followed."""
    wanted = [name for name in names if not name.startswith(_FAMILIES)]
    return {name: os.getxattr(place, name, follow_symlinks=isinstance(place, int)) for name in wanted}


def _content(fd: int, name: bytes, living: bool) -> Fd:
    """A regular file to be read. What somebody has put into its place meanwhile is not opened: of a device that alone
    may do something.
    """
    with open_beneath(fd, name, os.O_PATH) as found:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            if living:
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT), os.fsdecode(name))
            raise Conflict(f"pack {os.fsdecode(name)}: it became something else while it was read")
        return Fd(os.open(b"/proc/self/fd/%d" % found, os.O_RDONLY | os.O_CLOEXEC))


def _no_content() -> Fd:
    raise AssertionError("a directory has none")


def _value(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return None
