"""Headers of an archive: the same entry gives the same bytes, on any machine.

ustar where it fits, a pax extension header for what does not: names that are too long, large numbers, fractions of
seconds, attributes, sparse files (form 1.0). Names of users and groups, access times and padding say nothing.
"""

from __future__ import annotations

import os
import struct

from lamina.errors import Unsupported
from lamina.image.tar.pax import NANO, SCHILY, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.tar.entry import Entry

BLOCK = 512
END = bytes(2 * BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_FLAGS = {
    "file": b"0", "link": b"1", "symlink": b"2", "char": b"3", "block": b"4", "directory": b"5", "fifo": b"6",
}  # fmt: skip
_NAME, _PREFIX, _LINK = 100, 155, 100
_EIGHT, _TWELVE = 8**7 - 1, 8**11 - 1  # the largest numbers of seven and eleven digits


def padding(size: int) -> bytes:
    """What fills the last block of content of *size* bytes."""
    return bytes(-size % BLOCK)


def headers(entry: Entry) -> bytes:
    """All that comes before an entry's content: of a sparse file also its map.

    `size`, `sparse` and the rest are taken from *entry*, whose name has no "/" at its end. Raises Unsupported for an
    attribute that no record can have.
    """
    records: list[tuple[bytes, bytes]] = []
    name = entry.name + b"/" if entry.kind == "directory" else entry.name
    sparse = _map(entry)
    stored = entry.stored + len(sparse)
    if entry.sparse is not None:
        records += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"%d" % entry.size),
        ]
        name = b"GNUSparseFile.0/" + name.rpartition(b"/")[2][:80]
    prefix, short = _split(name)
    if short is None:
        records.append((b"path", name))
        prefix, short = b"", name[:_NAME]
    link = entry.target
    if len(link) > _LINK:
        records.append((b"linkpath", link))
        link = link[:_LINK]
    seconds, fraction = divmod(entry.mtime_ns, NANO)
    if fraction or not 0 <= seconds <= _TWELVE:
        records.append((b"mtime", _time(entry.mtime_ns)))
        seconds = min(max(seconds, 0), _TWELVE)
    numbers = []
    for key, number, most in (
        (b"uid", entry.uid, _EIGHT),
        (b"gid", entry.gid, _EIGHT),
        (b"size", stored, _TWELVE),
    ):
        if number > most:
            records.append((key, b"%d" % number))
        numbers.append(number if number <= most else 0)
    records += [(_key(key), content) for key, content in sorted(entry.xattrs.items())]
    uid, gid, size = numbers
    flag = _FLAGS[entry.kind]
    header = _block(short, entry.mode, uid, gid, size, seconds, flag, link, entry.device, prefix)
    return (_extension(entry.name, records) if records else b"") + header + sparse


def _extension(name: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    """The pax header of the entry *name*, which comes before its own."""
    data = b"".join(encode(key, content) for key, content in sorted(records))
    base = b"PaxHeaders/" + name.rpartition(b"/")[2][:80]
    return _block(base, 0o644, 0, 0, len(data), 0, b"x", b"", (0, 0), b"") + data + padding(len(data))


def _block(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, flag: bytes, link: bytes,
    device: tuple[int, int], prefix: bytes,
) -> bytes:  # fmt: skip
    fields = (
        name, b"%07o" % mode, b"%07o" % uid, b"%07o" % gid, b"%011o" % size, b"%011o" % mtime, b" " * 8, flag, link,
        b"ustar\x0000", b"", b"", b"%07o" % device[0], b"%07o" % device[1], prefix,
    )  # fmt: skip
    block = bytearray(_HEADER.pack(*fields))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """A name as ustar has it: at most 155 bytes, "/", at most 100; None if it does not fit."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.rfind(b"/", 0, min(_PREFIX + 1, len(name) - 1))
    if cut <= 0 or len(name) - cut - 1 > _NAME:
        return b"", None
    return name[:cut], name[cut + 1 :]


def _time(nanoseconds: int) -> bytes:
    sign, most = (b"-", -nanoseconds) if nanoseconds < 0 else (b"", nanoseconds)
    seconds, fraction = divmod(most, NANO)
    text = b"%b%d.%09d" % (sign, seconds, fraction)
    return text.rstrip(b"0").rstrip(b".")


def _key(name: str) -> bytes:
    """The record of an attribute; as GNU tar, "%" and "=" in its name are written %25 and %3D."""
    encoded = os.fsencode(name).replace(b"%", b"%25").replace(b"=", b"%3D")
    if b"\n" in encoded:
        raise Unsupported(f"write archive: no record can be called as the attribute {name!r} is")
    return SCHILY + encoded


def _map(entry: Entry) -> bytes:
    if entry.sparse is None:
        return b""
    pieces = list(entry.sparse)
    if not pieces or sum(pieces[-1]) < entry.size:
        pieces.append((entry.size, 0))  # GNU tar takes the end of the last one for the size
    lines = [b"%d\n" % len(pieces)]
    lines += [b"%d\n%d\n" % piece for piece in pieces]
    text = b"".join(lines)
    return text + padding(len(text))
