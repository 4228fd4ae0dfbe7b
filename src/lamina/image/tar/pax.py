"""Extension headers of pax: records "LENGTH KEY=VALUE\\n", where LENGTH counts the whole record.

pax(1), "pax Extended Header".
"""

from __future__ import annotations

import base64
import binascii
import os
from urllib.parse import unquote_to_bytes

from lamina.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    Record = tuple[bytes, bytes]

SCHILY = b"SCHILY.xattr."
LIBARCHIVE = b"LIBARCHIVE.xattr."
# of one file; said of all that follow they can only be meant to deceive
_OF_ONE = (b"path", b"linkpath", b"size", b"GNU.sparse.", SCHILY, LIBARCHIVE)
NANO = 1_000_000_000


def records(data: bytes) -> list[Record]:
    """The records of one header, in order. Raises InvalidInput."""
    found = []
    at = 0
    while at < len(data):
        blank = data.find(b" ", at, at + 20)
        digits = data[at:blank] if blank > at else b""
        if not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break  # filled up, as some programs do
            raise InvalidInput("read archive: an extension header has a record without a length")
        end = at + int(digits)
        if end <= blank + 1 or end > len(data) or data[end - 1 : end] != b"\n":
            raise InvalidInput(
                "read archive: an extension header has a record of another length than it says"
            )
        key, equals, content = data[blank + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise InvalidInput("read archive: an extension header has a record without a key")
        found.append((key, content))
        at = end
    return found


def global_records(data: bytes) -> dict[bytes, bytes]:
    """Those of a header for all entries that follow. Raises InvalidInput for what can only be said of one."""
    found = dict(records(data))
    for key in found:
        if key.startswith(_OF_ONE):
            raise InvalidInput(
                f"read archive: a global header gives all entries that follow the same {key.decode('ascii', 'replace')}"
            )
    return found


def integer(text: bytes, key: bytes) -> int:
    """A decimal number that is not negative. Raises InvalidInput."""
    if not text.isdigit() or len(text) > 20:
        raise InvalidInput(
            f"read archive: {text[:40]!r} is no number, as {key.decode('ascii', 'replace')} of an entry"
        )
    return int(text)


def nanoseconds(text: bytes, key: bytes) -> int:
    """Seconds since 1970 with a fraction, perhaps negative, in nanoseconds; more digits are cut off downwards."""
    sign, digits = (-1, text[1:]) if text[:1] == b"-" else (1, text)
    whole, point, fraction = digits.partition(b".")
    if (
        (not whole and not fraction)
        or len(whole) > 20
        or not (whole or b"0").isdigit()
        or not (fraction or b"0").isdigit()
    ):
        raise InvalidInput(
            f"read archive: {text[:40]!r} is no time, as {key.decode('ascii', 'replace')} of an entry"
        )
    most = int(whole or b"0") * NANO + int(fraction[:9].ljust(9, b"0") if point else b"0")
    if sign < 0:
        return -most - (1 if fraction[9:].strip(b"0") else 0)
    return most


def xattr(key: bytes, content: bytes) -> tuple[str, bytes] | None:
    """The extended attribute that a record stands for; None for any other record. Raises InvalidInput."""
    if key.startswith(SCHILY):
        # GNU tar writes "%" and "=" in a name as %25 and %3D (xheader.c); a name is not decoded any further
        name = key[len(SCHILY) :].replace(b"%3D", b"=").replace(b"%25", b"%")
    elif key.startswith(LIBARCHIVE):
        name = unquote_to_bytes(key[len(LIBARCHIVE) :])
        try:
            content = base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
        except binascii.Error:
            raise InvalidInput(f"read archive: the attribute {name!r} is not written in base 64") from None
    else:
        return None
    if not name or b"\0" in name:
        raise InvalidInput(f"read archive: no attribute can be called {name!r}")
    return os.fsdecode(name), content


def encode(key: bytes, content: bytes) -> bytes:
    """One record, with its length, in which the length's own digits count."""
    rest = len(key) + len(content) + 3  # blank, "=", newline
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, content)
