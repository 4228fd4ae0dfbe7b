"""An image with fewer layers: those above another one, or all of them, made one; the files are the same."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from lamina.engine.archives import tag_of
from lamina.engine.committed_image import found_in, moment_of, named, put_image
from lamina.engine.images import Image, config_of, of_record
from lamina.engine.shallow import MOST, fewer
from lamina.engine.storage import within_limit
from lamina.engine.within import inside, maps_of
from lamina.errors import Conflict, InvalidInput
from lamina.image.documents import History, RootFS
from lamina.image.pending import make_lasting
from lamina.linux.procfs import has_trusted_attributes
from lamina.store import images, squashing
from lamina.store.events import event, note
from lamina.store.leases import lease

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.store.root import Store


def squash_image(store: Store, identity: str, name: str | None = None, since: str | None = None) -> Image:
    """See `Image.squash`; *identity* and *since* are ids of images."""
    canonical = None if name is None else tag_of(name)
    with images.hold(store, identity) as one, lease(store) as held:
        record = one.record
        kept = 0 if since is None else _common(store, record.layers, since, identity)
        run = record.layers[kept:]
        if len(set(run)) < 2:
            raise InvalidInput(
                f"squash image {identity[:12]}: there are not two layers that could become one",
                remedy="'lamina tag' gives it another name",
            )
        for layer in record.layers:
            held.add_layer(layer)
        config = config_of(store, record)
        found = found_in(store, record, config)
        make_lasting(store, run)
        maps = maps_of(None)
        made = squashing.squash(
            store,
            run if len(run) <= MOST else fewer(store, run, held, bottom=not kept),
            held,
            userxattr=not has_trusted_attributes(),
            bottom=not kept,
            work=None if maps is None else partial(inside, maps),
        )
        below = [
            named(layer, promised) for layer, promised in zip(found[:kept], config.diff_ids, strict=False)
        ]
        step = History(
            created=moment_of(time.time_ns()),
            created_by="lamina squash",
            comment=f"{len(run)} layers squashed",
        )
        changed = msgspec.structs.replace(
            config,
            rootfs=RootFS(type="layers", diff_ids=[*below, named(made, None)]),
            created=step.created,
            history=[*_emptied(config.history or (), kept), step],
        )
        new = put_image(store, record, changed, [*found[:kept], made], held, canonical)
    if canonical is not None:
        note(store, event("image", "tag", f"sha256:{new.id}", name=canonical))
    within_limit(store, [new.id])
    return of_record(store, new)


def _common(store: Store, layers: Sequence[str], since: str, identity: str) -> int:
    """How many of the lowest *layers* are those of the image *since*. Raises Conflict where it does not begin so."""
    with images.hold(store, since) as base:
        count = len(base.record.layers)
        if tuple(layers[:count]) != tuple(base.record.layers):
            raise Conflict(
                f"squash image {identity[:12]}: it is not made of the image {since[:12]}",
                remedy="'lamina history' shows its steps; without --from all of its layers become one",
            )
        return count


def _emptied(history: Sequence[History], kept: int) -> Iterator[History]:
    """The steps of an image of which only the lowest *kept* have layers of their own any more."""
    for step in history:
        if step.empty_layer:
            yield step
        elif kept:
            kept -= 1
            yield step
        else:
            yield msgspec.structs.replace(step, empty_layer=True)
