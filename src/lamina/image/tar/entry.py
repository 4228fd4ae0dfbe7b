"""One entry of an archive."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from lamina.image.tar.source import Source

    Kind = Literal["file", "link", "symlink", "char", "block", "directory", "fifo"]

# typeflag of the header, pax(1)
KINDS: dict[bytes, Kind] = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "link", b"2": "symlink", b"3": "char",
    b"4": "block", b"5": "directory", b"6": "fifo",
}  # fmt: skip


class Entry:
    """What an archive says about one file; its content is read in order, and skipped where it is not.

    name      as it stands there, but for the "/" at the end of a directory's
    kind      "file", "link" (another name of `target`), "symlink", "char", "block", "directory" or "fifo"
    mode      permission bits (0o7777)
    mtime_ns  nanoseconds since 1970
    size      of a file in bytes, holes included; 0 of all others
    stored    how many of them are in the archive
    target    of links: the text as it stands there
    device    of devices: (major, minor)
    xattrs    names as in the `os` module, in the archive's order
    offset    how much of the archive comes before its content
    sparse    of a sparse file: (offset, length) of each piece of data in order; None of all others
    """

    __slots__ = (
        "_source", "device", "gid", "kind", "mode", "mtime_ns", "name", "offset", "size", "sparse", "stored", "target",
        "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, name: bytes, kind: Kind, source: Source | None = None) -> None:
        self.name = name
        self.kind: Kind = kind
        self.mode = 0o644
        self.uid = self.gid = 0
        self.mtime_ns = 0
        self.size = self.stored = 0
        self.offset = 0
        self.target = b""
        self.device = (0, 0)
        self.xattrs: dict[str, bytes] = {}
        self.sparse: list[tuple[int, int]] | None = None
        self._source = source

    def at_hand(self) -> memoryview | None:
        """All stored bytes at once if they are in memory already, else None: then read `chunks`.

        Valid as long as it is held, also after the next entry was asked for.
        """
        return None if self._source is None else self._source.at_hand(self.stored)

    def chunks(self) -> Iterator[memoryview]:
        """The stored bytes in pieces: of a sparse file those of all its pieces of data, one after the other.

        Raises Corrupt where the archive ends before they do.
        """
        if self._source is not None:
            yield from self._source.chunks(self.stored)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r} {self.size}>"
