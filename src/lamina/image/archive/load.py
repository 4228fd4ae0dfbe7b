"""The images of an archive, unpacked into the store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from lamina.errors import LaminaError
from lamina.image.archive.reading import Found, LayerSource, images
from lamina.image.documents import ImageConfig, config_run
from lamina.image.documents.moment import nanoseconds
from lamina.image.layer import unpack_blob
from lamina.image.reference import parse
from lamina.image.tar.limits import given
from lamina.store import images as records
from lamina.store.blobs import BlobWriter, write_blob
from lamina.store.digest import digest_of, hex_of
from lamina.store.images import ImageRecord
from lamina.store.layers import find, layer_id
from lamina.store.leases import Lease, lease
from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lamina.image.archive.members import Members, Piece
    from lamina.image.platform import Platform
    from lamina.store.layers import Layer
    from lamina.store.root import Store

    Events = Callable[..., object]

AT_ONCE = 4


@value
class Unpacking:
    """How layers are unpacked: `words` go to `unpack_blob`. With `staged` a layer is kept as a blob before, because it
    is unpacked by another process (`within`).
    """

    words: tuple[tuple[str, Any], ...] = ()
    staged: bool = False


def load(
    store: Store,
    members: Members,
    platform: Platform | None = None,
    events: Events | None = None,
    unpacking: Unpacking = Unpacking(),  # noqa: B008  a frozen value
) -> list[ImageRecord]:
    """Unpack every image of the archive, give it the names it has there, and return the records in its order.

    All or nothing of each image; layers that are here already are not unpacked again. Raises InvalidInput, Corrupt,
    NotFound (the archive lacks something), KernelError.
    """
    found = images(members, platform)
    with lease(store) as held:
        loader = _Loader(store, members, held, events, unpacking)
        loader.unpack([layer for image in found for layer in image.layers])
        return [loader.keep(image) for image in found]


class _Loader:
    def __init__(
        self, store: Store, members: Members, held: Lease, events: Events | None, unpacking: Unpacking
    ) -> None:
        self.store, self.members, self.lease, self.unpacking = store, members, held, unpacking
        self._events, self._turn = events, threading.Lock()
        self._stop = threading.Event()
        self.layers: dict[str, Layer] = {}

    def tell(self, kind: str, **facts: Any) -> None:
        if self._events is not None:
            with self._turn:
                self._events(kind, **facts)

    def unpack(self, sources: Iterable[LayerSource]) -> None:
        """Each layer once, several at a time; the first failure stops the others."""
        wanted = {source.diff_id: source for source in sources}
        with ThreadPoolExecutor(AT_ONCE, "lamina-load") as pool:
            jobs = [pool.submit(self._one, source) for source in wanted.values()]
            try:
                for job in as_completed(jobs):
                    layer = job.result()
                    assert layer.diff_id is not None
                    self.layers[layer.diff_id] = layer
            except BaseException:
                self._stop.set()
                for job in jobs:
                    job.cancel()
                raise

    def _one(self, source: LayerSource) -> Layer:
        identity = layer_id(source.diff_id)
        if self.lease.add_layer(identity) and (there := find(self.store, identity)) is not None:
            self.tell("exists", id=source.diff_id)
            return there
        piece = self.members.open(source.member)
        self.tell("layer", id=source.diff_id, total=piece.size)

        def progress(count: int) -> None:
            if self._stop.is_set():
                raise LaminaError("load: stopped, because something else of it failed")
            self.tell("progress", id=source.diff_id, bytes=count)

        layer = unpack(
            self.store,
            piece,
            source.diff_id,
            self.lease,
            self.unpacking,
            digest=source.digest,
            progress=progress,
        )
        self.tell("done", id=source.diff_id)
        return layer

    def keep(self, image: Found) -> ImageRecord:
        """Keep the image's documents and its record."""
        kept = [write_blob(self.store, image.config, self.lease)]
        documents = [data for data in (image.manifest, *image.indexes) if data is not None]
        kept += [write_blob(self.store, data, self.lease) for data in documents]
        record = record_of(
            image.config,
            image.parsed,
            [self.layers[diff_id] for diff_id in image.parsed.diff_ids],
            blobs=tuple(kept),
            manifest=None if image.manifest is None else digest_of(image.manifest),
            indexes=tuple(map(digest_of, image.indexes)),
        )
        there = records.put(self.store, record, names=image.names, lease=self.lease)
        for name in image.names:
            self.tell("loaded", reference=parse(name).familiar, image=there.id)
        return there


def unpack(
    store: Store,
    piece: Piece | Any,
    diff_id: str | None,
    held: Lease,
    unpacking: Unpacking,
    *,
    digest: str | None = None,
    progress: Callable[[int], object] | None = None,
    **more: Any,
) -> Layer:
    """`unpack_blob`, from a blob of the store where that has to be. Raises as that."""
    words = {**dict(unpacking.words), **more}
    if not unpacking.staged:
        return unpack_blob(store, piece, diff_id, held, digest=digest, progress=progress, **words)
    limits = words.get("limits") or given()
    with BlobWriter(store, digest, None, held) as writer:
        if writer.offset:
            writer.restart()
        while data := piece.read(1 << 20):
            if writer.offset + len(data) > limits.size:
                limits.exceeded("size", f"a layer has {writer.offset + len(data)} bytes or more, compressed")
            writer.write(data)
            if progress is not None:
                progress(len(data))
        blob = writer.commit()
    # its bytes were told of: this is only to be stopped
    again = None if progress is None else lambda count: progress(0)
    return unpack_blob(store, blob, diff_id, held, progress=again, **words)


def record_of(
    data: bytes,
    config: ImageConfig,
    layers: list[Layer],
    *,
    blobs: tuple[str, ...],
    manifest: str | None = None,
    indexes: tuple[str, ...] = (),
) -> ImageRecord:
    """The record of the image whose config is *data*."""
    digest = digest_of(data)
    return ImageRecord(
        id=hex_of(digest),
        config=digest,
        layers=tuple(layer.id for layer in layers),
        blobs=tuple(dict.fromkeys(blobs)),
        run=config_run(config),
        manifest=manifest,
        indexes=indexes,
        size=sum(layer.size for layer in layers),
        created=nanoseconds(config.created),
        architecture=config.architecture,
        os=config.os,
        variant=config.variant or "",
    )
