"""Where an archive goes: hashed, compressed, hashed again, and written."""

from __future__ import annotations

from lamina.image.compression import writer
from lamina.store.digest import hasher
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from lamina.image.compression import Kind

    class Out(Protocol):
        """What an archive is written to."""

        def write(self, data: bytes, /) -> object:
            """Takes all of *data*, as a buffered file and a BlobWriter do."""


_AT_ONCE = 256 << 10


@value
class Packed:
    """What was written: digests and sizes of the archive (`diff_id`, `archive`) and of its compressed form (`digest`,
    `size`); how many sockets were left out, which no archive can hold.
    """

    diff_id: str
    archive: int
    digest: str
    size: int
    compression: Kind
    sockets: int = 0


class Sink:
    """Takes an archive in pieces of any size."""

    def __init__(self, out: Out, compression: Kind) -> None:
        """Raises InvalidInput for a compression that layers are not written in."""
        self._out = out
        self._kind: Kind = compression
        self._compressor = writer(compression)
        self._archive = hasher("sha256")
        self._compressed = self._archive if compression == "none" else hasher("sha256")
        self._waiting = bytearray()
        self.written = self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Take *data*. Raises what writing raises."""
        self.written += len(data)
        if len(data) >= _AT_ONCE:
            self._flush()
            self._pass(data)
            return
        self._waiting += data
        if len(self._waiting) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            data = bytes(self._waiting)
            self._waiting.clear()
            self._pass(data)

    def _pass(self, data: bytes | memoryview) -> None:
        if self._compressed is not self._archive:
            self._archive.update(data)
        self._emit(self._compressor.compress(data))

    def _emit(self, data: bytes) -> None:
        if data:
            self._compressed.update(data)
            self._size += len(data)
            self._out.write(data)

    @property
    def diff_id(self) -> str:
        """The digest of what was taken so far."""
        self._flush()
        return f"sha256:{self._archive.hexdigest()}"

    def finish(self, sockets: int = 0) -> Packed:
        """Write what is left."""
        diff_id = self.diff_id
        self._emit(self._compressor.flush())
        return Packed(
            diff_id, self.written, f"sha256:{self._compressed.hexdigest()}", self._size, self._kind, sockets
        )
