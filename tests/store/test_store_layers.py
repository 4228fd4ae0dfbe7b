"""Layers: whole or not there, one for all who want it, whoever makes it first."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from lamina.errors import Conflict, Corrupt, InvalidInput, LaminaError
from lamina.store import burial, claims, layers, trace
from lamina.store.leases import lease
from lamina.store.root import Store
from support.stores import diff_id, entries, make_layer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


A = layers.layer_id(diff_id("a"))


def test_a_layer_is_there_once_it_is_committed(store: Store) -> None:
    with lease(store) as held:
        with layers.stage(store, A, held) as stage:
            assert os.listdir(stage.path) == [] and stat.S_IMODE(os.stat(stage.path).st_mode) == 0o755
            Path(os.fsdecode(stage.path), "f").write_text("a")
            assert layers.find(store, A) is None and not layers.is_there(store, A)
            made = stage.commit(diff_id("a"), 1, 2, {"media_type": "tar"})
        assert f"layer {A}" in Path(os.fsdecode(held.path)).read_text()
    found = layers.find(store, A)
    assert found == made
    assert found is not None
    assert (found.id, found.diff_id, found.size, found.inodes, found.driver) == (
        A,
        diff_id("a"),
        1,
        2,
        "overlay2",
    )
    assert found.extra == {"media_type": "tar"} and found.path == layers.tree_of(store, A)
    assert Path(os.fsdecode(found.path), "f").read_text() == "a"
    assert layers.identities(store) == [A] and entries(store.tmp) == []
    assert {stat.S_IMODE(os.stat(p).st_mode) for p in (store.layers, layers.place_of(store, A))} == {0o700}


@pytest.mark.parametrize("mask", [0, 0o777])
def test_modes_do_not_depend_on_the_umask(store: Store, mask: int) -> None:
    before = os.umask(mask)
    try:
        with lease(store) as held:
            layer = make_layer(store, "a", held)
    finally:
        os.umask(before)
    place = layers.place_of(store, layer.id)
    modes = [stat.S_IMODE(os.stat(p).st_mode) for p in (place, place + b"/fs", place + b"/layer.json")]
    assert modes == [0o700, 0o755, 0o600]


def test_what_is_not_committed_leaves_nothing(store: Store) -> None:
    with lease(store) as held, layers.stage(store, None, held) as stage:
        os.mkdir(stage.path + b"/d")
    assert entries(store.tmp) == entries(store.layers) == entries(store.leases) == []
    stage.close()
    with pytest.raises(LaminaError, match="closed"):
        stage.commit(None, 0, 0)


def test_a_frozen_upper_has_a_random_id(store: Store) -> None:
    with lease(store) as held:
        one, other = make_layer(store, "a", held, frozen=True), make_layer(store, "a", held, frozen=True)
    assert one.id != other.id and {one.id[0], other.id[0]} == {"x"} and one.diff_id is None
    assert layers.find(store, one.id) == one


def test_who_comes_second_waits_until_the_first_ones_name_is_on_the_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one may be killed before he has come so far."""
    with lease(store) as held, layers.stage(store, A, held) as first, layers.stage(store, A, held) as second:
        first.commit(diff_id("a"), 1, 1)
        steps: list[str] = []
        monkeypatch.setattr(trace, "hook", steps.append)
        second.commit(diff_id("a"), 1, 1)
    assert "layer.sync-directory" in steps[steps.index("layer.rename") :]


def test_who_comes_second_uses_the_first_ones(store: Store) -> None:
    with lease(store) as held, layers.stage(store, A, held) as first, layers.stage(store, A, held) as second:
        Path(os.fsdecode(first.path), "mine").touch()
        made = first.commit(diff_id("a"), 1, 1)
        assert second.commit(diff_id("a"), 2, 2) == made
    assert os.listdir(made.path) == [b"mine"]
    assert entries(store.tmp) == []


