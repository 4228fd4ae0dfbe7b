"""Records of snapshots: written, found, damaged, removed; and that the collector knows them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.store import containers, garbage, layers, sizes, snapshots
from lamina.store.check import check
from lamina.store.containers import Home
from lamina.store.leases import lease
from lamina.store.references import ContainerUses
from lamina.store.root import Store
from lamina.store.snapshots import PlaceState, SnapshotRecord
from support.stores import make_layer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def home(store: Store) -> Home:
    home, _ = containers.create(store, "box")
    home.write("container", {"id": home.id, "name": "box", "image": "host", "command": ["x"], "created": 1})
    home.unmark()
    return home


def made(home: Home, digit: str = "1", **facts: Any) -> SnapshotRecord:
    facts = {"places": (PlaceState(b"/", ()),), "created": int(digit, 16), **facts}
    kept = SnapshotRecord(id=digit * 64, container=home.id, **facts)
    with snapshots.turn(home):
        snapshots.put(home, kept)
    return kept


def path_of(home: Home, digit: str) -> Path:
    return Path(os.fsdecode(snapshots.directory_of(home))) / f"{digit * 64}.json"


def test_a_record_comes_back_as_it_was(home: Home) -> None:
    x = "x" + "1" * 63
    kept = made(
        home, "1", name="step-1", message="é\n", command=("sh", "-c", "a\udc80"), base_layers=("a" * 64,),
        places=(PlaceState(b"/", (x,), x), PlaceState(b"/m\xff", ())), image="tiny", image_id="b" * 64,
        config={"env": []}, volatile=True,
    )  # fmt: skip
    assert snapshots.get(home, kept.id) == kept
    assert kept.layers == ("a" * 64, x)
    assert (kept.new, kept.chain) == ((x,), {b"/": (x,), b"/m\xff": ()})
    for reference in ("step-1", kept.id, "11"):
        assert snapshots.find(home, reference) == kept


def test_names_are_unique_and_free_again(home: Home) -> None:
    first = made(home, "1", name="step")
    with pytest.raises(Conflict, match="has that name"):
        snapshots.check_name(home, "step")
    with pytest.raises(Conflict, match="has that name"):
        made(home, "2", name="step")
    for wrong in ("", "a/b", "../x", "-a", "a@b", "x" * 129):
        with pytest.raises(InvalidInput):
            snapshots.check_name(home, wrong)
    with snapshots.turn(home):
        snapshots.remove(home, first)
    assert snapshots.check_name(home, "step") == "step"
    path_of(home, "1").parent.joinpath("names/idle").symlink_to("7" * 64)
    assert (snapshots.check_name(home, "idle"), snapshots.idle_names(home)) == ("idle", ["idle"])
    made(home, "3", name="idle")
    assert snapshots.find(home, "idle").id == "3" * 64


def test_what_came_from_one_that_is_removed_comes_from_its_parent(home: Home) -> None:
    one, two, three = made(home, "1"), made(home, "2", parent="1" * 64), made(home, "3", parent="2" * 64)
    home.write("container", {**home.asked(), "snapshot": three.id})
    with snapshots.turn(home):
        snapshots.remove(home, two)
    assert [kept.parent for kept in snapshots.all_of(home)] == [None, one.id]
    with snapshots.turn(home):
        snapshots.remove(home, three)
    assert snapshots.current(home, home.asked()) == one.id
    made(home, "4", parent=three.id)
    home.write("container", {**home.asked(), "snapshot": one.id})
    with snapshots.turn(home):
        snapshots.forget_gone(home)
    assert json.loads(path_of(home, "4").read_text())["parent"] == one.id
    with snapshots.turn(home):
        snapshots.remove(home, one)
    assert (snapshots.current(home, home.asked()), snapshots.all_of(home)[0].parent) == (None, None)


def test_references_are_no_paths(home: Home) -> None:
    made(home, "1")
    made(home, "2")
    for wrong in ("", "../container", "/etc/passwd", "3", "none", "\0", "é", "x" * 5000):
        with pytest.raises(NotFound, match="has none of that name"):
            snapshots.find(home, wrong)
    path_of(home, "1").with_name("1" * 63 + "2.json").write_text("{}")
    with pytest.raises(InvalidInput, match="multiple IDs found"):
        snapshots.find(home, "11")


@pytest.mark.parametrize(
    "damage",
    [
        "", "[]", "{", "{}", {"id": "2" * 64}, {"container": "2" * 64}, {"created": "now"}, {"places": "/"},
        {"places": [{"at": "/"}]}, {"places": [{"at": "/", "layers": ["../../x"]}]}, {"places": [7]},
        {"parent": "../x"}, {"name": "../x"}, {"base_layers": ["nosuch"]}, {"command": {}},
    ],
)  # fmt: skip
def test_a_damaged_record_is_said_to_be_damaged_and_keeps_everything(home: Home, damage: Any) -> None:
    kept = made(home, "1")
    place = path_of(home, "1")
    whole = json.loads(place.read_text())
    place.write_text(json.dumps({**whole, **damage}) if isinstance(damage, dict) and damage else str(damage))
    with pytest.raises(Corrupt):
        snapshots.get(home, kept.id)
    with lease(home.store) as held:
        lost = make_layer(home.store, "lost", held, frozen=True)
    assert garbage.collect(home.store).layers == ()
    found = [one for one in check(home.store).findings if one.kind == "snapshot"]
    assert [(one.severity, one.what) for one in found] == [("damaged", "box@111111111111")]
    assert check(home.store, repair=True).clean
    assert snapshots.identities(home) == []
    assert garbage.collect(home.store).layers == () and layers.find(home.store, lost.id) is None


def test_layers_stay_as_long_as_a_snapshot_refers_to_them(store: Store, home: Home) -> None:
    with lease(store) as held:
        layer = make_layer(store, "one", held, frozen=True)
        gone = make_layer(store, "two", held, frozen=True)
        kept = made(home, "1", places=(PlaceState(b"/", (layer.id,), layer.id),))
    uses = ContainerUses(store).refresh()
    assert [use.layers for use in uses] == [(layer.id,)]
    done = garbage.collect(store, explain=True)
    assert done.layers == (gone.id,)
    assert [one.because for one in done.kept if one.id == layer.id] == [("container box",)]
    with snapshots.turn(home):
        snapshots.remove(home, kept)
    assert [use.layers for use in uses.refresh()] == [()]
    assert garbage.collect(store).layers == (layer.id,)


def test_a_snapshot_whose_layer_is_gone_is_damaged(store: Store, home: Home) -> None:
    made(home, "1", name="one", places=(PlaceState(b"/", ("x" + "5" * 63,)),))
    found = check(store, repair=True).findings
    assert [(one.severity, one.kind, one.repaired) for one in found] == [
        ("damaged", "snapshot", True),
        ("left over", "snapshot", True),
    ]
    assert check(store).findings == ()


def test_a_size_is_counted_once(store: Store) -> None:
    with lease(store) as held:
        layer = make_layer(store, "hello", held, frozen=True)
    sizes.amend(store, layer.id, lambda facts: {**facts, "size": None, "inodes": None})
    found = layers.find(store, layer.id)
    assert found is not None and (found.counted, found.size) == (False, 0)
    assert garbage.size_of_layer(store, layer.id) == (5, 1)
    os.unlink(layer.path + b"/file")  # nobody looks again
    assert garbage.size_of_layer(store, layer.id) == (5, 1)
    with pytest.raises(NotFound):
        sizes.amend(store, "x" + "7" * 63, lambda facts: facts)


def test_snapshots_go_with_their_container(store: Store, home: Home) -> None:
    made(home, "1", name="one")
    home.discard("box")
    assert (os.listdir(store.containers), os.listdir(store.tmp)) == ([], [])
    with pytest.raises(NotFound):
        snapshots.turn(Home(store, home.id))
