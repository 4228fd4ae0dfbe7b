"""A layer packed again for a push: into a blob of the store, which nothing but the lease keeps."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lamina.errors import Corrupt, NotFound
from lamina.image import pack
from lamina.linux.fd import Fd
from lamina.store import layers
from lamina.store.blobs import BlobWriter
from lamina.store.layers import Layer
from lamina.store.leases import Lease
from lamina.store.root import Store, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.values import value

if TYPE_CHECKING:
    from lamina.image.apply import IdMap
    from lamina.image.pack.sink import Out

__all__ = ["Made", "pack_file", "pack_layer"]


@value
class Made:
    """A layer's archive: the digest of it, and digest and size of its compressed form, which is a blob now."""

    diff_id: str
    digest: str
    size: int


def pack_layer(
    store: Store,
    identity: str,
    held: Lease,
    packing: Callable[..., Any] | None,
    *,
    check: Callable[[], object],
) -> Made:
    """The layer as a gzipped archive, in a blob that *held* keeps: the very archive it came from, if that is known.

    *packing*: see `Options`. *check* is called now and then, and may raise to stop. Raises NotFound, Corrupt (the layer
    was changed), Unsupported (an upper that no archive can say), KernelError.
    """
    layer = layers.find(store, identity)
    if layer is None:
        raise NotFound(f"pack layer {identity[:12]}: not in this store")
    try:
        if packing is not None:
            return _elsewhere(store, layer, held, packing, check)
        with BlobWriter(store, None, None, held) as writer:
            made = Made(*_pack(layer, _Out(writer, check), None, None))
            _same(writer.commit(), made, identity)
            return made
    except OSError as error:
        raise_storage_error(error, f"pack layer {identity[:12]}", layer.path)
        raise


def pack_file(layer: Layer, path: bytes, userxattr: bool | None, ids: IdMap | None) -> tuple[str, str, int]:
    """Write the gzipped archive of *layer* to the new file *path*; the fields of `Made`.

    A function of a module, of arguments that can be pickled: it may run in another process (`Options.packing`).
    """
    with open(path, "xb") as file:
        return _pack(layer, file, userxattr, ids)


def _pack(layer: Layer, out: Out, userxattr: bool | None, ids: IdMap | None) -> tuple[str, str, int]:
    if pack.has_recipe(layer):
        packed = pack.repack(layer, out, compression="gzip")
    else:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with Fd(os.open(layer.path, flags)) as directory:
            packed = pack.pack_layer(directory, out, compression="gzip", userxattr=userxattr, ids=ids)
    return packed.diff_id, packed.digest, packed.size


def _elsewhere(
    store: Store, layer: Layer, held: Lease, packing: Callable[..., Any], check: Callable[[], object]
) -> Made:
    """By way of a file: whoever can read the layer's files cannot write our blobs."""
    scratch = Scratch(store)
    try:
        path = scratch.path + b"/layer.tar.gz"
        made = Made(*packing(pack_file, layer, path))
        with (
            Fd(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) as file,
            BlobWriter(store, made.digest, made.size, held) as writer,
        ):
            if writer.offset:
                writer.restart()
            while chunk := os.read(file, 1 << 20):
                check()
                writer.write(chunk)
            _same(writer.commit(), made, layer.id)
        return made
    finally:
        scratch.remove()


def _same(digest: str, made: Made, identity: str) -> None:
    if digest != made.digest:
        raise Corrupt(f"pack layer {identity[:12]}: what was written is {digest}, not {made.digest}")


class _Out:
    """Where the archive goes, and where a transfer that failed elsewhere stops."""

    def __init__(self, writer: BlobWriter, check: Callable[[], object]) -> None:
        self._writer, self._check = writer, check

    def write(self, data: bytes, /) -> None:
        """Takes all of *data*."""
        self._check()
        self._writer.write(data)
