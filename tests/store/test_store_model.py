"""The store against a model of it: names, records, leases, containers and collections in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lamina.errors import Conflict, NotFound
from lamina.store import blobs, containers, garbage, images, layers, pins, tags
from lamina.store.check import check
from lamina.store.containers import Home
from lamina.store.leases import Lease, lease
from lamina.store.prune import enforce, prune_images
from lamina.store.references import ContainerUses
from lamina.store.root import Store
from lamina.store.usage import df
from support.stores import diff_id, in_memory, make_layer, record_of

TEXTS = "abcd"
NAMES = tuple(f"docker.io/library/{name}:latest" for name in ("one", "two", "three"))
texts = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True).map(tuple)
names = st.sampled_from(NAMES)
Texts = tuple[str, ...]


def layer(text: str) -> str:
    return layers.layer_id(diff_id(text))


class StoreMachine(RuleBasedStateMachine):
    """`images` maps the texts of an image to its id; what must be there is what these, containers and leases have."""

    below: Path

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=self.below))
        self.store = Store(self.place / "s")
        self.images: dict[Texts, str] = {}
        self.names: dict[str, Texts] = {}
        self.pinned: set[Texts] = set()
        self.containers: list[tuple[Home, Texts]] = []
        self.starting: list[tuple[images.Held, Texts]] = []
        self.leases: list[tuple[Lease, Texts]] = []

    def teardown(self) -> None:
        for held, _ in self.starting:
            held.release()
        for own, _ in self.leases:
            own.close()
        shutil.rmtree(self.place)

    def kept(self) -> set[str]:
        """The layers that must be there, whatever is collected."""
        holders = (*self.containers, *self.starting, *self.leases)
        return {layer(text) for found in (*self.images, *(texts for _, texts in holders)) for text in found}

    def used(self, found: Texts) -> bool:
        return any(texts == found for _, texts in (*self.containers, *self.starting))

    def drop(self, found: Texts) -> None:
        del self.images[found]
        self.pinned.discard(found)
        self.names = {name: texts for name, texts in self.names.items() if texts != found}

    @rule(found=texts, given=st.sets(names, max_size=2))
    def pull(self, found: Texts, given: set[str]) -> None:
        with lease(self.store) as held:
            made = [make_layer(self.store, text, held) for text in found]
            config = blobs.write_blob(self.store, repr(found).encode(), held)
            record = images.put(self.store, record_of(config, made, (config,)), given, lease=held)
        self.images[found] = record.id
        self.names.update(dict.fromkeys(given, found))

    @precondition(lambda self: self.images)
    @rule(data=st.data(), name=names)
    def tag(self, data: st.DataObject, name: str) -> None:
        found = data.draw(st.sampled_from(sorted(self.images)))
        tags.tag(self.store, name, self.images[found])
        self.names[name] = found

    @rule(name=names)
    def untag(self, name: str) -> None:
        try:
            identity = tags.untag(self.store, name)
        except NotFound:
            assert name not in self.names
        else:
            assert identity == self.images[self.names.pop(name)]

    @precondition(lambda self: self.images)
    @rule(data=st.data(), forced=st.booleans())
    def remove(self, data: st.DataObject, forced: bool) -> None:
        found = data.draw(st.sampled_from(sorted(self.images)))
        expected = sorted(name for name, texts in self.names.items() if texts == found)
        try:
            uses = None if forced else ContainerUses(self.store)
            assert sorted(images.remove(self.store, self.images[found], unless_used=uses)) == expected
        except Conflict:
            assert not forced and self.used(found)
        else:
            self.drop(found)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), pinned=st.booleans())
    def pin(self, data: st.DataObject, pinned: bool) -> None:
        found = data.draw(st.sampled_from(sorted(self.images)))
        pins.pin(self.store, self.images[found], pinned)
        (self.pinned.add if pinned else self.pinned.discard)(found)

    @precondition(lambda self: self.images)
    @rule(data=st.data())
    def begin_start(self, data: st.DataObject) -> None:
        found = data.draw(st.sampled_from(sorted(self.images)))
        self.starting.append((images.hold(self.store, self.images[found]), found))

    @precondition(lambda self: self.starting)
    @rule(died=st.booleans())
    def end_start(self, died: bool) -> None:
        held, found = self.starting.pop()
        if not died:
            home, name = containers.create(self.store, None)
            record = {
                "id": home.id,
                "name": name,
                "image_id": held.record.id,
                "layers": list(held.record.layers),
            }
            home.write("container", record)
            home.unmark()
            home.release()
            self.containers.append((home, found))
        held.release()

    @precondition(lambda self: self.containers)
    @rule()
    def rm(self) -> None:
        home, _ = self.containers.pop()
        assert home.hold()
        home.discard(None)

    @rule(found=texts)
    def begin_pull(self, found: Texts) -> None:
        own = Lease(self.store)
        for text in found:
            if not own.add_layer(layer(text)):
                make_layer(self.store, text, own)
        self.leases.append((own, found))

    @precondition(lambda self: self.leases)
    @rule()
    def break_off_pull(self) -> None:
        self.leases.pop()[0].close()

    @rule()
    def collect(self) -> None:
        reclaimable = {use.id for use in df(self.store).layers} - self.kept()
        done = garbage.collect(self.store)
        assert set(done.layers) == reclaimable
        assert set(layers.identities(self.store)) == self.kept()

    @rule(everything=st.booleans())
    def prune(self, everything: bool) -> None:
        named = set(self.names.values())
        wanted = {
            found
            for found in self.images
            if not self.used(found) and found not in self.pinned and (everything or found not in named)
        }
        gone = {one.id for one in prune_images(self.store, everything=everything)}
        assert gone == {self.images[found] for found in wanted}
        for found in wanted:
            self.drop(found)

    @rule()
    def evict_all(self) -> None:
        done = enforce(self.store, 0)
        for found in [found for found in self.images if not self.used(found) and found not in self.pinned]:
            assert any(one.id == self.images[found] for one in done.images)
            self.drop(found)
        assert set(layers.identities(self.store)) == self.kept()

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        assert set(images.identities(self.store)) == set(self.images.values())
        known = {found.name: found.id for found in tags.list_names(self.store)}
        assert known == {name: self.images[found] for name, found in self.names.items()}
        for found, identity in self.images.items():
            record = images.get(self.store, identity)
            assert record is not None and record.layers == tuple(map(layer, found))
            assert record.pinned == (found in self.pinned)
        assert self.kept() <= set(layers.identities(self.store))

    @invariant()
    def nothing_is_damaged(self) -> None:
        assert [found for found in check(self.store).findings if found.severity == "damaged"] == []


def as_the_model(place: Path) -> None:
    class There(StoreMachine):
        below = place

    run_state_machine_as_test(
        There, settings=settings(max_examples=25, stateful_step_count=30, deadline=None)
    )


def test_the_store_is_as_its_model(tmp_path: Path) -> None:
    in_memory(as_the_model, tmp_path)
