"""The archive that a layer came from, made again byte for byte from its files and the recipe beside them.

See lamina/image/apply/recipe.py for what is kept.
"""

from __future__ import annotations

import os
from errno import ELOOP, ENOENT, ENOTDIR

from lamina.errors import Corrupt, InvalidInput, NotFound
from lamina.image.apply.recipe import FILE, FILE_HEAD, INDEX, LOST, PIECE, PIECES, RAW, RAW_HEAD, RECIPE
from lamina.image.compression import reader
from lamina.image.pack.sink import Packed, Sink
from lamina.image.tar.limits import Limits
from lamina.linux.fd import Fd
from lamina.overlay.lookup import open_beneath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lamina.image.compression import Kind
    from lamina.image.pack.sink import Out
    from lamina.store.layers import Layer

_AT_ONCE = 1 << 20


def has_recipe(layer: Layer) -> bool:
    """Whether `repack` can make the layer's archive again."""
    return os.path.lexists(os.path.join(os.path.dirname(layer.path), RECIPE))


def repack(layer: Layer, out: Out, *, compression: Kind = "none") -> Packed:
    """Write the archive that *layer* was unpacked from to *out*; it has the layer's diff_id.

    What is compressed need not be what was pulled. Raises NotFound for a layer without recipe; Corrupt where what was
    written is not what it should be, because files or the recipe were changed; OSError.
    """
    home = os.path.dirname(layer.path)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    sink = Sink(out, compression)
    with Fd(os.open(home, flags)) as place, Fd(os.open(layer.path, flags)) as root:
        try:
            recipe = Fd(os.open(RECIPE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place))
        except FileNotFoundError:
            raise NotFound(f"repack layer {layer.id[:12]}: how its archive was made is not known") from None
        with recipe:
            files = _Files(place, root)
            try:
                stream = reader(lambda size: os.read(recipe, size), Limits(ratio=1 << 20), ("zstd",))
                for item in _Items(stream.next_chunk):
                    if isinstance(item, memoryview):
                        sink.write(item)
                    else:
                        files.copy(*item, sink)
            except InvalidInput as error:
                raise _changed(layer, "the recipe is no recipe") from error
            except OSError as error:
                if error.errno not in (ENOENT, ENOTDIR, ELOOP):
                    raise
                raise _changed(layer, f"{error.filename} is not there") from error
    if layer.diff_id is not None and sink.diff_id != layer.diff_id:
        raise _changed(layer, f"the archive would have the diff_id {sink.diff_id}")
    return sink.finish()


def _changed(layer: Layer, why: str) -> Corrupt:
    return Corrupt(
        f"repack layer {layer.id[:12]}: its files were changed: {why}",
        remedy="remove the image and pull it again",
    )


class _Items:
    """The items of a recipe: raw bytes, or (path, pieces)."""

    def __init__(self, next_chunk: Callable[[], bytes]) -> None:
        self._next, self._data, self._at = next_chunk, b"", 0

    def _take(self, length: int) -> memoryview:
        while len(self._data) - self._at < length:
            more = self._next()
            if not more:
                raise Corrupt("repack layer: its recipe is cut off")
            self._data = self._data[self._at :] + more
            self._at = 0
        found = memoryview(self._data)[self._at : self._at + length]
        self._at += length
        return found

    def _ended(self) -> bool:
        if self._at == len(self._data):
            self._data, self._at = self._next(), 0
        return not self._data

    def __iter__(self) -> Iterator[memoryview | tuple[bytes, list[tuple[int, int]]]]:
        while not self._ended():
            kind = bytes(memoryview(self._data)[self._at : self._at + 1])
            if kind == RAW:
                _, length = RAW_HEAD.unpack(self._take(RAW_HEAD.size))
                yield self._take(length)
            elif kind == FILE:
                _, length = FILE_HEAD.unpack(self._take(FILE_HEAD.size))
                path = bytes(self._take(length))
                (count,) = PIECES.unpack(self._take(PIECES.size))
                yield path, [PIECE.unpack(self._take(PIECE.size)) for _ in range(count)]
            else:
                raise Corrupt("repack layer: its recipe is damaged")


class _Files:
    """The files that a recipe refers to, wherever they are now."""

    def __init__(self, home: int, root: int) -> None:
        self._home, self._root = home, root
        self._count = 0
        self._lost: dict[bytes, list[tuple[int, bytes]]] = {}
        try:
            with open(os.open(INDEX, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home), "rb") as file:
                for line in file.read().split(b"\0")[:-1]:
                    count, number, path = line.split(b" ", 2)
                    self._lost.setdefault(path, []).append((int(count), LOST + b"/" + number))
        except FileNotFoundError:
            pass

    def copy(self, path: bytes, pieces: list[tuple[int, int]], sink: Sink) -> None:
        """Write the content of the next file. Raises OSError."""
        with self._open(path) as fd:
            for offset, length in pieces:
                end = offset + length
                while offset < end:
                    data = os.pread(fd, min(_AT_ONCE, end - offset), offset)
                    if not data:
                        raise Corrupt(f"repack layer: {os.fsdecode(path)} is shorter than it was")
                    sink.write(data)
                    offset += len(data)
        self._count += 1

    def _open(self, path: bytes) -> Fd:
        found = self._replaced(path)
        if found is None:
            return open_beneath(self._root, path, os.O_RDONLY | os.O_NONBLOCK)
        return open_beneath(self._home, found, os.O_RDONLY | os.O_NONBLOCK)

    def _replaced(self, path: bytes) -> bytes | None:
        """Where the file is that had this name when it was unpacked, if a later entry took it, or what it was in."""
        if not self._lost:
            return None
        best: tuple[int, bytes] | None = None
        above = path
        while above:
            for count, place in self._lost.get(above, ()):
                if count > self._count and (best is None or count < best[0]):
                    best = count, place + path[len(above) :]
            above = above.rpartition(b"/")[0]
        return None if best is None else best[1]
