"""The entries of an archive, one after the other, in bounded memory."""

from __future__ import annotations

from lamina.errors import InvalidInput, Unsupported
from lamina.image.tar import pax, sparse
from lamina.image.tar.entry import KINDS, Entry
from lamina.image.tar.header import BLOCK, MOST, ZEROS, Header, parse
from lamina.image.tar.limits import Limits
from lamina.image.tar.source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONG_NAME, _LONG_LINK, _PAX, _SOLARIS_PAX, _GLOBAL = b"L", b"K", b"x", b"X", b"g"
_SAY_MORE = (_LONG_NAME, _LONG_LINK, _PAX, _SOLARIS_PAX, _GLOBAL)
_VOLUME_NAME, _DUMP_DIRECTORY = b"V", b"D"
_NO_ID = 0xFFFFFFFF  # chown(2): leave as it is
_NANO = 1_000_000_000


def entries(
    next_chunk: Callable[[], bytes | bytearray | memoryview],
    limits: Limits | None = None,
    record: Callable[[memoryview], object] | None = None,
    skip: Callable[[int], int] | None = None,
) -> Iterator[Entry]:
    """Each entry of the archive that *next_chunk* gives in chunks of any size, b"" at its end.

    Two blocks of zeros end an archive, or its end where a header should be; what follows is read, and means nothing.
    Content that the caller does not read is passed over. *record* is given all bytes but the content that was read;
    without it *skip* may pass over content that is not read (`Source`).
    Raises InvalidInput for what is no archive, contradicts itself or exceeds a limit; Corrupt for one that is cut off;
    Unsupported for entries of types that are not files (parts of a multi-volume archive).
    """
    return _Reader(Source(next_chunk, record, skip), limits or Limits()).run()


class _More:
    """What extension headers said of the entry that follows them."""

    __slots__ = ("link", "name", "pax", "size")

    def __init__(self) -> None:
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.pax: list[pax.Record] | None = None
        self.size = 0  # of these headers together

    def __bool__(self) -> bool:
        return self.size > 0


