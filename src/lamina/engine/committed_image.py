"""The image that a commit makes: what it was asked to be, its config, in which layers without a digest have a name of
this store's own, and its record.

`put_image` waits for the disk by itself. A `Draft` is written down with what a container freezes (engine/freezing), and
waits with that: all of it is on the disk before anything is moved, and its names come after the container's.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from lamina.engine import chains
from lamina.engine.health.checks import TIMES
from lamina.engine.images import config_of
from lamina.engine.keeping import entrypoint_and_cmd, exposed_ports, said_of
from lamina.errors import Corrupt, Unsupported
from lamina.image.archive.instructions import changed
from lamina.image.archive.load import record_of
from lamina.image.documents import DEFAULT_LIMITS, PENDING, History, RootFS, encode_config, run_config
from lamina.image.pending import find, make_lasting
from lamina.image.reference import parse
from lamina.linux.signals import signal_name
from lamina.store import blobs, images, layers
from lamina.store.coming_image import ComingImage
from lamina.store.digest import digest_of
from lamina.store.durable import Batch
from lamina.store.layers import Layer
from lamina.values import replace, value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.engine.freezing import Frozen
    from lamina.image.documents import ImageConfig
    from lamina.store.images import ImageRecord
    from lamina.store.leases import Lease
    from lamina.store.root import Store

    Record = dict[str, Any]
    Run = dict[str, Any]


@value
class Wish:
    """What is asked of the new image: its canonical `name`, if it gets one; what its history says (`author`,
    `message`); `changes` as in a Dockerfile; and whether its digests are made `now`.
    """

    name: str | None = None
    author: str = ""
    message: str = ""
    changes: tuple[str, ...] = ()
    now: bool = False

    @property
    def known(self) -> str | None:
        """The name as people write it."""
        return None if self.name is None else parse(self.name).familiar


class Draft:
    """The image of a container that is being frozen, which is there when the container stands on the new layer.

        draft = Draft(store, parent, held, wish)
        try:
            freeze(turn, held, early=draft.prepare, noted=draft.keep)
        finally:
            draft.close()

    `record` is its record; None while it is not kept.
    """

    def __init__(self, store: Store, parent: ImageRecord, held: Lease, wish: Wish) -> None:
        self.record: ImageRecord | None = None
        self._store, self._parent, self._held, self._wish = store, parent, held, wish
        self._asked: Record = {}
        self._planned: tuple[str, ...] | None = None
        self._image: tuple[bytes, ImageRecord]
        self._based: ImageRecord | None = None
        self._writer: blobs.BlobWriter | None = None
        self._coming: ComingImage | None = None
        self._batch: Batch | None = None

    def prepare(self, asked: Record, made: dict[bytes, str], batch: Batch) -> None:
        """See `freezing.Early`: its config is on the disk when *batch* is, if the layers are those that are expected.
        Raises Unsupported (too many layers), Corrupt, KernelError.
        """
        self._asked, new = asked, made.get(b"/")
        chain = chains.chain_of(chains.shortened(asked)).get(b"/", ())
        self._planned = chain if new is None else (*chain, new)
        self._image = described(self._store, asked, self._parent, self._planned, new, self._wish, to_come=new)
        self._hold()
        data = self._image[0]
        digest = digest_of(data)
        if self._held.add_blob(digest):
            return
        self._writer = blobs.BlobWriter(self._store, digest, len(data), self._held)
        if self._writer.offset:
            self._writer.restart()
        self._writer.write(data)
        batch.content(self._writer.path, what="blob")
        batch.move(self._writer.take_name)

    def keep(self, frozen: Frozen, batch: Batch) -> None:
        """See `freezing.Noted`. Raises Corrupt, KernelError."""
        chain = frozen.chain.get(b"/", ())
        if chain != self._planned:  # less was frozen than there was, or its layers were squashed meanwhile
            new = frozen.made.get(b"/")
            self._image, self._based = (
                described(self._store, self._asked, self._parent, chain, new, self._wish),
                None,
            )
            blobs.write_blob(self._store, self._image[0], self._held, batch)
        based = self._hold()
        self._coming = ComingImage(self._store, based, self._wish.name, batch)
        self._batch = batch
        batch.last(self._add)

    def _hold(self) -> ImageRecord:
        """What its record is going to be, which refers to nothing that is not held. What is not there yet is looked for
        when that has its name.
        """
        if self._based is None:
            self._based = with_base(self._image[1], self._parent, self._held)
            self._held.add_all(self._based.layers, self._based.blobs)
        return self._based

    def _add(self) -> None:
        """The turn on the images is that of everybody: it is taken when nothing else is waited for, and kept until the
        names are on the disk, if something that others do with them could be there before.
        """
        assert self._batch is not None
        assert self._coming is not None
        turn = images.turn(self._store)
        self._batch.then(turn.release)
        self.record = self._coming.take_names(self._batch, self._held)
        if self._batch.in_order:
            turn.release()

    def close(self) -> None:
        """It is there, or will not be. A second call does nothing."""
        if self._batch is not None:
            self._batch.close()
        if self._coming is not None:
            self._coming.close()
        if self._writer is not None:
            self._writer.close()


def image_of(
    store: Store,
    asked: Record,
    parent: ImageRecord,
    chain: Sequence[str],
    new: str | None,
    held: Lease,
    wish: Wish,
    done: str | None = None,
) -> ImageRecord:
    """The image of the container whose record is *asked*; see `described`. Raises KernelError as well."""
    make_lasting(store, chain)
    data, record = described(store, asked, parent, chain, new, wish, done)
    return _put(store, data, record, parent, held, wish.name)


def described(
    store: Store,
    asked: Record,
    parent: ImageRecord,
    chain: Sequence[str],
    new: str | None,
    wish: Wish,
    done: str | None = None,
    *,
    to_come: str | None = None,
) -> tuple[bytes, ImageRecord]:
    """Config and record of the image of the container whose record is *asked*: the layers *chain* (base first) on top
    of those of *parent*. *new*, the last of them, is the one that this very commit made, *to_come* the one that is not
    there yet; *done* is what was executed (None: its command). Raises Unsupported, Corrupt.
    """
    before = config_of(store, parent)
    words, run = run_of(asked, parent.run)
    _check_depth((*parent.layers, *chain), str(asked.get("name")))
    below = found_in(store, parent, before)
    above = [_to_come(store, one) if one == to_come else find(store, one) for one in chain]
    names = [named(layer, promised) for layer, promised in zip(below, before.diff_ids, strict=True)]
    names += [named(layer, None) for layer in above]
    made = msgspec.structs.replace(
        before,
        rootfs=RootFS(type="layers", diff_ids=names),
        created=moment_of(time.time_ns()),
        author=wish.author or None,
        config=run_config(changed(run, wish.changes)),
        history=[
            *(before.history or ()),
            *_steps(above, new, " ".join(words) if done is None else done, wish),
        ],
    )
    return _encoded(made, [*below, *above])


def put_image(
    store: Store, parent: ImageRecord, made: ImageConfig, found: list[Layer], held: Lease, name: str | None
) -> ImageRecord:
    """The image of the layers *found* (base first) with the config *made*, in which they have names as of `named`; it
    came from *parent*. Its canonical *name*, if any, is its own from now on. Raises KernelError.
    """
    return _put(store, *_encoded(made, found), parent, held, name)


def _encoded(made: ImageConfig, found: list[Layer]) -> tuple[bytes, ImageRecord]:
    data = encode_config(made)
    without = [layer.id for layer, text in zip(found, made.diff_ids, strict=True) if text.startswith(PENDING)]
    record = record_of(data, made, found, blobs=(digest_of(data),))
    return data, replace(record, pending=tuple(dict.fromkeys(without)))


def _put(
    store: Store, data: bytes, record: ImageRecord, parent: ImageRecord, held: Lease, name: str | None
) -> ImageRecord:
    batch = Batch()
    blobs.write_blob(store, data, held, batch)
    names = () if name is None else (name,)
    return images.put(store, with_base(record, parent, held), names, lease=held, batch=batch)


def with_base(record: ImageRecord, parent: ImageRecord, held: Lease) -> ImageRecord:
    """*record*, which came from *parent*, with what that is known by to registries, if it is here."""
    base = parent.manifest or parent.base
    if base is None or not held.add_blob(base):
        return record
    return replace(record, blobs=tuple(dict.fromkeys((*record.blobs, base))), base=base)


def _to_come(store: Store, identity: str) -> Layer:
    """A layer that will be there, and has no digest then."""
    return Layer(identity, None, layers.tree_of(store, identity), 0, 0, time.time_ns(), "", {}, counted=False)


def _check_depth(wanted: Sequence[str], name: str) -> None:
    if (count := len(wanted)) > DEFAULT_LIMITS.layers:
        raise Unsupported(
            f"commit container {name}: an image of {count} layers, at most {DEFAULT_LIMITS.layers} are allowed",
            remedy=f"squash the container, or its image and rebase it on that: lamina squash {name}",
        )


def found_in(store: Store, parent: ImageRecord, config: ImageConfig) -> list[Layer]:
    """The layers of *parent*, base first, whose config is *config*. Raises Corrupt."""
    if len(config.diff_ids) != len(parent.layers):
        raise Corrupt(
            f"commit: the image {parent.id[:12]} has not the layers that its config promises",
            remedy="remove it and pull it again",
        )
    return [find(store, identity) for identity in parent.layers]


def named(layer: Layer, promised: str | None) -> str:
    """What stands for the layer in a config; *promised* is what stood for it in that of its image. Raises Corrupt."""
    if promised is not None and not promised.startswith(PENDING):
        if layer.diff_id not in (None, promised):
            raise Corrupt(
                f"commit: the layer {layer.id[:12]} is not the one that the config of its image promises",
                remedy="remove the image and pull it again",
            )
        return promised
    return layer.diff_id or PENDING + layer.id


def _steps(frozen: Sequence[Layer], new: str | None, words: str, wish: Wish) -> Iterator[History]:
    """What the history says of the layers *frozen*, of which *new* is the last; of a commit without one, last, that it
    changed no file.
    """
    last = History(
        created=moment_of(time.time_ns()),
        created_by=_unicode(words) or None,
        author=wish.author or None,
        comment=wish.message or None,
        empty_layer=True if new is None else None,
    )
    for layer in frozen:
        if layer.id == new:
            continue
        origin = layer.extra.get("origin") or {}
        command = origin.get("command") or ()
        yield History(
            created=moment_of(int(origin.get("created") or layer.created)),
            created_by=_unicode(" ".join(map(str, command))) or None,
            comment=_unicode(str(origin.get("message") or origin.get("snapshot_name") or "")) or None,
        )
    yield last


def _unicode(text: str) -> str:
    """What was typed when something was made, which nobody can say otherwise now, as a config takes it: it is UTF-8."""
    return os.fsencode(text).decode(errors="replace")


def moment_of(nanoseconds: int) -> str:
    """A time as configs have it."""
    moment = datetime.fromtimestamp(nanoseconds / 1e9, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


# -- what it is


def run_of(asked: Record, parent: Run) -> tuple[list[str], Run]:
    """The command of the container whose record is *asked*, without its entrypoint, and what an image of it says: what
    its own image, *parent*, says, under what was asked. Triggers for builds (ONBUILD) are for the next image alone.
    """
    options = said_of(asked)
    entrypoint, words = entrypoint_and_cmd(asked, parent.get("entrypoint") or ())
    variables = {entry.partition("=")[0]: entry for entry in parent.get("env") or ()}
    variables.update({name: f"{name}={text}" for name, text in options.get("env") or ()})
    volumes = {*(parent.get("volumes") or ()), *_without_a_name(asked)}
    run = {
        **parent,
        "env": list(variables.values()),
        "entrypoint": entrypoint or None,
        "cmd": words or None,
        "labels": dict(asked.get("labels") or {}),
        "volumes": sorted(volumes),
        "exposed_ports": exposed_ports(options, parent.get("exposed_ports") or ()),
        "workdir": options.get("workdir") or parent.get("workdir") or "",
        "user": options.get("user") or parent.get("user") or "",
        "onbuild": [],
    }
    if isinstance(asked.get("stop_signal"), int):
        run["stop_signal"] = signal_name(asked["stop_signal"])
    if check := asked.get("health"):
        run["healthcheck"] = {name: check[name] for name in ("test", *TIMES, "retries")}
    return words, run


def _without_a_name(asked: Record) -> list[str]:
    """The places of the volumes that are the container's own, as `-v /data` makes them."""
    return [
        volume["target"]
        for volume in asked.get("volumes") or ()
        if volume["kind"] == "volume" and str(volume.get("name", "")).startswith(asked["id"])
    ]