def test_a_damaged_layer_is_replaced(store: Store) -> None:
    with lease(store) as held:
        layer = make_layer(store, "a", held)
        Path(os.fsdecode(layers.place_of(store, A)), "layer.json").write_text("{")
        with pytest.raises(Corrupt, match="not a record"):
            layers.find(store, A)
        again = make_layer(store, "a", held)
        assert again.id == layer.id and layers.find(store, A) == again
    assert entries(store.tmp) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "damaged: 'id'"),
        ('{"id":"%s","diff_id":"x","size":1,"inodes":1,"created":1,"driver":"d"}', "not a digest"),
        ('{"id":"%s","diff_id":null,"size":"a","inodes":1,"created":1,"driver":"d"}', "damaged"),
        ('{"id":"x1","diff_id":null,"size":1,"inodes":1,"created":1,"driver":"d"}', "that of x1"),
        (None, "no layer.json"),
    ],
)
def test_damage_is_said(store: Store, text: str | None, says: str) -> None:
    with lease(store) as held:
        make_layer(store, "a", held)
    file = Path(os.fsdecode(layers.place_of(store, A)), "layer.json")
    file.unlink()
    if text is not None:
        file.write_text(text.replace("%s", A))
    with pytest.raises(Corrupt, match=says):
        layers.find(store, A)


def test_another_digest_than_the_one_it_was_staged_for(store: Store) -> None:
    with lease(store) as held, layers.stage(store, A, held) as stage:
        with pytest.raises(InvalidInput, match="what was unpacked has the diff_id"):
            stage.commit(diff_id("b"), 1, 1)
        stage.commit(diff_id("a"), 1, 1)


@pytest.mark.parametrize(
    "text", ["", "a", "../" + "a" * 61, "X" + "a" * 63, "xx" + "a" * 62, "a" * 65, "a" * 63 + "/"]
)
def test_what_is_no_id_is_never_a_path(store: Store, text: str) -> None:
    with pytest.raises(InvalidInput):
        layers.find(store, text)
    with pytest.raises(InvalidInput), lease(store) as held:
        held.add_layer(text)


def test_diff_ids_are_sha256() -> None:
    with pytest.raises(InvalidInput, match="only sha256"):
        layers.layer_id("sha512:" + "a" * 128)


def test_a_stage_that_is_held_is_not_cleaned_up(store: Store) -> None:
    with lease(store) as held, layers.stage(store, A, held) as stage:
        burial.bury_all(store)
        assert os.path.isdir(stage.path)
        stage.commit(diff_id("a"), 0, 0)


def test_the_stage_of_one_who_was_killed_is_cleaned_up(store: Store) -> None:
    pid = os.fork()
    if not pid:
        try:
            with lease(store) as held:
                layers.stage(store, A, held)
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(entries(store.tmp)) == 1
    burial.bury_all(store)
    assert entries(store.tmp) == []


def test_a_child_does_not_keep_the_locks(store: Store) -> None:
    reading, writing = os.pipe()
    with lease(store) as held:
        claim = claims.claim(store, A)
        pid = os.fork()
        if not pid:
            os.close(writing)
            os.read(reading, 1)  # until the parent says so
            os._exit(0 if not claim._lock.held else 1)
        os.close(reading)
        claim.release()
        again = claims.try_claim(store, A)
        assert again is not None
        again.release()
        assert held.add_layer(A) is False
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_second_waits_for_the_claim(store: Store) -> None:
    order: list[str] = []

    def unpack() -> None:
        with claims.claim(store, A), lease(store) as held:
            if layers.find(store, A) is None:
                order.append("made")
                make_layer(store, "a", held)
            else:
                order.append("used")

    with claims.claim(store, A):
        assert claims.try_claim(store, A) is None
        threads = [threading.Thread(target=unpack) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert order == []
    for thread in threads:
        thread.join(100)
    assert sorted(order) == ["made", "used", "used", "used"]
    assert entries(store.claims) == []


def test_claims_of_digests_and_their_remains(store: Store) -> None:
    with claims.claim(store, diff_id("a")):
        claims.sweep(store)
        assert entries(store.claims) == [diff_id("a").replace(":", "-")]
    Path(os.fsdecode(store.claims), "left").touch()
    claims.sweep(store)
    assert entries(store.claims) == []
    with pytest.raises(InvalidInput):
        claims.claim(store, "../x")


def test_a_lease_that_has_ended_takes_nothing(store: Store) -> None:
    with lease(store) as held:
        pass
    with pytest.raises(LaminaError, match="ended"):
        held.add_layer(A)
    assert not isinstance(held, Conflict)
