"""Maps of sparse files: where the pieces of data lie that the archive holds one after the other.

The GNU tar manual, "Storing Sparse Files"; formats "old GNU", pax 0.0, 0.1 and 1.0.
"""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.image.tar.header import GNU_EXTENDED, GNU_REAL_SIZE, GNU_SPARSE, number
from lamina.image.tar.pax import integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.image.tar.limits import Limits
    from lamina.image.tar.pax import Record
    from lamina.image.tar.source import Source

    Map = list[tuple[int, int]]

_PIECE = 24  # offset and length, 12 bytes each
_IN_HEADER, _IN_BLOCK = 4, 21
_BLOCK = 512
_DIGITS = 20


def old_gnu(rest: bytes, source: Source, limits: Limits) -> tuple[Map, int]:
    """The map and the real size of an entry of type S; reads the blocks that continue its header."""
    found: Map = []
    _pieces(rest[GNU_SPARSE:], _IN_HEADER, found)
    more = rest[GNU_EXTENDED]
    while more:
        block = bytes(source.take(_BLOCK))
        if len(block) < _BLOCK:
            raise source.cut()
        _pieces(block, _IN_BLOCK, found)
        if len(found) > limits.segments:
            limits.exceeded("segments", "a sparse file in more pieces")
        more = block[_IN_BLOCK * _PIECE]
    return found, number(rest[GNU_REAL_SIZE : GNU_REAL_SIZE + 12], "size of a sparse file")


def _pieces(data: bytes, count: int, found: Map) -> None:
    for at in range(0, count * _PIECE, _PIECE):
        if not data[at]:  # an empty one ends the list
            break
        offset = number(data[at : at + 12], "place in a sparse file")
        found.append((offset, number(data[at + 12 : at + _PIECE], "length in a sparse file")))


def of_records(records: list[Record], limits: Limits) -> Map | None:
    """The map in pax records, form 0.0 (a record for each number) or 0.1 (all in one); None if there is none."""
    numbers: list[int] = []
    seen = False
    for key, content in records:
        if key == b"GNU.sparse.map":
            seen = True
            if content.count(b",") > 2 * limits.segments:
                limits.exceeded("segments", "a sparse file in more pieces")
            numbers = [integer(text, key) for text in content.split(b",")] if content else []
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            seen = True
            if (len(numbers) % 2 == 0) != (key == b"GNU.sparse.offset"):
                raise InvalidInput("read archive: the map of a sparse file is out of order")
            numbers.append(integer(content, key))
        elif key == b"GNU.sparse.numblocks":
            seen = True
    if not seen:
        return None
    if len(numbers) % 2:
        raise InvalidInput("read archive: the map of a sparse file ends in the middle")
    if len(numbers) > 2 * limits.segments:
        limits.exceeded("segments", "a sparse file in more pieces")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def before_data(source: Source, limits: Limits) -> tuple[Map, int]:
    """The map of form 1.0, in decimal lines at the beginning of the content, and how many bytes of that it takes."""
    data = b""
    at = taken = 0

    def line() -> int:
        nonlocal data, at, taken
        while (end := data.find(b"\n", at)) < 0:
            if len(data) - at > _DIGITS:
                raise InvalidInput("read archive: the map of a sparse file is no list of numbers")
            data = data[at:] + source.content(_BLOCK)
            at = 0
            taken += _BLOCK
        text = data[at:end]
        at = end + 1
        return integer(text, b"sparse map")

    count = line()
    if count > limits.segments:
        limits.exceeded("segments", f"a sparse file in {count} pieces")
    return [(line(), line()) for _ in range(count)], taken


def verify(found: Map, size: int, stored: int) -> Map:
    """The map without its empty pieces, if it is in order and fits. Raises InvalidInput."""
    end = total = 0
    kept: Map = []
    for offset, length in found:
        if offset < end or length < 0 or offset + length > size:
            raise InvalidInput(
                "read archive: the map of a sparse file is out of order, or larger than the file"
            )
        end = offset + length
        total += length
        if length:
            kept.append((offset, length))
    if total != stored:
        raise InvalidInput(
            f"read archive: a sparse file's map has {total} bytes of data, the archive {stored}"
        )
    return kept