class _Reader:
    def __init__(self, source: Source, limits: Limits) -> None:
        self.source, self.limits = source, limits
        self.of_all: dict[bytes, bytes] = {}
        self.count = 0
        self.total = 0

    def run(self) -> Iterator[Entry]:
        source = self.source
        more = _More()
        while (block := self._header_block(more)) is not None:
            header = parse(block)
            if header.size < 0 or header.size > MOST:
                raise InvalidInput(f"read archive: an entry of {header.size} bytes")
            if header.flag in _SAY_MORE:
                self._extension(header, more)
                continue
            if header.flag == _VOLUME_NAME:
                source.expect(header.size)
                source.finish()
                continue
            entry = self._entry(header, more)
            more = _More()
            self._count(entry)
            yield entry
            source.finish()
        source.drain()

    def _header_block(self, more: _More) -> memoryview | None:
        block = self.source.take(BLOCK)
        if len(block) == BLOCK and block != ZEROS:
            return block
        if 0 < len(block) < BLOCK or more:
            raise self.source.cut()
        if len(block) and self.source.take(BLOCK) not in (ZEROS, b""):
            raise InvalidInput("read archive: a header follows a single block of zeros")
        return None

    def _count(self, entry: Entry) -> None:
        limits = self.limits
        self.count += 1
        if self.count > limits.entries:
            limits.exceeded("entries", "it has more entries")
        self.total += entry.size
        if self.total > limits.size:
            limits.exceeded("size", f"its files have {self.total} bytes or more")
        if len(entry.name) > limits.name:
            limits.exceeded("name", f"a path of {len(entry.name)} bytes")
        if len(entry.target) > limits.name:
            limits.exceeded("name", f"a link to a path of {len(entry.target)} bytes")

    # -- extension headers

    def _extension(self, header: Header, more: _More) -> None:
        size = header.size
        more.size += BLOCK + size
        if more.size > self.limits.extensions:
            self.limits.exceeded("extensions", f"extension headers of {more.size} bytes")
        self.source.expect(size)
        data = self.source.content(size)
        self.source.finish()
        if header.flag == _GLOBAL:
            self._global(data)
        elif header.flag in (_PAX, _SOLARIS_PAX):
            if more.pax is not None:
                raise InvalidInput("read archive: an entry has two extension headers")
            more.pax = pax.records(data)
        else:
            field = "name" if header.flag == _LONG_NAME else "link"
            if getattr(more, field) is not None:
                raise InvalidInput("read archive: an entry has two long names")
            setattr(more, field, data.partition(b"\0")[0])

    def _global(self, data: bytes) -> None:
        """Only what would be applied is kept: each entry looks at all of it."""
        for key, content in pax.global_records(data).items():
            if key not in _APPLY:
                continue
            if content:
                self.of_all[key] = content
            else:  # an empty value takes an earlier one back
                self.of_all.pop(key, None)

    # -- an entry

    def _entry(self, header: Header, more: _More) -> Entry:
        kind = KINDS.get(header.flag)
        name, flag = header.name, header.flag
        if flag == _DUMP_DIRECTORY or (flag == b"\0" and name.endswith(b"/")):
            kind = "directory"
        if kind is None:
            raise Unsupported(f"read archive: {name!r} is an entry of type {flag!r}, which is no file")
        entry = Entry(name, kind, self.source)
        entry.mode = header.mode & 0o7777
        entry.uid, entry.gid = header.uid, header.gid
        entry.mtime_ns = header.mtime * _NANO
        entry.target = header.link if kind in ("link", "symlink") else b""
        entry.device = header.device
        # what has no content has none, whatever its size says: so Go's archive/tar reads it
        entry.size = entry.stored = header.size if kind == "file" or flag == _DUMP_DIRECTORY else 0
        records: list[pax.Record] = []
        if more or self.of_all:
            records = self._say_more(entry, more)
        self._sparse(entry, header, records)
        entry.offset = self.source.offset
        if kind == "directory":
            entry.size = entry.stored = 0
        self._verify(entry)
        return entry

    def _say_more(self, entry: Entry, more: _More) -> list[pax.Record]:
        own = more.pax or []
        named = {key for key, _ in own}
        records = [(key, text) for key, text in self.of_all.items() if key not in named] + own
        if more.name is not None:
            entry.name = more.name
        if more.link is not None and entry.kind in ("link", "symlink"):
            entry.target = more.link
        for key, text in records:
            if key in _APPLY:
                if text:  # an empty one takes a global one back, and leaves what the header says
                    _APPLY[key](entry, text, key)
            elif (found := pax.xattr(key, text)) is not None:
                entry.xattrs[found[0]] = found[1]
        if (more.name is not None and more.name != entry.name) or (
            more.link is not None and entry.target and more.link != entry.target
        ):
            raise InvalidInput(f"read archive: two names for one entry, {more.name!r} and {entry.name!r}")
        return records

    def _sparse(self, entry: Entry, header: Header, records: list[pax.Record]) -> None:
        source, limits = self.source, self.limits
        found: list[tuple[int, int]] | None = None
        if header.flag == b"S":
            if not header.gnu:
                raise InvalidInput(f"read archive: {entry.name!r} is a sparse file outside of a GNU archive")
            found, entry.size = sparse.old_gnu(header.rest, source, limits)
        source.expect(entry.stored)
        if records and entry.kind == "file":
            said = dict(records)
            real = said.get(b"GNU.sparse.realsize") or said.get(b"GNU.sparse.size")
            if said.get(b"GNU.sparse.major"):
                if (said[b"GNU.sparse.major"], said.get(b"GNU.sparse.minor")) != (b"1", b"0"):
                    raise Unsupported(f"read archive: {entry.name!r} is sparse in a form that is not known")
                found, taken = sparse.before_data(source, limits)
                entry.stored -= taken
            elif found is None:
                found = sparse.of_records(records, limits)
            if found is not None and header.flag != b"S":
                if real is None:
                    raise InvalidInput(f"read archive: the sparse file {entry.name!r} has no size")
                entry.size = pax.integer(real, b"GNU.sparse.size")
                entry.name = said.get(b"GNU.sparse.name") or entry.name
        if found is not None:
            if not 0 <= entry.size <= MOST:
                raise InvalidInput(f"read archive: a sparse file of {entry.size} bytes")
            entry.sparse = sparse.verify(found, entry.size, entry.stored)

    def _verify(self, entry: Entry) -> None:
        for what, number in (("user", entry.uid), ("group", entry.gid)):
            if not 0 <= number < _NO_ID:
                raise InvalidInput(f"read archive: {entry.name!r} belongs to {what} {number}, which is no id")
        if not 0 <= entry.size <= MOST or not -MOST <= entry.mtime_ns // _NANO <= MOST:
            raise InvalidInput(f"read archive: {entry.name!r} has a size or a time that cannot be")
        if b"\0" in entry.name or b"\0" in entry.target:
            raise InvalidInput(
                f"read archive: a NUL in the name {entry.name!r}, or in the link {entry.target!r}"
            )


def _path(entry: Entry, text: bytes, _: bytes) -> None:
    entry.name = text


def _link(entry: Entry, text: bytes, _: bytes) -> None:
    if entry.kind in ("link", "symlink"):
        entry.target = text


def _size(entry: Entry, text: bytes, key: bytes) -> None:
    if entry.kind == "file":
        entry.size = entry.stored = pax.integer(text, key)


def _uid(entry: Entry, text: bytes, key: bytes) -> None:
    entry.uid = pax.integer(text, key)


def _gid(entry: Entry, text: bytes, key: bytes) -> None:
    entry.gid = pax.integer(text, key)


def _mtime(entry: Entry, text: bytes, key: bytes) -> None:
    entry.mtime_ns = pax.nanoseconds(text, key)


def _major(entry: Entry, text: bytes, key: bytes) -> None:
    entry.device = pax.integer(text, key), entry.device[1]


def _minor(entry: Entry, text: bytes, key: bytes) -> None:
    entry.device = entry.device[0], pax.integer(text, key)


_APPLY: dict[bytes, Callable[[Entry, bytes, bytes], None]] = {
    b"path": _path, b"linkpath": _link, b"size": _size, b"uid": _uid, b"gid": _gid, b"mtime": _mtime,
    b"SCHILY.devmajor": _major, b"SCHILY.devminor": _minor,
}  # fmt: skip
