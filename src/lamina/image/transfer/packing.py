"""A layer packed again for a push: into a file beside the store's, which nobody keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from lamina.errors import Corrupt
from lamina.image import pack
from lamina.store.durable import write_all
from lamina.store.layers import Layer
from lamina.store.root import Store, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.values import value

if TYPE_CHECKING:
    from lamina.image.apply import IdMap
__all__ = ["Made", "pack_file", "packed_layer"]

Fields = tuple[str, str, int, int]


@value
class Made:
    """A layer's archive: the digest of it, digest and size of its compressed form, and its own size."""

    diff_id: str
    digest: str
    size: int
    archive: int


@contextmanager
def packed_layer(
    store: Store, layer: Layer, packing: Callable[..., Any] | None, *, check: Callable[[], object]
) -> Iterator[tuple[Made, IO[bytes], bytes]]:
    """The layer as a gzipped archive: the very archive it came from, if that is known. Its file, of which the path is
    given as well, goes with the `with`.

    It is no blob: a push that was interrupted packs again, so nothing of it need survive anything, and nothing is
    synced. *packing*: see `Options`. *check* is called now and then, and may raise to stop. Raises NotFound, Corrupt
    (the layer was changed), Unsupported (an upper that no archive can say), KernelError.
    """
    what = f"pack layer {layer.id[:12]}"
    try:
        scratch = Scratch(store)
    except OSError as error:
        raise_storage_error(error, what, store.tmp)
        raise
    with scratch:
        path = scratch.path + b"/layer.tar.gz"
        try:
            if packing is None:
                made = Made(*_pack_file(layer, path, None, None, check))
            else:
                made = Made(*packing(pack_file, layer, path))
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise_storage_error(error, what, layer.path)
            raise
        with open(descriptor, "rb", buffering=0) as file:
            if (size := os.fstat(descriptor).st_size) != made.size:
                raise Corrupt(f"{what}: {size} bytes were written, not {made.size}")
            yield made, file, path


def pack_file(layer: Layer, path: bytes, userxattr: bool | None, ids: IdMap | None) -> Fields:
    """Write the gzipped archive of *layer* to the new file *path*; the fields of `Made`.

    A function of a module, of arguments that can be pickled: it may run in another process (`Options.packing`).
    """
    return _pack_file(layer, path, userxattr, ids, lambda: None)


def _pack_file(
    layer: Layer, path: bytes, userxattr: bool | None, ids: IdMap | None, check: Callable[[], object]
) -> Fields:
    with open(path, "xb", buffering=0) as file:
        packed = pack.pack_stored(layer, _Out(file, check), compression="gzip", userxattr=userxattr, ids=ids)
    return packed.diff_id, packed.digest, packed.size, packed.archive


class _Out:
    """Where the archive goes, and where a transfer that failed elsewhere stops."""

    def __init__(self, file: IO[bytes], check: Callable[[], object]) -> None:
        self._file, self._check = file, check

    def write(self, data: bytes, /) -> None:
        """Takes all of *data*."""
        self._check()
        write_all(self._file.fileno(), data)
