"""Images: records and names, held while a start reads them, changed without waiting for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.store import blobs, durable, images, pins, tags
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.root import Store
from lamina.values import replace
from support.stores import entries, make_image, make_layer, record_of

DEBIAN = "docker.io/library/debian:12"
OTHER = "docker.io/library/other:latest"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


def removed(store: Store) -> list[str]:
    return entries(store.images + b"/removed")


def test_names_that_others_gave_are_on_the_disk_before_a_record_refers_to_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote a blob or a layer may have come as far as its name, and wait for that still."""
    synced: list[set[bytes]] = []
    at_once = durable.sync_together

    def sync_together(paths: Mapping[bytes, str], **how: bool) -> None:
        synced.append(set(paths))
        at_once(paths, **how)

    with lease(store) as held:
        config = blobs.write_blob(store, b"config", held)
        record = record_of(config, [make_layer(store, "a", held)], (config,))
        monkeypatch.setattr(durable, "sync_together", sync_together)
        images.put(store, record, [DEBIAN], lease=held)
    assert synced[0] >= {store.layers, store.blobs + b"/sha256"}


def test_what_is_put_is_got(store: Store) -> None:
    record = make_image(store, "a", "b", names=(DEBIAN,))
    assert images.get(store, record.id) == record
    assert tags.named(store, DEBIAN) == record.id
    assert images.identities(store) == [record.id]
    assert [found.name for found in tags.list_names(store)] == [DEBIAN]
    assert entries(store.leases) == removed(store) == []


def test_bytes_and_deep_things_of_a_config_come_back(store: Store) -> None:
    with lease(store) as held:
        layer = make_layer(store, "a", held)
        config = blobs.write_blob(store, b"{}", held)
        run = {
            "env": ["A=\udcff", "B=☃"],
            "healthcheck": {"test": ["CMD", "x"], "interval": 10**12},
            "labels": {},
        }
        record = replace(record_of(config, [layer], (config,)), run=run, created=10**18, variant="v8")
        images.put(store, record, lease=held)
    assert images.get(store, record.id) == record


def test_what_is_missing_cannot_be_referred_to(store: Store) -> None:
    record = make_image(store, "a")
    with lease(store) as held:
        for wrong in (replace(record, layers=("f" * 64,)), replace(record, blobs=("sha256:" + "f" * 64,))):
            with pytest.raises(NotFound, match="not in this store"):
                images.put(store, wrong, lease=held)
    assert images.get(store, record.id) == record


def test_the_same_image_again_keeps_what_it_had(store: Store) -> None:
    record = make_image(store, "a")
    with lease(store) as held:
        more = blobs.write_blob(store, b"a manifest", held)
        again = replace(record, blobs=(record.config, more), manifest=more)
        kept = images.put(store, again, (DEBIAN,), lease=held)
        assert set(kept.blobs) == {*record.blobs, more} and kept.manifest == more
        kept = images.put(store, record, lease=held)
    assert images.get(store, record.id) == kept
    assert kept.manifest == more


def test_names_move(store: Store) -> None:
    one, other = make_image(store, "a", names=(DEBIAN,)), make_image(store, "b")
    digest = "sha256:" + "1" * 64
    tags.tag(store, DEBIAN, other.id, [digest])
    tags.tag(store, OTHER, one.id)
    found = tags.find_name(store, DEBIAN)
    assert found is not None and (found.id, found.digests) == (other.id, (digest,))
    tags.tag(store, DEBIAN, other.id)  # does not forget the digest, as it is the same image
    assert tags.find_name(store, DEBIAN).digests == (digest,)  # type: ignore[union-attr]
    tags.tag(store, DEBIAN, one.id)
    assert tags.find_name(store, DEBIAN).digests == ()  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="by now"):
        tags.untag(store, DEBIAN, other.id)
    assert tags.untag(store, DEBIAN) == one.id
    with pytest.raises(NotFound):
        tags.untag(store, DEBIAN)
    with pytest.raises(NotFound):
        tags.tag(store, DEBIAN, "0" * 64)


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ä", "a" * 1025, "a\0"])
def test_what_is_no_name(store: Store, name: str) -> None:
    record = make_image(store, "a")
    for act in (lambda: tags.tag(store, name, record.id), lambda: tags.named(store, name)):
        with pytest.raises(InvalidInput):
            act()


def test_removing_takes_the_names_along(store: Store) -> None:
    record = make_image(store, "a", names=(DEBIAN, OTHER))
    keep = make_image(store, "b", names=("docker.io/library/keep:latest",))
    assert sorted(images.remove(store, record.id)) == [DEBIAN, OTHER]
    assert images.get(store, record.id) is None and tags.named(store, DEBIAN) is None
    assert images.identities(store) == [keep.id]
    with pytest.raises(NotFound):
        images.remove(store, record.id)
    with pytest.raises(NotFound):
        images.hold(store, record.id)


def test_who_holds_a_record_keeps_nobody_from_removing_it(store: Store) -> None:
    record = make_image(store, "a", names=(DEBIAN,))
    with images.hold(store, record.id) as held:
        assert held.record == record
        images.remove(store, record.id)
        again = make_image(store, "a", names=(DEBIAN,))  # and putting it once more
        pins.pin(store, again.id)
        assert images.get(store, record.id) == replace(record, pinned=True)
    assert len(removed(store)) == 1


def test_holding_takes_no_turn(store: Store) -> None:
    record = make_image(store, "a")
    with images.turn(store):  # somebody changes names meanwhile
        with images.hold(store, record.id) as held:
            held.touch()
        thread = threading.Thread(target=images.touch, args=(store, record.id))
        thread.start()
        thread.join(100)
        assert not thread.is_alive()


