"""Who refers to what: the one place that knows all of it. Everything else in layers/ and blobs/ is garbage.

    lease      → layers, blobs, images      somebody is about to use them
    image      → layers, blobs              its record, or one that a start still reads (images/removed/)
    snapshot   → layers                     containers/<id>/snapshots/: `places`, `base_layers`
    container  → layers, image, volumes     container.json: `layers`, what is being frozen, `image_id`, `volumes`

They are read in this order, because references only ever move down it: what a lease keeps becomes a record's, and what
a record keeps becomes a container's, each before the former lets go. So nothing can pass unseen. Whoever makes one of
the lower ones refer to what a higher one of another has (a fork), or a higher one out of a lower one (a snapshot, a
commit), has a lease on the layers meanwhile; while references are read nobody gets one.
"""

from __future__ import annotations

import os

from lamina.errors import Corrupt, InvalidInput
from lamina.linux.descriptors import LOCK_EX
from lamina.store import images, lock, record, snapshots
from lamina.store.containers import identities as container_ids
from lamina.store.layers import is_id as is_layer
from lamina.store.leases import leased
from lamina.store.successors import every
from lamina.store.trace import point
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lamina.store.images import ImageRecord
    from lamina.store.root import Store


# said of what a lease keeps
LEASED = "somebody is about to use it"


@value
class ContainerUse:
    """What a container refers to: `layers` are its own and those of its snapshots; `own` the former. `damaged` says
    what of it cannot be read, "" where all can: it may refer to anything then. `states` is the number of its snapshots.
    """

    id: str
    name: str
    image: str | None
    layers: tuple[str, ...]
    volumes: tuple[str, ...]
    own: tuple[str, ...] = ()
    damaged: str = ""
    states: int = 0

    @property
    def readable(self) -> bool:
        """Whether what it refers to is known."""
        return not self.damaged

    @property
    def shown(self) -> str:
        """As people know it."""
        return self.name or self.id[:12]


