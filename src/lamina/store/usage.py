"""What the store is large for: of images, layers and blobs as counted when they were made; nothing is walked for them.

size         bytes of a layer's regular files; of a blob
shared       of an image: what other images have as well
unique       of an image: what would go with it
reclaimable  what would go if everything went that no container uses (pinned images stay)
"""

from __future__ import annotations

from lamina.store import blobs, images, layers, lock, volumes
from lamina.store.containers import DEAD, EXITED, Home
from lamina.store.containers import identities as container_ids
from lamina.store.garbage import names_by_image, size_of_layer
from lamina.store.references import LEASED, References
from lamina.store.root import raise_storage_error
from lamina.store.sizes import tree_size
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.references import ContainerUses
    from lamina.store.root import Store


@value
class Amount:
    """How much: bytes and inodes."""

    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.inodes + other.inodes)


@value
class LayerUse:
    """A layer, the ids of the images and the names of the containers that are over it, whether it would go."""

    id: str
    amount: Amount
    images: tuple[str, ...]
    containers: tuple[str, ...]
    reclaimable: bool


@value
class ImageUse:
    """An image: `shared` is in layers that other images have too, `unique` in none; `blobs` is what is kept to push."""

    id: str
    names: tuple[str, ...]
    created: int
    last_used: int
    pinned: bool
    containers: tuple[str, ...]
    shared: Amount
    unique: Amount
    blobs: Amount


@value
class PlaceUse:
    """A container or a volume: what is in its directory, who uses it, and whether it would go."""

    name: str
    amount: Amount
    users: tuple[str, ...]
    reclaimable: bool


@value
class Total:
    """One line of `lamina system df`."""

    kind: str
    count: int
    active: int
    amount: Amount
    reclaimable: Amount


@value
class Usage:
    """Everything that `df` says. `containers` and `volumes` are empty unless their directories were to be walked."""

    totals: tuple[Total, ...]
    images: tuple[ImageUse, ...]
    layers: tuple[LayerUse, ...]
    containers: tuple[PlaceUse, ...]
    volumes: tuple[PlaceUse, ...]


def df(store: Store, *, walk: bool = False) -> Usage:
    """What the store is large for. With *walk* containers and volumes are counted as well, which reads all of their
    directories. Raises KernelError.
    """
    try:
        with lock.turn(store.leases, lock.LOCK_SH):  # whoever adds meanwhile is no matter here
            found = References(store)
        return _Counting(store, found).run(walk)
    except OSError as error:
        raise_storage_error(error, "count what the store keeps", store.path)


def total(store: Store) -> Amount:
    """Bytes and inodes of all layers and blobs: what a limit is about. Raises OSError."""
    counted = sum((_layer(store, one) for one in layers.identities(store)), Amount())
    return sum((Amount(blobs.size_of(store, one) or 0, 1) for one in blobs.identities(store)), counted)


def walked(path: bytes) -> Amount:
    """Bytes and inodes of a tree, each file once; what cannot be entered or vanishes meanwhile counts as nothing."""
    return Amount(*tree_size(path, strict=False))


def _layer(store: Store, identity: str) -> Amount:
    return Amount(*size_of_layer(store, identity))


