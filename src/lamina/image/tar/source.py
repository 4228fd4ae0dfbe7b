"""An archive as a stream of blocks, over chunks of any size."""

from __future__ import annotations

from lamina.errors import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
_NOTHING = memoryview(b"")


class Source:
    """Chunks as `next_chunk` gives them (b"" at the end), read in order. What lies in one chunk is not copied.

    `expect(n)` says how much content follows, which `chunks`, `at_hand` or `finish` then use up with its padding.
    """

    __slots__ = ("_at", "_chunk", "_left", "_next", "_padding", "passed")

    def __init__(self, next_chunk: Callable[[], bytes | bytearray | memoryview]) -> None:
        self._next = next_chunk
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
            return self._chunk[at:end]
        pieces: list[memoryview] = []
        while length:
            piece = self._chunk[self._at : self._at + length]
            if not piece:
                if not self._refill():
                    break
                continue
            self._at += len(piece)
            length -= len(piece)
            pieces.append(piece)
        return memoryview(b"".join(pieces))

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
        while length:
            piece = self._chunk[self._at : self._at + length]
            if not piece:
                if not self._refill():
                    raise self.cut()
                continue
            self._at += len(piece)
            self._left -= len(piece)
            length -= len(piece)
            yield piece

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
        at = self._at + rest
        if at <= len(self._chunk):
            self._at = at
            return
        while True:
            rest = at - len(self._chunk)
            if not self._refill():
                raise self.cut()
            at = rest
            if at <= len(self._chunk):
                self._at = at
                return

    def cut(self) -> Corrupt:
        """The error for an archive that ends too early."""
        return Corrupt(f"read archive: it ends after {self.offset} bytes, in the middle of an entry")