class ContainerUses:
    """What all containers refer to, their snapshots included. `refresh` reads those whose records are others than when
    they were read last.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[str, ContainerUse] = {}
        self._stamps: dict[str, tuple[object, ...]] = {}

    def refresh(self) -> ContainerUses:
        """Look which containers there are now. Raises OSError."""
        known, stamps = self._known, self._stamps
        self._known, self._stamps = {}, {}
        for identity in container_ids(self.store):
            place = self.store.containers + b"/" + identity.encode()
            stamp = _stamp(place)
            use = known.get(identity)
            if use is None or not use.readable or stamps.get(identity) != stamp:
                use = self._read(identity, place)
            if use is not None:
                self._known[identity], self._stamps[identity] = use, stamp
        return self

    def _read(self, identity: str, place: bytes) -> ContainerUse | None:
        """None for one without a record: its maker holds whatever it will refer to."""
        damaged = ""
        try:
            # before the container, which may be put on one, and then that goes
            kept, states = _snapshots(place, identity)
        except (Corrupt, NotADirectoryError):
            kept, states, damaged = (), 0, "a snapshot of it cannot be read"
        try:
            found = record.read(place, b"container.json")
            if found is None:
                return None
            return replace(_use(identity, found, kept), damaged=damaged, states=states)
        except (Corrupt, NotADirectoryError):
            return ContainerUse(identity, "", None, kept, (), damaged="its record cannot be read")

    def __iter__(self) -> Iterator[ContainerUse]:
        return iter(self._known.values())

    def of_image(self, identity: str) -> list[ContainerUse]:
        """The containers over that image, whichever id it had when they were made."""
        from lamina.store.successors import predecessors

        ids = {identity, *predecessors(self.store, identity)}
        return [use for use in self._known.values() if use.image in ids]

    def of_volume(self, name: str) -> list[ContainerUse]:
        """The containers that mount that volume."""
        return [use for use in self._known.values() if name in use.volumes]


def _stamp(place: bytes) -> tuple[object, ...]:
    """What is another when a record of the container in *place* is another: each is replaced by another file."""
    found: list[object] = []
    for name in (b"/container.json", b"/snapshots"):
        try:
            status = os.stat(place + name)
            found += [status.st_ino, status.st_mtime_ns]
        except OSError:
            found.append(None)
    return tuple(found)


def _snapshots(place: bytes, identity: str) -> tuple[tuple[str, ...], int]:
    """The layers that the snapshots of the container in *place* refer to, and how many these are. Raises Corrupt,
    OSError.
    """
    directory = place + snapshots.DIRECTORY
    found: dict[str, None] = {}
    count = 0
    for one in snapshots.ids_in(directory):
        if (kept := snapshots.read(directory, one, identity)) is not None:
            found.update(dict.fromkeys(kept.referred))
            count += 1
    return tuple(found), count


def _use(identity: str, found: dict[str, Any], kept: tuple[str, ...]) -> ContainerUse:
    volumes, image = found.get("volumes") or (), found.get("image_id")
    try:
        layers = snapshots.referred_to(found)
    except (TypeError, ValueError, AttributeError, KeyError):
        raise Corrupt(f"container {identity[:12]}: its record is damaged") from None
    if not isinstance(volumes, list | tuple):
        raise Corrupt(f"container {identity[:12]}: its record is damaged")
    known = [layer for layer in layers if isinstance(layer, str) and is_layer(layer)]
    if len(known) != len(layers):
        raise Corrupt(f"container {identity[:12]}: its record names a layer that is none")
    return ContainerUse(
        id=identity,
        name=str(found.get("name") or ""),
        image=image if isinstance(image, str) else None,
        layers=tuple(dict.fromkeys([*known, *kept])),
        volumes=tuple(
            [one["name"] for one in volumes if isinstance(one, dict) and isinstance(one.get("name"), str)]
        ),
        own=tuple(known),
    )


class References:
    """Everything that is referred to, with who does: `layers`, `blobs` and `images` map each to its users.

    `unknown` names those whose references cannot be read: as long as there is one, anything may be in use.
    `ended` are the files of leases whose holder is gone; `settled` counts removed records that went for good.
    """

    def __init__(self, store: Store, *, settle: bool = False) -> None:
        """For the holder of the turn on the leases; of the exclusive one if anything is to be removed by it. With
        *settle* removed records that no start reads any more go for good. Raises OSError.
        """
        self.store, self.settle = store, settle
        self.settled = 0
        self.layers: dict[str, list[str]] = {}
        self.blobs: dict[str, list[str]] = {}
        self.images: dict[str, list[str]] = {}
        self.records: dict[str, ImageRecord] = {}
        self.unknown: list[str] = []
        self.ended: list[bytes] = []
        self._leases()
        self._records()
        self._removed()
        self.containers = ContainerUses(store).refresh()
        self._containers()

    def _leases(self) -> None:
        try:
            kept, self.ended = leased(self.store)
        except Corrupt as error:
            self.unknown.append(error.message)
            return
        for kind, users in (("layer", self.layers), ("blob", self.blobs), ("image", self.images)):
            for what in kept[kind]:
                users.setdefault(what, []).append(LEASED)

    def _records(self) -> None:
        for identity in images.identities(self.store):
            try:
                found = images.get(self.store, identity)
            except Corrupt as error:
                self.unknown.append(error.message)
                continue
            if found is not None:  # removed meanwhile: then it is in removed/, which is read next
                self.records[found.id] = found  # it may have got its digests since it was listed
                self._image(found, f"image {found.id[:12]}")

    def _removed(self) -> None:
        directory = self.store.images + b"/removed"
        for entry in os.listdir(directory):
            path = directory + b"/" + entry
            try:
                free = lock.take(path, LOCK_EX, wait=False)
            except FileNotFoundError:
                continue
            if free is not None:
                with free:  # as long as we hold it: a start that has just opened it must find that it is gone
                    if self.settle:
                        point("collect.unlink-record")
                        os.unlink(path)
                        self.settled += 1
                continue
            identity = os.fsdecode(entry).partition(".")[0]
            try:
                found = record.read_light(directory, entry)
                if found is not None:
                    self._image(images.decode(found, identity), "a container that is being started")
            except (Corrupt, InvalidInput) as error:
                self.unknown.append(error.message)

    def _image(self, found: ImageRecord, who: str) -> None:
        for layer in found.layers:
            self.layers.setdefault(layer, []).append(who)
        for blob in found.blobs:
            self.blobs.setdefault(blob, []).append(who)

    def _containers(self) -> None:
        for use in self.containers:
            if not use.readable:
                self.unknown.append(f"container {use.shown}: {use.damaged}")
            for layer in use.layers:
                self.layers.setdefault(layer, []).append(f"container {use.shown}")
            if use.image is not None:
                self.images.setdefault(use.image, []).append(f"container {use.shown}")
        for old, now in every(self.store).items():
            if old not in self.records and old in self.images:
                self.images.setdefault(now, []).extend(self.images.pop(old))
