"""Tar archives put together by hand, so that any field may be wrong, and layers made of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lamina.image.apply import Applied, IdMap, apply_layer
from lamina.image.tar import Entry, Limits, entries

BLOCK = 512
END = bytes(2 * BLOCK)


def block(
    name: bytes = b"file",
    flag: bytes = b"0",
    *,
    mode: bytes | int = 0o644,
    uid: bytes | int = 0,
    gid: bytes | int = 0,
    size: bytes | int = 0,
    mtime: bytes | int = 0,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    major: bytes | int = 0,
    minor: bytes | int = 0,
    prefix: bytes = b"",
    checksum: int | None = None,
) -> bytes:
    """One header. Numbers as bytes are written as they are."""

    def number(what: bytes | int, width: int) -> bytes:
        return what.ljust(width, b"\0") if isinstance(what, bytes) else b"%0*o\0" % (width - 1, what)

    assert len(name) <= 100 and len(link) <= 100 and len(prefix) <= 167
    made = bytearray(
        name.ljust(100, b"\0") + number(mode, 8) + number(uid, 8) + number(gid, 8) + number(size, 12)
        + number(mtime, 12) + b" " * 8 + flag + link.ljust(100, b"\0") + magic + bytes(64)
        + number(major, 8) + number(minor, 8) + prefix.ljust(167, b"\0")
    )  # fmt: skip
    made[148:156] = b"%06o\0 " % (sum(made) if checksum is None else checksum)
    assert len(made) == BLOCK
    return bytes(made)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, content: bytes = b"", **fields: object) -> bytes:
    return block(name, size=len(content), **fields) + padded(content)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> bytes:
    return block(name + b"/", b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return longer(target) + block(name, b"2", link=target[:100], mode=0o777, **fields)  # type: ignore[arg-type]


def hard_link(name: bytes, target: bytes) -> bytes:
    return longer(target) + block(name, b"1", link=target[:100])


def longer(target: bytes) -> bytes:
    """What a target needs that does not fit a header."""
    return long_name(target, b"K") if len(target) > 100 else b""


def device(name: bytes, kind: str, major: int, minor: int) -> bytes:
    return block(name, {"char": b"3", "block": b"4"}[kind], major=major, minor=minor, mode=0o666)


def record(key: bytes, content: bytes) -> bytes:
    rest = len(key) + len(content) + 3
    length = next(n for n in range(rest, rest + 10) if n == rest + len(str(n)))
    return b"%d %b=%b\n" % (length, key, content)


def pax(*records: tuple[bytes, bytes], flag: bytes = b"x") -> bytes:
    data = b"".join(record(*pair) for pair in records)
    return block(b"PaxHeaders/x", flag, size=len(data)) + padded(data)


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    return block(b"././@LongLink", flag, size=len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


def archive(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def chunks(data: bytes, size: int = 1 << 20) -> Callable[[], bytes]:
    """*data* in chunks, as an archive's reader wants it."""
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def read(data: bytes, limits: Limits | None = None, size: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    """The entries with what the archive holds of each."""
    return [(entry, b"".join(map(bytes, entry.chunks()))) for entry in entries(chunks(data, size), limits)]


def unpack(
    data: bytes | Iterable[bytes],
    place: Path | bytes,
    *,
    userxattr: bool = False,
    ids: IdMap | None = None,
    limits: Limits | None = None,
    size: int = 1 << 20,
) -> Applied:
    """Unpack an archive into *place*, which is made."""
    os.makedirs(place)
    if isinstance(data, bytes):
        next_chunk = chunks(data, size)
    else:
        pieces: Iterator[bytes] = iter(data)
        next_chunk = lambda: next(pieces, b"")  # noqa: E731
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return apply_layer(next_chunk, fd, userxattr=userxattr, ids=ids, limits=limits)
    finally:
        os.close(fd)
