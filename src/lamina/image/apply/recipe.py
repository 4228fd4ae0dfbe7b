"""What is kept beside a layer so that its archive can be made again, byte for byte.

    layers/<id>/
    ├── fs/             the files
    ├── recipe.zst      the archive without the content of those: headers, padding, what is after the end
    └── lost/           files that a later entry of the same archive replaced, and `index`: which they were

recipe.zst, decompressed, is a list of items: b"R", length (4 bytes, little endian), that many bytes as they are; or
b"F", a path and its length (2 bytes), the number of pieces (4 bytes) and for each offset and length (8 bytes each) in
that file. The items of kind F are counted. `index` has, each ended by a NUL, "COUNT NUMBER PATH": when COUNT of them
had been read, what was at PATH became lost/NUMBER.
"""

from __future__ import annotations

import os
import struct

from lamina.image.compression import writer
from lamina.overlay.apply import remove

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPE, LOST, INDEX = b"recipe.zst", b"lost", b"lost/index"
RAW, FILE = b"R", b"F"
RAW_HEAD, FILE_HEAD, PIECES, PIECE = (
    struct.Struct("<cI"),
    struct.Struct("<cH"),
    struct.Struct("<I"),
    struct.Struct("<QQ"),
)
LEVEL = 1
MOST_LOST = 64 << 20  # bytes of files that were replaced: beyond, a layer has no recipe
MOST_LOSSES = 10_000
MOST_BYTES = 256 << 20  # of the recipe itself
_BUFFER = 256 << 10


class Recipe:
    """Writes the recipe of one layer into its directory *home*."""

    def __init__(self, home: int) -> None:
        """*home* is the descriptor of the layer's directory, which stays the caller's. Raises OSError."""
        self._home = home
        self._fd = os.open(RECIPE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=home)
        self._compressor = writer("zstd", LEVEL)
        self._raw = bytearray()
        self._items = bytearray()
        self._written = self._bytes_lost = 0
        self._losses: list[bytes] = []
        self.files = 0
        self.given_up = False

    def raw(self, data: memoryview) -> None:
        """Bytes of the archive that are kept as they are."""
        self._raw += data
        if len(self._raw) > _BUFFER:
            self._end_raw()

    def file(self, path: bytes, pieces: Sequence[tuple[int, int]]) -> int:
        """Content that is in the file *path* of the layer; how many of these there were before it."""
        self._end_raw()
        items = self._items
        items += FILE_HEAD.pack(FILE, len(path)) + path + PIECES.pack(len(pieces))
        for piece in pieces:
            items += PIECE.pack(*piece)
        self.files += 1
        return self.files - 1

    def lose(self, parent: int, base: bytes, path: bytes, count: int, size: int) -> bool:
        """Take *path* (*base* in the directory *parent*) away from the layer; False if there is no room to keep it."""
        if self.given_up:
            return False
        self._bytes_lost += size
        if self._bytes_lost > MOST_LOST or len(self._losses) >= MOST_LOSSES:
            self.give_up()
            return False
        if not self._losses:
            os.mkdir(LOST, 0o700, dir_fd=self._home)
        number = len(self._losses)
        os.rename(base, LOST + b"/%d" % number, src_dir_fd=parent, dst_dir_fd=self._home)
        self._losses.append(b"%d %d %b\0" % (count, number, path))
        return True

    def finish(self) -> None:
        """Write what is left. Raises OSError."""
        if self.given_up:
            return
        self._end_raw()
        self._write(self._compressor.compress(bytes(self._items)) + self._compressor.flush())
        if self._losses and not self.given_up:
            fd = os.open(INDEX, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._home)
            with open(fd, "wb") as file:
                file.write(b"".join(self._losses))

    def give_up(self) -> None:
        """The layer has no recipe: it would take too much room."""
        self.given_up = True
        os.unlink(RECIPE, dir_fd=self._home)
        if self._losses:
            remove(self._home, LOST)
        self._raw.clear()
        self._items.clear()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _end_raw(self) -> None:
        if self._raw:
            self._items += RAW_HEAD.pack(RAW, len(self._raw))
            self._items += self._raw
            self._raw.clear()
        if len(self._items) > _BUFFER:
            if not self.given_up:
                self._write(self._compressor.compress(bytes(self._items)))
            self._items.clear()

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        if self._written > MOST_BYTES:
            self.give_up()
            return
        while data:
            data = data[os.write(self._fd, data) :]
