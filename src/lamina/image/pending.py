"""Digests for layers that were made without: an image of this store becomes one that others can have as well.

A container that is committed becomes a layer by one rename, and nobody knows the digest of that. When it is needed, for
a push or an archive, the layer is packed, once: the compressed archive is kept as a blob, its digest in layer.json, and
the image gets the config that promises these, and with that its id (store/successors.py).

    diff_id        of layer.json: there from then on; the layer keeps its place, which containers know it by
    extra.packed   {"digest", "size", "archive"}: the blob, its bytes, and those of the archive in it
    extra.left_out  what a start made there to mount something on it, which no archive has
"""

from __future__ import annotations

import os

import msgspec

from lamina.errors import Corrupt, NotFound
from lamina.image.archive.load import record_of
from lamina.image.documents import DEFAULT_LIMITS, PENDING, RootFS, decode_config, encode_config
from lamina.image.pack.stored import LEFT_OUT, MADE, left_out
from lamina.image.transfer.events import Events, Telling
from lamina.image.transfer.packing import packed_layer
from lamina.linux.fd import Fd
from lamina.overlay.spec import top_first
from lamina.store import blobs, images, layers, sizes
from lamina.store.claims import claim
from lamina.store.durable import sync_file_system
from lamina.store.images import ImageRecord
from lamina.store.root import raise_storage_error
from lamina.store.successors import succeed
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store

    Packing = Callable[..., Any]

PACKED, VOLATILE = "packed", "volatile"


def with_digests(
    store: Store,
    record: ImageRecord,
    held: Lease,
    *,
    packing: Packing | None = None,
    events: Events | None = None,
) -> ImageRecord:
    """*record*, or what became of it: the image with a digest for each of its layers, under the id that it has then.

    *held* keeps it meanwhile, and what is made. *packing* as of `transfer.options.Options`; *events* hear of "packing"
    and "packed". Raises NotFound (it was removed), Corrupt, Unsupported (an upper that no archive can say),
    KernelError.
    """
    if not record.pending:
        return record
    try:
        images.lease_all(record, held)
    except NotFound:  # somebody made them meanwhile, and what this one had was collected
        now = images.get(store, record.id)
        if now is None or now.pending:
            raise
        return now
    work = _Digests(store, record, held, packing, Telling(events, f"make digests of image {record.id[:12]}"))
    return work.run()


def packed_blob(store: Store, layer: Layer) -> tuple[str, int] | None:
    """Digest and size of the layer's compressed archive, if that was kept when its digest was made."""
    found = layer.extra.get(PACKED)
    if not isinstance(found, dict) or layer.diff_id is None:
        return None
    digest, size = str(found.get("digest")), found.get("size")
    if not isinstance(size, int) or blobs.size_of(store, digest) != size:
        return None
    return digest, size