class _Counting:
    def __init__(self, store: Store, found: References) -> None:
        self.store, self.found = store, found
        self.uses: ContainerUses = found.containers
        self.over: dict[str, list[str]] = {}  # layer: images
        for record in found.records.values():
            for layer in record.layers:
                self.over.setdefault(layer, []).append(record.id)
        self.under: dict[str, list[str]] = {}  # layer: containers
        for use in self.uses:
            for layer in use.layers:
                self.under.setdefault(layer, []).append(use.shown)
        self.sizes = {one: _layer(store, one) for one in layers.identities(store)}
        self.blob_sizes = {one: Amount(blobs.size_of(store, one) or 0, 1) for one in blobs.identities(store)}

    def run(self, walk: bool) -> Usage:
        found_images = tuple(self._images())
        stay = {layer for one in found_images if one.pinned for layer in self.found.records[one.id].layers}
        stay |= {layer for layer, because in self.found.layers.items() if LEASED in because}
        found_layers = tuple([
            LayerUse(
                id=one,
                amount=self.sizes[one],
                images=tuple(dict.fromkeys(self.over.get(one, ()))),
                containers=tuple(self.under.get(one, ())),
                reclaimable=one not in self.under and one not in stay and not self.found.unknown,
            )
            for one in sorted(self.sizes)
        ])  # fmt: skip
        containers = tuple(self._containers()) if walk else ()
        found_volumes = tuple(self._volumes()) if walk else ()
        return Usage(
            totals=(
                self._image_total(found_images, found_layers),
                self._container_total(containers),
                *self._snapshot_totals(found_layers),
                self._volume_total(found_volumes),
                self._blob_total(found_images),
            ),
            images=found_images,
            layers=found_layers,
            containers=containers,
            volumes=found_volumes,
        )

    def _images(self) -> list[ImageUse]:
        names = names_by_image(self.store)
        found = []
        for record in self.found.records.values():
            own = {layer for layer in record.layers if set(self.over[layer]) == {record.id}}
            amounts = {layer: self.sizes.get(layer, Amount()) for layer in record.layers}
            found.append(
                ImageUse(
                    id=record.id,
                    names=tuple(names.get(record.id, ())),
                    created=record.created,
                    last_used=images.last_used(self.store, record.id),
                    pinned=record.pinned,
                    containers=tuple([use.shown for use in self.uses.of_image(record.id)]),
                    shared=sum((amount for one, amount in amounts.items() if one not in own), Amount()),
                    unique=sum((amount for one, amount in amounts.items() if one in own), Amount()),
                    blobs=sum((self.blob_sizes.get(one, Amount()) for one in set(record.blobs)), Amount()),
                )
            )
        return sorted(found, key=lambda one: (one.names or ("~",), one.id))

    def _containers(self) -> list[PlaceUse]:
        known = {use.id: use.shown for use in self.uses}
        return [
            PlaceUse(
                name=known.get(identity, identity[:12]),
                amount=walked(self.store.containers + b"/" + identity.encode()),
                users=(),
                reclaimable=self._has_ended(identity),
            )
            for identity in sorted(container_ids(self.store))
        ]

    def _has_ended(self, identity: str) -> bool:
        try:
            return Home(self.store, identity).state() in (EXITED, DEAD)
        except OSError:  # removed meanwhile
            return True

    def _volumes(self) -> list[PlaceUse]:
        found = []
        for name in volumes.identities(self.store):
            users = tuple([use.shown for use in self.uses.of_volume(name)])
            found.append(PlaceUse(name, walked(volumes.data_of(self.store, name)), users, not users))
        return found

    def _image_total(self, found: tuple[ImageUse, ...], over: tuple[LayerUse, ...]) -> Total:
        return Total(
            kind="Images",
            count=len(found),
            active=sum(bool(one.containers) for one in found),
            amount=sum((one.amount for one in over if not _is_state(one)), Amount()),
            reclaimable=sum((one.amount for one in over if one.reclaimable), Amount()),
        )

    def _snapshot_totals(self, over: tuple[LayerUse, ...]) -> list[Total]:
        """Of states of containers, where there are any. What no container stands on would go with its snapshots."""
        count = sum(use.states for use in self.uses)
        frozen = [one for one in over if _is_state(one)]
        if not count and not frozen:
            return []
        standing = {layer for use in self.uses for layer in use.own}
        stay = {layer for layer, because in self.found.layers.items() if LEASED in because}
        free = [one.amount for one in frozen if one.id not in standing and one.id not in stay]
        return [
            Total(
                kind="Snapshots",
                count=count,
                active=sum(bool(use.states) for use in self.uses),
                amount=sum((one.amount for one in frozen), Amount()),
                reclaimable=Amount() if self.found.unknown else sum(free, Amount()),
            )
        ]

    def _container_total(self, found: tuple[PlaceUse, ...]) -> Total:
        there = container_ids(self.store)
        active = sum(not self._has_ended(identity) for identity in there)
        return _place_total("Containers", found, len(there), active)

    def _volume_total(self, found: tuple[PlaceUse, ...]) -> Total:
        used = {name for use in self.uses for name in use.volumes}
        there = volumes.identities(self.store)
        return _place_total("Volumes", found, len(there), len(used.intersection(there)))

    def _blob_total(self, found: tuple[ImageUse, ...]) -> Total:
        """Blobs go with the last image that has them, whether containers are over it or not."""
        stay = {
            blob for one in found if one.pinned or one.containers for blob in self.found.records[one.id].blobs
        }
        stay |= {blob for blob, because in self.found.blobs.items() if LEASED in because}
        free = [
            amount for one, amount in self.blob_sizes.items() if one not in stay and not self.found.unknown
        ]
        return Total(
            kind="Blobs",
            count=len(self.blob_sizes),
            active=len(stay.intersection(self.blob_sizes)),
            amount=sum(self.blob_sizes.values(), Amount()),
            reclaimable=sum(free, Amount()),
        )


def _is_state(one: LayerUse) -> bool:
    """Whether it is a layer that only containers are over: frozen out of what they wrote."""
    return bool(one.containers) and not one.images


def _place_total(kind: str, found: tuple[PlaceUse, ...], count: int, active: int) -> Total:
    return Total(
        kind=kind,
        count=count,
        active=active,
        amount=sum((one.amount for one in found), Amount()),
        reclaimable=sum((one.amount for one in found if one.reclaimable), Amount()),
    )
