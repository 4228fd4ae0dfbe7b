"""What the store keeps: counted, explained, cleaned up, checked, held below a limit; and volumes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lamina.engine.discard import finish_burials, remover
from lamina.engine.images import gone_events
from lamina.engine.naming import resolve
from lamina.engine.pruning import Chosen
from lamina.errors import Corrupt, InvalidInput, LaminaError
from lamina.store import garbage, pins, usage, volumes
from lamina.store.check import check
from lamina.store.events import note
from lamina.store.leases import lease
from lamina.store.prune import Gone, enforce, prune_images
from lamina.store.references import ContainerUses
from lamina.values import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from lamina.engine.container import Container
    from lamina.image.apply import IdMap
    from lamina.store.check import Checked
    from lamina.store.containers import Home
    from lamina.store.garbage import Collected
    from lamina.store.layers import Layer
    from lamina.store.prune import Evicted
    from lamina.store.root import Store
    from lamina.store.usage import ImageUse, Usage

    Shown = TypeVar("Shown", Gone, ImageUse)

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}


@value
class Pruned:
    """What `prune` removed: names of containers, networks and volumes, images; and the bytes that became free."""

    containers: tuple[str, ...]
    networks: tuple[str, ...]
    images: tuple[Gone, ...]
    volumes: tuple[str, ...]
    layers: tuple[str, ...]
    freed: int


class Storage:
    """The store of one engine, as `Engine.storage` gives it."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"<Storage {os.fsdecode(self.store.path)}>"

    # -- what is there

    def usage(self, *, walk: bool = True) -> Usage:
        """What images, layers, blobs, containers and volumes take, and what of it could go.

        Without *walk* containers and volumes are not measured: all of their directories would be read.
        """
        found = usage.df(self.store, walk=walk)
        return replace(found, images=_named(found.images))

    def check(self, *, repair: bool = False, rehash: bool = False) -> Checked:
        """Look whether everything is whole; *repair* what is not, and with *rehash* read all content. KernelError."""
        from lamina.engine.recover import recover

        if repair:
            recover(self.store, thorough=True)
        found = check(
            self.store,
            repair,
            rehash,
            prove=_prove,
            tree_digest=_tree_digest,
            remove=remover(None),
            settle=_settle,
        )
        if not os.path.isdir(self.store.networks):
            return found
        from lamina.engine.network_check import leftovers

        return replace(found, findings=(*found.findings, *leftovers(self.store, repair=repair)))

    def collect(self, *, explain: bool = False, dry: bool = False) -> Collected:
        """Remove layers and blobs that nothing refers to; *explain* why the rest stays; with *dry* only say so."""
        if not dry:
            finish_burials(self.store)
        return garbage.collect(self.store, explain, dry=dry, remove=remover(None))

    def prune(
        self,
        containers: Iterable[Container],
        *,
        everything: bool = False,
        with_volumes: bool = False,
        until: float | None = None,
        labels: Sequence[str] = (),
        without_labels: Sequence[str] = (),
    ) -> Pruned:
        """Remove those of *containers* that do not run, networks that no container is in, images without a name (with
        *everything* all that no container uses), volumes that were made for containers that are gone (*with_volumes*),
        and then the garbage; and what the default network has made, if no container is in it: the next one makes it
        again.

        Of containers, networks, images and volumes only those made before *until* (seconds since 1970), with all of
        *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*.
        """
        chosen = Chosen(until, labels, without_labels)
        before = usage.df(self.store, walk=True)
        sizes = {use.name: use.amount.bytes for use in (*before.containers, *before.volumes)}
        gone = []
        for container in containers:
            try:
                if not chosen.takes(container.created, container.labels):
                    continue
                container.remove()
            except LaminaError:
                continue  # it runs again, or somebody else removed it
            gone.append(container.name or container.id[:12])
        gone_networks = self._prune_networks(chosen)
        uses = ContainerUses(self.store).refresh()
        gone_images = prune_images(
            self.store,
            everything=everything,
            wanted=lambda record: chosen.takes(record.created / 1e9, record.run.get("labels") or {}),
        )
        note(self.store, *[said for one in gone_images for said in gone_events(one.id, one.names)])
        gone_volumes = []
        if with_volumes:
            gone_volumes = volumes.prune(
                self.store,
                uses,
                wanted=lambda volume: chosen.takes(volume.created / 1e9, volume.labels),
                remove=remover(None),
            )
        collected = self.collect()
        freed = collected.freed + sum(sizes.get(name, 0) for name in (*gone, *gone_volumes))
        return Pruned(
            tuple(gone), gone_networks, _named(gone_images), tuple(gone_volumes), collected.layers, freed
        )

    def _prune_networks(self, chosen: Chosen) -> tuple[str, ...]:
        if not os.path.isdir(self.store.networks):
            return ()
        from lamina.engine.network_verbs import Networks

        try:
            return tuple(
                Networks(self.store).prune(
                    until=chosen.until, labels=chosen.labels, without_labels=chosen.without
                )
            )
        except LaminaError:
            return ()  # `network rm` says what is wrong with it

    # -- pins and limits

    def pin(self, reference: str, pinned: bool = True) -> str:
        """Never evict or prune the image; its id. Raises NotFound, InvalidInput."""
        record, _ = resolve(self.store, reference)
        pins.pin(self.store, record.id, pinned)
        return record.id

    def keep_below(self, limit: int) -> Evicted:
        """Evict what was not used for the longest time until layers and blobs take at most *limit* bytes."""
        done = enforce(self.store, limit, remove=remover(None))
        return replace(done, images=_named(done.images))

    # -- volumes

    def prune_volumes(
        self, *, everything: bool = False, labels: Sequence[str] = (), without_labels: Sequence[str] = ()
    ) -> tuple[list[str], int]:
        """Remove those without a name that no container mounts, or all of these; their names, and the bytes freed. Only
        those with all of *labels* ("KEY" or "KEY=VALUE") and none of *without_labels*.
        """
        chosen = Chosen(None, labels, without_labels)
        before = {use.name: use.amount.bytes for use in usage.df(self.store, walk=True).volumes}
        uses = ContainerUses(self.store).refresh()
        gone = volumes.prune(
            self.store,
            uses,
            named=everything,
            wanted=lambda volume: chosen.takes(volume.created / 1e9, volume.labels),
            remove=remover(None),
        )
        return gone, sum(before.get(name, 0) for name in gone)


