"""An image whose record and name are written before the turn on the images is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.store import blobs, images, lock, tags
from lamina.store.coming_image import ComingImage
from lamina.store.durable import Batch
from lamina.store.images import ImageRecord
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from support.held import held_descriptors
from support.stores import entries, make_image, make_layer, record_of

NAME, OTHER = "docker.io/library/made:1", "docker.io/library/other:1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


def drawn_up(store: Store, held: Lease) -> ImageRecord:
    """A record of what is there."""
    config = blobs.write_blob(store, b"config", held)
    return record_of(config, [make_layer(store, "a", held)], (config,))


def made(store: Store, record: ImageRecord, name: str | None, held: Lease) -> ImageRecord:
    batch, found = Batch(), list[ImageRecord]()
    coming = ComingImage(store, record, name, batch)
    batch.last(lambda: found.append(coming.take_names(batch, held)))
    try:
        with images.turn(store):
            batch.publish()
    finally:
        coming.close()
    return found[0]


def left_in(store: Store) -> list[str]:
    """What should not be there."""
    found = [*entries(store.images + b"/records"), *entries(store.images + b"/names")]
    return [entry for entry in found if not entry.endswith(".json")]


@pytest.mark.parametrize("name", [NAME, None])
def test_it_is_there_when_it_has_its_names(store: Store, name: str | None) -> None:
    before = held_descriptors()
    with lease(store) as held:
        record = made(store, drawn_up(store, held), name, held)
    assert images.get(store, record.id) == record
    assert [one.name for one in tags.list_names(store)] == ([] if name is None else [NAME])
    path = images.place_of(store, record.id)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert left_in(store) == []
    taken = lock.take(path, lock.LOCK_EX, wait=False)  # nobody has it locked
    assert taken is not None
    taken.release()
    assert held_descriptors() == before


def test_a_name_that_stood_for_another(store: Store) -> None:
    old = make_image(store, "old", names=(NAME,))
    with lease(store) as held:
        record = made(store, drawn_up(store, held), NAME, held)
    assert tags.named(store, NAME) == record.id != old.id
    assert images.get(store, old.id) == old


def test_the_same_one_that_is_there_already_keeps_what_it_has(store: Store) -> None:
    with lease(store) as held:
        record = drawn_up(store, held)
        further = blobs.write_blob(store, b"further", held)
        batch = Batch()
        coming = ComingImage(store, record, NAME, batch)
        both = record_of(record.config, [make_layer(store, "a", held)], (*record.blobs, further))
        images.put(store, both, [OTHER], lease=held)
        found: list[ImageRecord] = []
        batch.last(lambda: found.append(coming.take_names(batch, held)))
        with images.turn(store):
            batch.publish()
        coming.close()
    assert set(found[0].blobs) == {record.config, further}
    assert images.get(store, record.id) == found[0]
    assert {one.name: one.id for one in tags.list_names(store)} == {NAME: record.id, OTHER: record.id}
    assert left_in(store) == []


def test_what_is_given_up_leaves_nothing(store: Store) -> None:
    with lease(store) as held:
        coming = ComingImage(store, drawn_up(store, held), NAME, Batch())
        assert len(left_in(store)) == 2
        tags.sweep(store)
        assert len(left_in(store)) == 2
        coming.close()
        coming.close()
    assert left_in(store) == []
    assert images.identities(store) == []


def test_one_that_is_given_up_while_it_is_swept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease(store) as held:
        coming, take = ComingImage(store, drawn_up(store, held), NAME, Batch()), lock.take

        def late(path: bytes, how: int, **further: bool) -> lock.Lock | None:
            coming.close()
            return take(path, how, **further)

        monkeypatch.setattr(lock, "take", late)
        tags.sweep(store)
    assert left_in(store) == []


def test_what_somebody_left_who_was_killed_is_swept_away(store: Store) -> None:
    with lease(store) as held:
        record = drawn_up(store, held)
        pid = os.fork()
        if not pid:
            ComingImage(store, record, NAME, Batch())
            os._exit(0)
        os.waitpid(pid, 0)
    assert len(left_in(store)) == 2
    tags.sweep(store)
    assert left_in(store) == []
