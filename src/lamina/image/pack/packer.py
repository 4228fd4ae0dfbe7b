"""Entries of an archive from what lstat(2) says, whoever walks."""

from __future__ import annotations

import os
import stat

from lamina.errors import Unsupported
from lamina.image.apply.names import WHITEOUT
from lamina.image.pack.content import pieces_of, write_content
from lamina.image.pack.sink import Sink
from lamina.image.tar.entry import Entry
from lamina.image.tar.writer import END, headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.image.apply.ids import IdMap
    from lamina.image.pack.sink import Out, Packed
    from lamina.image.tar.entry import Kind as EntryKind
    from lamina.linux.fd import Fd

# labels and measurements of this host; overlayfs' own marks the walkers know about
_OF_THE_HOST = frozenset({"security.selinux", "security.SMACK64", "security.ima", "security.evm"})
_KINDS: dict[int, EntryKind] = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char",
    stat.S_IFBLK: "block", stat.S_IFIFO: "fifo",
}  # fmt: skip


class Packer:
    """Writes one archive, entry by entry; the caller decides their order."""

    def __init__(self, out: Out, compression: str, ids: IdMap | None, *, layer: bool = True) -> None:
        """*ids* is what the owners of the files become in the archive; *layer*: it is one, where some names are marks.
        Raises InvalidInput.
        """
        self._layer = layer
        self._sink = Sink(out, compression)  # type: ignore[arg-type]  # which it checks
        self._ids = ids
        self._linked: dict[tuple[int, int], bytes] = {}
        self._sockets = 0

    def mark(self, path: bytes) -> None:
        """A whiteout or an opaque mark: an empty file that is the same every time."""
        entry = Entry(path, "file")
        entry.mode = 0
        self._sink.write(headers(entry))

    def leave_out(self) -> None:
        """Count a socket."""
        self._sockets += 1

    def put(
        self,
        path: bytes,
        status: os.stat_result,
        xattrs: dict[str, bytes],
        target: bytes,
        content: Callable[[], Fd],
    ) -> None:
        """One file, link, directory or device; *content* opens a regular file. Raises OSError, Conflict."""
        if stat.S_ISSOCK(status.st_mode):
            self.leave_out()
            return
        if self._layer and path.rpartition(b"/")[2].startswith(WHITEOUT):
            raise Unsupported(
                f"pack {os.fsdecode(path)}: in a layer, a name that begins with .wh. would delete another file",
                remedy="rename it",
            )
        entry = self._entry(path, status, xattrs)
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                entry.kind, entry.target, entry.xattrs, entry.device = "link", first, {}, (0, 0)
                self._sink.write(headers(entry))
                return
        if entry.kind != "file":
            entry.target = target
            self._sink.write(headers(entry))
            return
        entry.size = entry.stored = status.st_size
        if not entry.size:
            self._sink.write(headers(entry))
            return
        with self._opened(status, content) as fd:
            entry.size = entry.stored = os.fstat(fd).st_size  # another one may have taken its place
            pieces = pieces_of(fd, entry.size)
            if pieces is not None:
                entry.sparse = pieces
                entry.stored = sum(length for _, length in pieces)
            self._sink.write(headers(entry))
            write_content(fd, [(0, entry.size)] if pieces is None else pieces, self._sink, path)

    def _opened(self, status: os.stat_result, content: Callable[[], Fd]) -> Fd:
        try:
            return content()
        except BaseException:  # the next of its names is the first one then
            self._linked.pop((status.st_dev, status.st_ino), None)
            raise

    def _entry(self, path: bytes, status: os.stat_result, xattrs: dict[str, bytes]) -> Entry:
        entry = Entry(path, _KINDS[stat.S_IFMT(status.st_mode)])
        entry.mode = stat.S_IMODE(status.st_mode)
        entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.mtime_ns = status.st_mtime_ns
        entry.xattrs = {name: text for name, text in xattrs.items() if name not in _OF_THE_HOST}
        if entry.kind in ("char", "block"):
            entry.device = os.major(status.st_rdev), os.minor(status.st_rdev)
        if (ids := self._ids) is not None:
            entry.uid, entry.gid = ids.uid(entry.uid), ids.gid(entry.gid)
            entry.xattrs = {name: ids.xattr(name, text) for name, text in entry.xattrs.items()}
        return entry

    def finish(self) -> Packed:
        """The end of the archive."""
        self._sink.write(END)
        return self._sink.finish(self._sockets)