def within_limit(store: Store, added: Iterable[str], events: Callable[..., None] | None = None) -> None:
    """Keep the store below its limit, if it has one, after the images *added* came into it; these stay, whatever goes.

    *events* hears a warning if that was not enough.
    """
    if store.limit is None:
        return
    with lease(store) as held:
        for identity in added:
            held.add_image(identity)
        done = enforce(store, store.limit, remove=remover(None))
    if done.over and events is not None:
        events(
            "warning", text=f"the store is {done.over:,} bytes above its limit: the rest is in use, or pinned"
        )


def read_limit(text: str) -> int:
    """The bytes that *text* ("200g", "1.5t", "1000000") means, in powers of 1000. Raises InvalidInput."""
    digits = text.strip().lower().removesuffix("b")
    unit = digits[-1:] if digits[-1:] in _UNITS else ""
    try:
        number = float(digits.removesuffix(unit))
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e18:
        raise InvalidInput(f"store limit {text!r}: not a size", remedy="such as 200g")
    return int(number * _UNITS[unit])


def _named(found: Iterable[Shown]) -> tuple[Shown, ...]:
    """The same, with names as people write them."""
    from lamina.image.reference import parse

    return tuple([replace(one, names=tuple([parse(name).familiar for name in one.names])) for one in found])


def _settle(home: Home) -> None:
    """Finish what was begun with the states of a container."""
    from lamina.engine.state_turn import StateTurn

    with StateTurn(home, "check"):
        pass


def _prove(layer: Layer) -> bool | None:
    """Whether the archive that is made again of the files has the layer's diff_id; None where that cannot be said."""
    from lamina.engine.unpacking import packing
    from lamina.image.pack.again import has_recipe

    if layer.diff_id is None or not (has_recipe(layer) or layer.id.startswith("x")):
        return None
    there = packing() or (lambda work, *args: work(*args, None, None))
    return bool(there(_has_its_digest, layer, b""))


def _has_its_digest(layer: Layer, _: bytes, userxattr: bool | None, ids: IdMap | None) -> bool:
    from lamina.image.pack import pack_stored

    try:
        with open(os.devnull, "wb", buffering=0) as nowhere:
            pack_stored(layer, nowhere, userxattr=userxattr, ids=ids)
    except Corrupt:
        return False
    return True


def _tree_digest(path: bytes) -> str:
    """As the store does it; without root in a namespace in which every id of the tree is itself."""
    from lamina.engine.within import maps_of, reach
    from lamina.store.seal import tree_digest

    return str(reach(lambda: maps_of(None), tree_digest, path))
