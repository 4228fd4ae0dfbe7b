"""One header block: its numbers, its checksum, and which of the dialects it is written in.

pax(1), "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format"; tar(5).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple
from zlib import adler32

from lamina.errors import InvalidInput

BLOCK = 512
ZEROS = bytes(BLOCK)
# name, mode, uid, gid, size, mtime, chksum, typeflag, linkname, magic and version, uname, gname, devmajor, devminor,
# and the rest
_FIELDS = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s167s")
_USTAR, _GNU = b"ustar\x0000", b"ustar  \0"
_STAR = b"tar\0"  # at the very end, beside the magic of ustar: the older star(1)
# in the rest of a GNU header: 4 pieces of 24 bytes, isextended, realsize
GNU_ATIME, GNU_CTIME, GNU_SPARSE, GNU_EXTENDED, GNU_REAL_SIZE = 0, 12, 41, 137, 138
MOST = (1 << 63) - 1


class Header(NamedTuple):
    """The fields of one block: numbers read, text up to its NUL.

    `rest` are the last 167 bytes, which `gnu` says how to read.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    flag: bytes
    link: bytes
    device: tuple[int, int]
    gnu: bool
    rest: bytes


@lru_cache(1024)  # most entries of an archive have the modes, owners and times of others
def number(field: bytes, what: str) -> int:
    """A number in octal digits, or in base 256 where the first bit is set (GNU tar, star). Raises InvalidInput.

    Blanks and NULs may surround the digits, nothing at all means 0.
    """
    if field[0] & 0x80:
        most = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40:
            most -= 1 << (8 * len(field) - 1)
        return most
    text = field.strip(b" \0").partition(b"\0")[0]
    if not text:
        return 0
    try:
        if not text.isdigit():  # int() would take "+7", "-7" and "1_0"
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise InvalidInput(f"read archive: {text!r} is no octal number, as {what} of an entry") from None


def parse(block: memoryview) -> Header:
    """Read a block that is not all zeros. Raises InvalidInput: a wrong checksum, numbers that are none."""
    (name, mode, uid, gid, size, mtime, checksum, flag, link, magic, _, _, major, minor, rest) = (
        _FIELDS.unpack_from(block)
    )
    _verify(block, number(checksum, "checksum"))
    name, link = name.partition(b"\0")[0], link.partition(b"\0")[0]
    gnu = magic == _GNU
    device = (0, 0)
    if magic[:6] == _USTAR[:6] or gnu:
        if flag in (b"3", b"4"):
            device = number(major, "device"), number(minor, "device")
        prefix = _prefix(rest, gnu)
        if prefix:
            name = prefix + b"/" + name
    return Header(
        name, number(mode, "mode"), number(uid, "user id"), number(gid, "group id"), number(size, "size"),
        number(mtime, "time"), flag, link, device, gnu, rest,
    )  # fmt: skip


def _verify(block: memoryview, wanted: int) -> None:
    """The sum of all bytes, those of the sum itself taken as blanks."""
    # adler32 is 1 and that sum, modulo 65521, in its low half (RFC 1950): of at most 256 bytes it is the sum itself,
    # for a fifth of what sum() takes
    parts = adler32(block[:148]), adler32(block[156:334]), adler32(block[334:])
    if sum([(part & 0xFFFF) - 1 for part in parts]) + 8 * ord(" ") == wanted:
        return
    # some old programs added signed bytes
    signed = block.cast("b")
    if sum(signed) - sum(signed[148:156]) + 256 != wanted:
        raise InvalidInput(
            "read archive: a header's checksum is wrong: this is no tar archive, or a damaged one"
        )


def _prefix(rest: bytes, gnu: bool) -> bytes:
    if not gnu:
        width = 131 if rest[163:] == _STAR else 155
        return rest[:width].partition(b"\0")[0]
    # What is a prefix elsewhere are two times here. Archives that Go wrote before 1.8 say they are GNU's and have a
    # prefix all the same (archive/tar/reader.go), and old images were made from these.
    if rest[:1] in (b"\0", b" ") or rest[0] & 0x80 or rest[:11].isdigit():
        return b""
    prefix = rest[:155].partition(b"\0")[0]
    return prefix if prefix.isascii() else b""