def test_when_it_was_last_used(store: Store) -> None:
    record = make_image(store, "a")
    os.utime(images.place_of(store, record.id), ns=(1, 1))
    assert images.last_used(store, record.id) == 1
    with images.hold(store, record.id) as held:
        held.touch()
    used = images.last_used(store, record.id)
    assert used > 1
    os.utime(images.place_of(store, record.id), ns=(1, 1))
    images.touch(store, record.id)
    assert images.last_used(store, record.id) >= used
    images.touch(store, "0" * 64)
    assert images.last_used(store, "0" * 64) == 0


def test_pins(store: Store) -> None:
    record = make_image(store, "a")
    pins.pin(store, record.id)
    pins.pin(store, record.id)
    assert images.get(store, record.id) == replace(record, pinned=True)
    pins.pin(store, record.id, False)
    pins.pin(store, record.id, False)
    assert images.get(store, record.id) == record
    pins.pin(store, record.id)
    images.remove(store, record.id)
    assert entries(store.images + b"/pinned") == []
    with pytest.raises(NotFound):
        pins.pin(store, record.id)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"id":"0"}', "\xff"])
def test_damage_is_said_and_can_be_written_over(store: Store, text: str) -> None:
    record = make_image(store, "a", names=(DEBIAN,))
    Path(os.fsdecode(images.place_of(store, record.id))).write_text(text, encoding="latin-1")
    for read in (lambda: images.get(store, record.id), lambda: images.hold(store, record.id)):
        with pytest.raises(Corrupt):
            read()
    assert make_image(store, "a") == record
    assert images.get(store, record.id) == record


def test_a_record_of_another_image_is_none_of_this_one(store: Store) -> None:
    one, other = make_image(store, "a"), make_image(store, "b")
    os.replace(images.place_of(store, other.id), images.place_of(store, one.id))
    with pytest.raises(Corrupt, match="is that of"):
        images.get(store, one.id)


def test_a_name_of_an_image_that_is_gone_stands_for_nothing(store: Store) -> None:
    """What a power cut may leave: the name came to the disk, or stayed there, and the record did not."""
    record = make_image(store, "a", names=(DEBIAN,))
    os.unlink(images.place_of(store, record.id))
    assert tags.named(store, DEBIAN) is None
    Path(os.fsdecode(store.images), "names/left.json.new").touch()
    Path(os.fsdecode(store.images), "pinned/" + "0" * 64).touch()
    tags.sweep(store)
    assert entries(store.images + b"/names") == entries(store.images + b"/pinned") == []


class TestResolve:
    def test_by_id_name_and_beginning(self, store: Store) -> None:
        record, other = make_image(store, "a", names=(DEBIAN,)), make_image(store, "b")
        for text in (record.id, f"sha256:{record.id}", record.id[:12], f"sha256:{record.id[:8]}"):
            assert tags.resolve(store, text) == (record, None)
        assert tags.resolve(store, "debian:12") == (record, DEBIAN)
        assert tags.resolve(store, "Debian", DEBIAN) == (record, DEBIAN)
        tags.tag(store, f"docker.io/library/{record.id[:12]}:latest", other.id)
        assert tags.resolve(store, record.id[:12])[0] == other  # a name comes before the beginning of an id
        assert tags.resolve(store, record.id)[0] == record

    @pytest.mark.parametrize(
        "text", ["nothing", "", "0" * 64, "sha256:" + "0" * 64, "../../version", "Debian:12"]
    )
    def test_what_is_not_there(self, store: Store, text: str) -> None:
        make_image(store, "a", names=(DEBIAN,))
        with pytest.raises(NotFound, match="no such image"):
            tags.resolve(store, text, None if text == "Debian:12" else "")

    def test_beginnings_of_several(self, store: Store) -> None:
        found = [make_image(store, str(n)) for n in range(20)]
        first = next(one.id[0] for one in found if sum(other.id[0] == one.id[0] for other in found) > 1)
        with pytest.raises(InvalidInput, match="multiple IDs found with provided prefix"):
            tags.resolve(store, first, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12", DEBIAN),
        ("docker.io/debian:12", DEBIAN),
        ("index.docker.io/debian:12", DEBIAN),
        ("library/debian:12", DEBIAN),
        ("team/tool_x.y-z:V1.0_a", "docker.io/team/tool_x.y-z:V1.0_a"),
        ("quay.io/a/b/c", "quay.io/a/b/c:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("quay.io/tool", "quay.io/tool:latest"),
        ("host:5000/team/tool:tag", "host:5000/team/tool:tag"),
        *[(text, None) for text in (
            "", "Debian", "debian:", ":12", "a//b", "/a", "a/", "a..b", "a__b", "a--b", "-a", "a-", "a@sha256:x",
            "debian:.x", "debian:a b", "host:/x", "host:x/y", "a:b:c", "a:b/c:d", "a" * 256, "f" * 64, "../x",
            "debian:" + "a" * 129, "ä", "a\n", "[::1]:5000/x", "Host.de/x",
        )],
    ],
)  # fmt: skip
def test_plain_names(text: str, name: str | None) -> None:
    assert tags.quick_name(text) == name


def test_many_put_and_name_at_once(store: Store) -> None:
    """Nobody's blobs are lost when several put the same image."""
    with lease(store) as held:
        record = make_image(store, "a", held=held)
        more = [blobs.write_blob(store, b"%d" % n, held) for n in range(12)]

        def put(blob: str) -> None:
            with lease(store) as own:
                images.put(store, replace(record, blobs=(blob,)), (f"x/{blob[-8:]}:1",), lease=own)

        threads = [threading.Thread(target=put, args=(blob,)) for blob in more]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    kept = images.get(store, record.id)
    assert isinstance(kept, ImageRecord) and set(kept.blobs) == {*record.blobs, *more}
    assert len(list(tags.list_names(store))) == 12
