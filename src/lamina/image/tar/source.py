"""An archive as a stream of blocks, over chunks of any size."""

from __future__ import annotations

from lamina.errors import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Chunk = bytes | bytearray | memoryview

BLOCK = 512
_NOTHING = memoryview(b"")


class Source:
    """Chunks as `next_chunk` gives them (b"" at the end), read in order. What lies in one chunk is not copied.

    `expect(n)` says how much content follows, which `chunks`, `at_hand` or `finish` then use up with its padding.
    *record* is given everything that was read, but not what `chunks` and `at_hand` gave. *skip*, of an archive that
    need not be read as a whole, passes over so many of the bytes that `next_chunk` would give next, and says how many
    there were.
    """

    __slots__ = ("_at", "_chunk", "_left", "_next", "_padding", "_record", "_skip", "passed")

    def __init__(
        self,
        next_chunk: Callable[[], Chunk],
        record: Callable[[memoryview], object] | None = None,
        skip: Callable[[int], int] | None = None,
    ) -> None:
        self._next = next_chunk
        self._record = record
        self._skip = skip
        self._chunk = _NOTHING
        self._at = 0
        self._left = self._padding = 0  # of the content that was announced
        self.passed = 0  # bytes before this chunk

    @property
    def offset(self) -> int:
        """How many bytes were read."""
        return self.passed + self._at

    def _refill(self) -> bool:
        """The next chunk; only when the last one was read to its end."""
        self.passed += len(self._chunk)
        self._chunk = memoryview(self._next())
        self._at = 0
        return len(self._chunk) > 0

    def take(self, length: int) -> memoryview:
        """The next *length* bytes; fewer at the end of the archive."""
        at = self._at
        end = at + length
        if end <= len(self._chunk):
            self._at = end
            found = self._chunk[at:end]
        else:
            found = memoryview(b"".join(self._pieces(length)))
        if self._record is not None:
            self._record(found)
        return found

    def _pieces(self, length: int) -> Iterator[memoryview]:
        while length:
            piece = self._chunk[self._at : self._at + length]
            if not piece:
                if not self._refill():
                    break
                continue
            self._at += len(piece)
            length -= len(piece)
            yield piece

    def expect(self, length: int) -> None:
        """*length* bytes of content follow, and what fills the last block."""
        self._left, self._padding = length, -length % BLOCK

    def at_hand(self, length: int) -> memoryview | None:
        """All the content if it lies in this chunk, which is then used up; else None."""
        end = self._at + length
        if length != self._left or end > len(self._chunk):
            return None
        found = self._chunk[self._at : end]
        self._at = end
        self._left = 0
        return found

    def chunks(self, length: int) -> Iterator[memoryview]:
        """The next *length* bytes of the content, in pieces. Raises Corrupt where they are not there."""
        length = min(length, self._left)
        for piece in self._pieces(length):
            self._left -= len(piece)
            length -= len(piece)
            yield piece
        if length:
            raise self.cut()

    def content(self, length: int) -> bytes:
        """The next *length* bytes of the content in one piece; the caller knows that they are not too many."""
        found = self.take(min(length, self._left))
        self._left -= len(found)
        if len(found) < length:
            raise self.cut()
        return bytes(found)

    def finish(self) -> None:
        """Pass over what is left of the content and its padding. Raises Corrupt where the archive ends before."""
        rest = self._left + self._padding
        self._left = self._padding = 0
        if not rest:
            return
        ahead = rest - (len(self._chunk) - self._at)
        if ahead > 0 and self._skip is not None:
            self.passed += len(self._chunk)
            self._chunk, self._at = _NOTHING, 0
            rest = ahead - self._skip(ahead)
            self.passed += ahead - rest
            if rest:
                raise self.cut()
            return
        for piece in self._pieces(rest):
            rest -= len(piece)
            if self._record is not None:
                self._record(piece)
        if rest:
            raise self.cut()

    def drain(self) -> None:
        """Read what follows the archive's end."""
        while True:
            rest = self._chunk[self._at :]
            self._at = len(self._chunk)
            if rest and self._record is not None:
                self._record(rest)
            if not self._refill():
                return

    def cut(self) -> Corrupt:
        """The error for an archive that ends too early."""
        return Corrupt(f"read archive: it ends after {self.offset} bytes, in the middle of an entry")
