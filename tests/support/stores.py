"""Things to keep in a store: layers, blobs and images made of a few bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lamina.store import blobs, images, layers
from lamina.store.digest import digest_of
from lamina.store.images import ImageRecord
from lamina.store.layers import Layer
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from support.namespaces import in_mount_namespace


def diff_id(text: str) -> str:
    """The diff_id that the layer made of *text* has."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def make_layer(
    store: Store, text: str, held: Lease, *, frozen: bool = False, size: int | None = None
) -> Layer:
    """A layer with one file; its diff_id is made up from *text*."""
    known = None if frozen else diff_id(text)
    with layers.stage(store, None if known is None else layers.layer_id(known), held) as stage:
        with open(stage.path + b"/file", "w") as file:
            file.write(text)
        return stage.commit(known, len(text) if size is None else size, 1)


def make_image(
    store: Store,
    *texts: str,
    names: tuple[str, ...] = (),
    config: str = "",
    size: int | None = None,
    held: Lease | None = None,
) -> ImageRecord:
    """An image of layers made of *texts* (base first), with a config blob and one blob for each layer."""
    if held is None:
        with lease(store) as own:
            return make_image(store, *texts, names=names, config=config, size=size, held=own)
    found = [make_layer(store, text, held, size=size) for text in texts]
    kept = blobs.write_blob(store, f"config {config} of {texts}".encode(), held)
    compressed = [blobs.write_blob(store, f"compressed {text}".encode(), held) for text in texts]
    return images.put(store, record_of(kept, found, (kept, *compressed)), names=names, lease=held)


def record_of(config: str, found: list[Layer], kept: tuple[str, ...], **facts: Any) -> ImageRecord:
    """A record with that config and these layers."""
    return ImageRecord(
        id=config.partition(":")[2],
        config=config,
        layers=tuple(layer.id for layer in found),
        blobs=kept,
        run={"env": ["PATH=/bin"], "cmd": ["/bin/sh"]},
        size=sum(layer.size for layer in found),
        os="linux",
        **facts,
    )


def entries(path: bytes) -> list[str]:
    """What is in a directory, sorted."""
    return sorted(os.fsdecode(name) for name in os.listdir(path))


def in_memory(test: Callable[..., None], place: Path, *args: object) -> None:
    """Run *test* where a sync costs nothing, if we may mount that: what follows syncs thousands of times."""

    def mounted() -> None:
        from lamina.linux.mount import mount

        mount("tmpfs", place, "tmpfs")
        test(place, *args)

    if os.geteuid() == 0:
        in_mount_namespace(mounted, timeout=600)
    else:
        test(place, *args)


__all__ = ["diff_id", "digest_of", "entries", "in_memory", "make_image", "make_layer", "record_of"]
