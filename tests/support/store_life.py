"""The life of a store as a list of verbs, each with what it promises: for tests that stop it in the middle.

`live` does one verb after the other and says what is promised: a fact is withdrawn before the verb begins that ends it,
and added when the verb has returned. `broken(store, promised)` are the facts that do not hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress

from lamina.errors import NotFound
from lamina.store import (
    blobs,
    burial,
    claims,
    containers,
    garbage,
    images,
    layers,
    networks,
    pins,
    sizes,
    snapshots,
    successors,
    tags,
    volumes,
)
from lamina.store.blobs import BlobWriter
from lamina.store.check import check
from lamina.store.containers import Home
from lamina.store.digest import digest_of
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.networks import NetworkRecord
from lamina.store.prune import enforce, prune_images
from lamina.store.references import ContainerUses
from lamina.store.root import Store, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.snapshots import PlaceState, SnapshotRecord
from lamina.values import replace
from support.stores import diff_id, make_image, make_layer, record_of

FIRST, SECOND = "1" * 64, "2" * 64
BIG = os.urandom(64) * 1024
BIG_DIGEST = digest_of(BIG)
ONE, OTHER = "docker.io/library/one:1", "docker.io/library/other:1"
THIRD = "docker.io/library/third:1"
FROZEN, DIGESTED = (digest_of(data).removeprefix("sha256:") for data in (b"frozen", b"with digests"))
Verb = Callable[[Store], None]


def identity(*texts: str) -> str:
    """The id of the image that `make_image` makes of *texts*."""
    return digest_of(f"config  of {texts}".encode()).removeprefix("sha256:")


def _download(store: Store) -> None:
    with lease(store) as held:
        with BlobWriter(store, BIG_DIGEST, len(BIG), held) as writer:
            if writer.offset == 0:
                writer.write(BIG[:20_000])  # broken off
        with BlobWriter(store, BIG_DIGEST, len(BIG), held) as writer:
            writer.write(BIG[writer.offset :])
            writer.commit()
        with claims.claim(store, diff_id("c")):
            layer = make_layer(store, "c", held)
        record = record_of(BIG_DIGEST, [layer], (BIG_DIGEST,))
        images.put(store, record, (OTHER,), lease=held)


def _put_again(store: Store) -> None:
    with lease(store) as held:
        record = images.get(store, identity("a", "b"))
        assert record is not None
        more = blobs.write_blob(store, b"a manifest", held)
        with images.hold(
            store, record.id
        ):  # a start that reads the old record, which therefore stays for the collector
            images.put(store, replace(record, blobs=(*record.blobs, more), manifest=more), lease=held)


def _start(store: Store) -> None:
    try:  # an earlier life was stopped
        old = containers.find(store, "brave")
        assert old.hold()
        old.discard("brave")
    except NotFound:
        burial.bury_all(store)
        for home in (*containers.abandoned(store), *containers.unfinished(store)):
            home.discard(None)
    with images.hold(store, identity("a", "b")) as held, volumes.hold(store, "data", create=True):
        home, _ = containers.create(store, "brave")
        home.write("container", {
            "id": home.id, "name": "brave", "image": "x", "command": [], "created": 1,
            "image_id": held.record.id, "layers": list(held.record.layers),
            "volumes": [{"name": "data", "target": "/data"}],
        })  # fmt: skip
        held.touch()
    home.unmark()
    home.release()


def _end(store: Store) -> None:
    home = containers.find(store, "brave")
    assert home.hold()
    home.discard("brave")


def _freeze(store: Store) -> None:
    if (found := images.get(store, FROZEN)) is not None:
        # an earlier life was stopped, perhaps before it had its name, and what has none is pruned
        tags.tag(store, THIRD, found.id)
        pins.pin(store, found.id)
        return
    with lease(store) as held:
        config = blobs.write_blob(store, b"frozen", held)
        layer = make_layer(store, "f", held, frozen=True)
        record = record_of(config, [layer], (config,), pending=(layer.id,))
        images.put(store, record, (THIRD,), lease=held)
    pins.pin(store, FROZEN)


def _digest(store: Store) -> None:
    record = images.get(store, FROZEN)
    assert record is not None
    if not record.pending:
        return
    try:
        _make_digests(store, record)
    except OSError as error:
        raise_storage_error(error, "make digests", store.path)


def _make_digests(store: Store, record: ImageRecord) -> None:
    with lease(store) as held, Scratch(store) as scratch:
        images.lease_all(record, held)
        with open(scratch.path + b"/packed", "wb") as file:
            file.write(b"packed")
        packed = blobs.adopt(store, scratch.path + b"/packed", digest_of(b"packed"), held)
        sizes.amend(store, record.layers[0], lambda facts: {**facts, "diff_id": diff_id("f")})
        config = blobs.write_blob(store, b"with digests", held)
        made = replace(record, id=config.partition(":")[2], config=config, blobs=(config, packed), pending=())
        successors.succeed(store, record.id, made, lease=held)


def _collect(store: Store) -> None:
    with open(os.fsdecode(store.leases) + "/" + "0" * 64, "w"):  # somebody was killed
        pass
    garbage.collect(store)


def _snapshot(store: Store) -> None:
    """Two states of the container, of which the first has a name and goes: the other comes from nobody then."""
    home = containers.find(store, "brave")
    base = tuple(home.asked()["layers"])
    with snapshots.turn(home), lease(store) as held:
        for identity, name, parent in ((FIRST, "first", None), (SECOND, "", FIRST)):
            layer = make_layer(store, name or "s", held, frozen=True)
            place = PlaceState(b"/", (layer.id,), layer.id)
            kept = SnapshotRecord(identity, home.id, 1, (place,), name=name, parent=parent, base_layers=base)
            snapshots.put(home, kept, sync=not name)
            sizes.amend(store, layer.id, lambda facts: {**facts, "size": 1})


def _forget_first(store: Store) -> None:
    home = containers.find(store, "brave")
    with snapshots.turn(home):
        try:
            snapshots.remove(home, snapshots.find(home, "first"), sync=True)
        except NotFound:  # an earlier life came so far
            pass
        snapshots.forget_gone(home)
        with suppress(FileExistsError):  # somebody was killed
            os.symlink(FIRST, os.fsdecode(snapshots.directory_of(home) + snapshots.NAMES) + "/idle")


def _forget_volume(store: Store) -> None:
    volumes.create(store, "data")
    volumes.remove(store, "data", unless_used=ContainerUses(store))


def _make_network(store: Store) -> None:
    def draw(others: list[NetworkRecord], identity: str) -> NetworkRecord:
        return NetworkRecord("lan", identity, 1, "lam-lan", (), False, 1500, False, (), ())

    networks.create(store, "lan", draw, exist_ok=True)


def _forget_network(store: Store) -> None:
    _make_network(store)
    networks.remove(store, "lan", lambda addresses: [], lambda found: None)


IMAGE, LAYERS = (
    f"image {identity('a', 'b')}",
    tuple(f"layer {layers.layer_id(diff_id(text))}" for text in "ab"),
)
LATER = f"image {BIG_DIGEST.removeprefix('sha256:')}"
OF_LATER = (f"blob {BIG_DIGEST}", f"layer {layers.layer_id(diff_id('c'))}")
# name, what it does, what it ends, what it promises
VERBS: tuple[tuple[str, Verb, tuple[str, ...], tuple[str, ...]], ...] = (
    ("pull", lambda store: _ignore(make_image(store, "a", "b", names=(ONE,))), (), (IMAGE, f"name {ONE}", *LAYERS)),
    ("pull", _download, (), (LATER, f"name {OTHER}", *OF_LATER)),
    ("pull again", _put_again, (), ()),
    ("pin", lambda store: pins.pin(store, identity("a", "b")), (), ("pin",)),
    ("volume create", lambda store: _ignore(volumes.create(store, "data")), (), ("volume data",)),
    ("start", _start, ("container brave", "snapshot second"), ("container brave",)),
    ("tag", lambda store: tags.tag(store, OTHER, identity("a", "b")), (f"name {OTHER}",), (f"name {OTHER}",)),
    ("snapshot", _snapshot, ("snapshot second",), ("snapshot second",)),
    ("snapshot rm", _forget_first, (), ()),
    ("freeze", _freeze, (), (f"image {FROZEN}", f"name {THIRD}")),
    ("digest", _digest, (), (f"image {DIGESTED}", f"blob {digest_of(b'packed')}")),
    ("gc", _collect, (), ()),
    ("prune", lambda store: _ignore(prune_images(store)), (LATER, *OF_LATER), ()),
    ("gc", _collect, (), ()),
    ("rmi -f", lambda store: _ignore(images.remove(store, FROZEN)),
     (f"image {FROZEN}", f"image {DIGESTED}", f"name {THIRD}", f"blob {digest_of(b'packed')}"), ()),
    ("untag", lambda store: _ignore(tags.untag(store, OTHER)), (f"name {OTHER}",), ()),
    ("rmi -f", lambda store: _ignore(images.remove(store, identity("a", "b"))), (IMAGE, f"name {ONE}", "pin"), ()),
    ("gc", _collect, (), ()),
    ("rm", _end, ("container brave", "snapshot second", *LAYERS), ()),
    ("volume rm", _forget_volume, ("volume data",), ()),
    ("network create", _make_network, (), ("network lan",)),
    ("network rm", _forget_network, ("network lan",), ()),
    ("limit", lambda store: _ignore(enforce(store, 0)), (), ()),
    ("check", lambda store: _ignore(check(store, repair=True, rehash=True)), (), ()),
)  # fmt: skip


def _ignore(value: object) -> None:
    """Verbs answer; here nobody listens."""


def live(store: Store, withdraw: Callable[[str], None], promise: Callable[[str], None]) -> Iterator[str]:
    """Do every verb, yielding its name before."""
    for name, verb, ends, promises in VERBS:
        yield name
        for fact in ends:
            withdraw(fact)
        verb(store)
        for fact in promises:
            promise(fact)


def broken(store: Store, promised: set[str]) -> list[str]:
    """Those of the promised facts that do not hold."""
    return [fact for fact in sorted(promised) if not _holds(store, fact)]


def _holds(store: Store, fact: str) -> bool:
    kind, _, what = fact.partition(" ")
    if kind == "image":
        found = images.get(store, what)
        return (
            found is not None
            and all(layers.find(store, layer) is not None for layer in found.layers)
            and all(blobs.has(store, blob) for blob in found.blobs)
        )
    if kind == "layer":
        layer = layers.find(store, what)
        return layer is not None and os.listdir(layer.path) == [b"file"]
    if kind == "blob":
        blobs.verify(store, what)
        return True
    if kind == "name":
        return tags.named(store, what) is not None
    if kind == "pin":
        return images.is_pinned(store, identity("a", "b"))
    if kind == "network":
        return networks.find(store, what) is not None
    if kind == "snapshot":
        kept = snapshots.get(containers.find(store, "brave"), SECOND)
        return kept is not None and all(layers.find(store, layer) is not None for layer in kept.layers)
    if kind == "volume":
        return volumes.find(store, what) is not None
    try:
        return Home(store, containers.find(store, what).id).read("container") is not None
    except NotFound:
        return False
