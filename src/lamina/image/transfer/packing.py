"""A layer packed again for a push: into a file beside the store's, which nobody keeps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from lamina.errors import Corrupt, NotFound
from lamina.image import pack
from lamina.linux.fd import Fd
from lamina.store import layers
from lamina.store.durable import write_all
from lamina.store.layers import Layer
from lamina.store.root import Store, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.values import value

if TYPE_CHECKING:
    from lamina.image.apply import IdMap
    from lamina.image.pack.sink import Out

__all__ = ["Made", "pack_file", "packed_layer"]


@value
class Made:
    """A layer's archive: the digest of it, and digest and size of its compressed form."""

    diff_id: str
    digest: str
    size: int


@contextmanager
def packed_layer(
    store: Store, identity: str, packing: Callable[..., Any] | None, *, check: Callable[[], object]
) -> Iterator[tuple[Made, IO[bytes]]]:
    """The layer as a gzipped archive: the very archive it came from, if that is known. Its file goes with the `with`.

    It is no blob: a push that was interrupted packs again, so nothing of it need survive anything, and nothing is
    synced. *packing*: see `Options`. *check* is called now and then, and may raise to stop. Raises NotFound, Corrupt
    (the layer was changed), Unsupported (an upper that no archive can say), KernelError.
    """
    layer = layers.find(store, identity)
    if layer is None:
        raise NotFound(f"pack layer {identity[:12]}: not in this store")
    try:
        scratch = Scratch(store)
    except OSError as error:
        raise_storage_error(error, f"pack layer {identity[:12]}", store.tmp)
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
            raise_storage_error(error, f"pack layer {identity[:12]}", layer.path)
            raise
        with open(descriptor, "rb", buffering=0) as file:
            if (size := os.fstat(descriptor).st_size) != made.size:
                raise Corrupt(f"pack layer {identity[:12]}: {size} bytes were written, not {made.size}")
            yield made, file


def pack_file(layer: Layer, path: bytes, userxattr: bool | None, ids: IdMap | None) -> tuple[str, str, int]:
    """Write the gzipped archive of *layer* to the new file *path*; the fields of `Made`.

    A function of a module, of arguments that can be pickled: it may run in another process (`Options.packing`).
    """
    return _pack_file(layer, path, userxattr, ids, lambda: None)


def _pack_file(
    layer: Layer, path: bytes, userxattr: bool | None, ids: IdMap | None, check: Callable[[], object]
) -> tuple[str, str, int]:
    with open(path, "xb", buffering=0) as file:
        return _pack(layer, _Out(file, check), userxattr, ids)


def _pack(layer: Layer, out: Out, userxattr: bool | None, ids: IdMap | None) -> tuple[str, str, int]:
    if pack.has_recipe(layer):
        packed = pack.repack(layer, out, compression="gzip")
    else:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with Fd(os.open(layer.path, flags)) as directory:
            packed = pack.pack_layer(directory, out, compression="gzip", userxattr=userxattr, ids=ids)
    return packed.diff_id, packed.digest, packed.size


class _Out:
    """Where the archive goes, and where a transfer that failed elsewhere stops."""

    def __init__(self, file: IO[bytes], check: Callable[[], object]) -> None:
        self._file, self._check = file, check

    def write(self, data: bytes, /) -> None:
        """Takes all of *data*."""
        self._check()
        write_all(self._file.fileno(), data)
