"""A layer packed again for a push: into a blob of the store, which nothing but the lease keeps."""

from __future__ import annotations

import os
from collections.abc import Callable

from lamina.errors import Corrupt, NotFound
from lamina.image import pack
from lamina.image.pack import Packed
from lamina.linux.fd import Fd
from lamina.store import layers
from lamina.store.blobs import BlobWriter
from lamina.store.leases import Lease
from lamina.store.root import Store, raise_storage_error

__all__ = ["pack_layer"]


def pack_layer(store: Store, identity: str, held: Lease, *, check: Callable[[], object]) -> Packed:
    """The layer as a gzipped archive, in a blob that *held* keeps: the very archive it came from, if that is known.

    *check* is called now and then, and may raise to stop. Raises NotFound, Corrupt (the layer was changed),
    Unsupported (an upper that no archive can say), KernelError.
    """
    layer = layers.find(store, identity)
    if layer is None:
        raise NotFound(f"pack layer {identity[:12]}: not in this store")
    with BlobWriter(store, None, None, held) as writer:
        out = _Out(writer, check)
        try:
            if pack.has_recipe(layer):
                packed = pack.repack(layer, out, compression="gzip")
            else:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                with Fd(os.open(layer.path, flags)) as directory:
                    packed = pack.pack_layer(directory, out, compression="gzip")
        except OSError as error:
            raise_storage_error(error, f"pack layer {identity[:12]}", layer.path)
            raise
        if (digest := writer.commit()) != packed.digest:
            raise Corrupt(f"pack layer {identity[:12]}: what was written is {digest}, not {packed.digest}")
    return packed


class _Out:
    """Where the archive goes, and where a transfer that failed elsewhere stops."""

    def __init__(self, writer: BlobWriter, check: Callable[[], object]) -> None:
        self._writer, self._check = writer, check

    def write(self, data: bytes, /) -> None:
        """Takes all of *data*."""
        self._check()
        self._writer.write(data)