def make_lasting(store: Store, wanted: Iterable[str]) -> None:
    """Have those of the layers *wanted* on the disk that a container wrote who waits for none (`--durability none`).

    Raises NotFound, Corrupt, KernelError.
    """
    found = [find(store, identity) for identity in wanted if identity.startswith("x")]
    waiting = [layer for layer in found if layer.extra.get(VOLATILE)]
    try:
        for number, layer in enumerate(waiting):
            if not number:  # one call for all of them
                with Fd(os.open(layer.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as opened:
                    sync_file_system(opened, what="layer")
            sizes.amend(store, layer.id, lambda facts: _with(facts, {VOLATILE: False}))
    except OSError as error:
        raise_storage_error(error, "sync layer", store.layers)


def find(store: Store, identity: str) -> Layer:
    """The layer *identity*. Raises Corrupt where it is not there, which is damage to an image that refers to it."""
    found = layers.find(store, identity)
    if found is None:
        raise Corrupt(
            f"layer {identity[:12]}: it is not in this store", remedy="lamina system check --repair"
        )
    return found


def _with(facts: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**facts, "extra": {**(facts.get("extra") or {}), **more}}


def tree_size(layer: Layer, path: bytes, *_: object) -> tuple[int, int]:
    """`sizes.tree_size` of a layer, as `packing` calls what it is given."""
    return sizes.tree_size(path)


class _Digests:
    def __init__(
        self, store: Store, record: ImageRecord, held: Lease, packing: Packing | None, tell: Telling
    ) -> None:
        self.store, self.record, self.held = store, record, held
        self.packing, self.tell = packing, tell

    def run(self) -> ImageRecord:
        """The whole of it."""
        record = self.record
        data = blobs.read_blob(self.store, record.config, DEFAULT_LIMITS.document)
        config = decode_config(data, len(record.layers), f"config of image {record.id[:12]}", pending=True)
        make_lasting(self.store, record.layers)
        found = [self._layer(number, text) for number, text in enumerate(config.diff_ids)]
        diff_ids = [
            str(layer.diff_id) if text.startswith(PENDING) else text
            for layer, text in zip(found, config.diff_ids, strict=True)
        ]
        config = msgspec.structs.replace(config, rootfs=RootFS("layers", diff_ids))
        data = encode_config(config)
        # what the id before is the digest of stays as well: somebody who found the image by that may be reading it
        kept = [blobs.write_blob(self.store, data, self.held), *record.blobs]
        for layer in found:
            packed = packed_blob(self.store, layer)
            if packed is not None and self.held.add_blob(packed[0]):
                kept.append(packed[0])
        made = replace(
            record_of(data, config, found, blobs=tuple(kept)), base=record.base, pinned=record.pinned
        )
        return succeed(self.store, record.id, made, lease=self.held)

    def _layer(self, number: int, text: str) -> Layer:
        """The layer at *number* of the image, counted and with its digest."""
        identity = self.record.layers[number]
        layer = find(self.store, identity)
        if text.startswith(PENDING):
            if text != PENDING + identity:
                raise Corrupt(
                    f"make digests of image {self.record.id[:12]}: its config is that of other layers",
                    remedy="lamina system check --repair",
                )
            if layer.diff_id is None:
                with claim(self.store, identity):  # of several who need it one makes it
                    layer = find(self.store, identity)
                    if layer.diff_id is None:
                        layer = self._digest(number, layer)
        if not layer.counted:
            one = layer
            size, inodes = sizes.count(self.store, one, lambda path: self.run_there(tree_size, one, path))
            layer = replace(layer, size=size, inodes=inodes, counted=True)
        return layer

    def run_there(self, work: Callable[..., Any], layer: Layer, what: Any) -> Any:
        """`work(layer, what, userxattr, ids)`, where the files of layers can be read."""
        return (self.packing or (lambda work, *args: work(*args, None, None)))(work, layer, what)

    def _digest(self, number: int, layer: Layer) -> Layer:
        below = top_first([layers.tree_of(self.store, one) for one in self.record.layers[:number]])
        self.tell("packing", id=layer.id)
        left: list[str] = []
        if layer.extra.get(MADE):
            left = self.run_there(left_out, layer, below or (self.store.empty,))
        extra = {**layer.extra, LEFT_OUT: left}
        layer = replace(layer, extra=extra)
        with packed_layer(self.store, layer, self.packing, check=self.tell.check) as (made, _, path):
            blob = blobs.adopt(self.store, path, made.digest, self.held)
        packed = {"digest": blob, "size": made.size, "archive": made.archive}
        more = {LEFT_OUT: left, PACKED: packed}
        try:
            sizes.amend(self.store, layer.id, lambda facts: {**_with(facts, more), "diff_id": made.diff_id})
        except OSError as error:
            raise_storage_error(error, "keep the digest of layer", layer.path)
        self.tell("packed", id=layer.id)
        return replace(layer, diff_id=made.diff_id, extra={**extra, **more})
