"""An image whose layers got their digests has another id, and is found by both."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import Conflict, NotFound
from lamina.store import blobs, garbage, images, pins, successors, tags
from lamina.store.check import check
from lamina.store.containers import Home
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.prune import prune_images
from lamina.store.references import ContainerUses, References
from lamina.store.root import Store
from lamina.values import replace
from support.stores import make_layer, record_of

ONE, OTHER = "docker.io/library/one:1", "docker.io/library/other:1"


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


def pending(store: Store, text: str = "f", names: tuple[str, ...] = (ONE,)) -> ImageRecord:
    with lease(store) as held:
        layer = make_layer(store, text, held, frozen=True)
        config = blobs.write_blob(store, f"pending {layer.id}".encode(), held)
        record = record_of(config, [layer], (config,), pending=(layer.id,))
        return images.put(store, record, names, lease=held)


def digested(store: Store, record: ImageRecord) -> ImageRecord:
    with lease(store) as held:
        config = blobs.write_blob(store, f"with digests {record.layers}".encode(), held)
        made = replace(record, id=config.partition(":")[2], config=config, blobs=(config,), pending=())
        return successors.succeed(store, record.id, made, lease=held)


def container(store: Store, record: ImageRecord) -> None:
    home = Home(store, "c" * 64)
    os.mkdir(home.path)
    home.write("container", {
        "id": home.id, "name": "box", "image": "x", "command": [], "created": 1,
        "image_id": record.id, "layers": list(record.layers),
    })  # fmt: skip


def test_names_and_pin_move_and_the_old_id_leads_there(store: Store) -> None:
    old = pending(store, names=(ONE, OTHER))
    pins.pin(store, old.id)
    os.utime(images.place_of(store, old.id), ns=(5, 7 * 10**9))
    new = digested(store, old)
    assert new.id != old.id
    assert [tags.named(store, name) for name in (ONE, OTHER)] == [new.id, new.id]
    assert images.identities(store) == [new.id]
    assert images.last_used(store, new.id) == 7 * 10**9
    for reference in (old.id, f"sha256:{old.id}", old.id[:12], new.id, new.id[:12], "one:1"):
        found, _ = tags.resolve(store, reference)
        assert (found.id, found.pinned, found.pending) == (new.id, True, ())
    with images.hold(store, old.id) as held:
        assert held.record.id == new.id
    assert digested(store, old).id == new.id, "once more is nothing"
    tags.tag(store, "docker.io/library/more:1", old.id)
    pins.pin(store, old.id, False)
    assert tags.named(store, "docker.io/library/more:1") == new.id and not images.is_pinned(store, new.id)
    garbage.collect(store)
    assert check(store, rehash=True).findings == ()


def test_a_container_that_knows_the_old_id_is_over_it(store: Store) -> None:
    old = pending(store, names=())
    container(store, old)
    new = digested(store, old)
    uses = ContainerUses(store).refresh()
    assert [use.name for use in uses.of_image(new.id)] == ["box"]
    assert References(store).images == {new.id: ["container box"]}
    assert prune_images(store, everything=True) == []
    with pytest.raises(Conflict, match="box"):
        images.remove(store, old.id, unless_used=ContainerUses(store))


def test_with_the_image_the_old_id_goes(store: Store) -> None:
    old = pending(store)
    new = digested(store, old)
    assert images.remove(store, old.id) == [ONE]
    for identity in (old.id, new.id):
        assert images.get(store, identity) is None
        with pytest.raises(NotFound):
            images.hold(store, identity)
    assert successors.unfinished(store) == [old.id]
    assert garbage.collect(store).layers == old.layers
    assert (successors.every(store), check(store).findings) == ({}, ())


def test_what_was_removed_meanwhile_does_not_come_back(store: Store) -> None:
    old = pending(store)
    images.remove(store, old.id)
    with pytest.raises(NotFound, match="no such image"):
        digested(store, old)
    assert images.identities(store) == []


def test_what_somebody_left_half_done_is_finished(store: Store) -> None:
    """Killed after the link: both are whole; the check tells of it, and the collector finishes it."""
    old = pending(store)
    with lease(store) as held:
        config = blobs.write_blob(store, b"with digests", held)
        made = replace(old, id=config.partition(":")[2], config=config, blobs=(config,), pending=())
        images.put(store, made, lease=held)
        successors._link(store, old.id, made.id)
    assert tags.named(store, ONE) == old.id
    assert [(one.severity, one.what) for one in check(store).findings if one.kind == "image"] == [
        ("left over", old.id)
    ]
    assert check(store, repair=True).clean
    assert (tags.named(store, ONE), images.identities(store)) == (made.id, [made.id])
    assert check(store).findings == ()


def test_a_link_to_anything_is_no_way_out(store: Store) -> None:
    old = pending(store)
    digested(store, old)
    link = store.images + b"/became/" + old.id.encode()
    for target in (b"../../containers/x", b"/etc/passwd", b"." * 64):
        os.unlink(link)
        os.symlink(target, link)
        assert images.get(store, old.id) is None and successors.successor(store, old.id) is None
