"""Garbage collection: nothing that is referred to goes, nothing else stays."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Conflict, KernelError, NotFound
from lamina.store import blobs, containers, garbage, images, layers, lock, pins, sizes, tags, trace, volumes
from lamina.store.containers import Home
from lamina.store.images import ImageRecord
from lamina.store.leases import lease, leased
from lamina.store.prune import enforce, prune_images
from lamina.store.references import ContainerUses
from lamina.store.root import Store
from lamina.store.usage import Amount, df, total, walked
from support.stores import diff_id, entries, make_image, make_layer

A, B, C = (layers.layer_id(diff_id(text)) for text in "abc")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


def start(store: Store, record: ImageRecord, name: str = "c", **more: Any) -> Home:
    """What a start leaves: a container that is written down."""
    home, _ = containers.create(store, name)
    home.write(
        "container",
        {"id": home.id, "name": name, "image_id": record.id, "layers": list(record.layers), **more},
    )
    home.unmark()
    home.release()
    return home


def remove(home: Home) -> None:
    assert home.hold()
    home.discard(None)


def there(store: Store) -> set[str]:
    return set(layers.identities(store))


@pytest.mark.parametrize("dry", [False, True])
def test_nobody_waits_while_a_layer_is_counted_that_goes(
    store: Store, dry: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything written into one that goes."""
    with lease(store) as held, layers.stage(store, None, held) as stage:
        Path(os.fsdecode(stage.path), "file").write_text("abc")
        gone = stage.commit(None, None, None)
    counted = []

    def tree_size(path: bytes, *, strict: bool = True) -> tuple[int, int]:
        with lease(store):  # waits for the turn, if the collector has it
            counted.append(path)
        return sizes.tree_size(path, strict=strict)

    monkeypatch.setattr(garbage, "tree_size", tree_size)
    steps: list[str] = []
    monkeypatch.setattr(trace, "hook", steps.append)
    done = garbage.collect(store, dry=dry)
    assert (done.layers, done.freed, done.inodes, len(counted)) == ((gone.id,), 3, 1, 1)
    assert not [step for step in steps if step.startswith("layer-facts")]


def test_what_lies_deeper_than_a_path_can_say_is_counted(store: Store) -> None:
    """A container that dug so deep would use no room, as far as a limit of the store goes."""
    with lease(store) as held, layers.stage(store, None, held) as stage:
        here = os.open(stage.path, os.O_RDONLY)
        for _ in range(30):
            os.mkdir("d" * 255, dir_fd=here)
            above, here = here, os.open("d" * 255, os.O_RDONLY, dir_fd=here)
            os.close(above)
        file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
        os.ftruncate(file, 1000)
        os.close(file)
        os.close(here)
        stage.commit(None, None, None)
        assert total(store) == Amount(1000, 31)


def test_what_nothing_refers_to_goes(store: Store) -> None:
    record = make_image(store, "a", "b", names=("n/a:1",))
    with lease(store) as held:
        make_layer(store, "c", held)
        lonely = blobs.write_blob(store, b"lonely", held)
        assert garbage.collect(store).layers == ()
    done = garbage.collect(store)
    assert (done.layers, done.blobs, done.freed, done.inodes) == ((C,), (lonely,), 1 + 6, 2)
    assert there(store) == {A, B} and entries(store.tmp) == []
    assert garbage.collect(store).freed == 0
    images.remove(store, record.id)
    assert set(garbage.collect(store).layers) == {A, B}
    assert list(blobs.identities(store)) == [] == entries(store.images + b"/removed")


def test_a_layer_that_two_images_have_stays_for_the_other(store: Store) -> None:
    one, other = make_image(store, "a", "b"), make_image(store, "a", "c")
    images.remove(store, one.id)
    garbage.collect(store)
    assert there(store) == {A, C}
    assert images.get(store, other.id) == other


def test_a_container_keeps_the_layers_of_an_image_that_is_gone(store: Store) -> None:
    record = make_image(store, "a")
    home = start(store, record)
    images.remove(store, record.id)
    assert garbage.collect(store).layers == ()
    remove(home)
    assert garbage.collect(store).layers == (A,)


def test_a_start_keeps_what_it_reads(store: Store) -> None:
    record = make_image(store, "a")
    with images.hold(store, record.id):
        images.remove(store, record.id)
        assert garbage.collect(store).layers == ()
        assert garbage.collect(store).blobs == ()
        home = start(store, record)
    assert garbage.collect(store).layers == ()
    remove(home)
    assert garbage.collect(store).layers == (A,)


def test_a_start_of_what_was_replaced_keeps_it(store: Store) -> None:
    record = make_image(store, "a")
    with images.hold(store, record.id), lease(store) as held:
        images.put(store, record, lease=held)
        images.remove(store, record.id)
        held.close()
        assert garbage.collect(store).layers == ()


def test_a_start_whose_record_went_for_good_finds_that_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has opened the file, and before it locks it, the record is removed and collected."""
    from lamina.store import lock

    record, real = make_image(store, "a"), lock._flock

    def meanwhile(fd: int, how: int, wait: bool) -> bool:
        monkeypatch.setattr(lock, "_flock", real)
        images.remove(store, record.id)
        assert garbage.collect(store).layers == (A,)
        return real(fd, how, wait)

    monkeypatch.setattr(lock, "_flock", meanwhile)
    with pytest.raises(NotFound):
        images.hold(store, record.id)


@pytest.mark.parametrize("what", ["container", "image", "lease"])
def test_as_long_as_something_cannot_be_read_nothing_goes(store: Store, what: str) -> None:
    record = make_image(store, "a")
    home = start(store, make_image(store, "b"))
    with lease(store) as held:
        make_layer(store, "c", held)
    with lease(store) as held:
        path = {
            "container": home.path + b"/container.json",
            "image": images.place_of(store, record.id),
            "lease": held.path,
        }[what]
        Path(os.fsdecode(path)).write_text("{torn")
        done = garbage.collect(store, explain=True)
    assert done.layers == () and there(store) == {A, B, C}
    assert any("anything may use it" in kept.because[0] for kept in done.kept if kept.id == C)


def test_no_room_for_a_line_of_a_lease_leaves_nothing_of_it(store: Store) -> None:
    """The next line is not spoilt, nor does the collector find what nobody wrote."""
    with lease(store) as held:
        held.add_layer(A)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(held.path).st_size + 20, before[1]))
        try:
            with pytest.raises(KernelError):
                held.add_layer(B)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        held.add_layer(C)
        assert leased(store)[0]["layer"] == {A, C}


def test_what_those_left_who_were_killed(store: Store) -> None:
    pid = os.fork()
    if not pid:
        try:
            with lease(store) as held:
                make_layer(store, "a", held)
                blobs.BlobWriter(store, None, None, held).write(b"x")
                broken = blobs.BlobWriter(store, diff_id("later"), None, held)
                broken.write(b"part")
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    Path(os.fsdecode(store.images), "records", "0" * 64 + ".json.new").write_text("torn")
    Path(os.fsdecode(store.claims), "0" * 64).touch()
    done = garbage.collect(store, explain=True)
    assert done.layers == (A,) and done.leftovers == 2
    assert [kept.because for kept in done.kept] == [("it broke off, and can be resumed",)]
    assert entries(store.leases) == entries(store.claims) == entries(store.images + b"/records") == []
    assert garbage.collect(store, partial_age=0).freed == 4
    assert entries(store.blobs + b"/partial") == []


def test_a_download_that_ends_meanwhile_is_none_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is opened by the collector, and then becomes a blob before it is locked."""
    with lease(store) as held, blobs.BlobWriter(store, None, None, held) as writer:
        writer.write(b"content")
        real, done = lock._flock, list[str]()

        def commit_first(fd: int, how: int, wait: bool) -> bool:
            if not done and os.path.samestat(os.fstat(fd), os.stat(writer.path)):
                done.append(writer.commit())
            return real(fd, how, wait)

        monkeypatch.setattr(lock, "_flock", commit_first)
        assert garbage.collect(store).leftovers == 0
        assert blobs.read_blob(store, done[0], 100) == b"content"


def test_a_dry_run_says_the_same_and_does_nothing(store: Store) -> None:
    record = make_image(store, "a", "b")
    images.remove(store, record.id)
    with lease(store) as held:
        make_layer(store, "c", held)
    before = sorted(Path(os.fsdecode(store.path)).rglob("*"))
    dry = garbage.collect(store, dry=True)
    assert sorted(Path(os.fsdecode(store.path)).rglob("*")) == before
    done = garbage.collect(store)
    assert (dry.freed, dry.inodes, dry.layers, dry.blobs) == (
        done.freed,
        done.inodes,
        done.layers,
        done.blobs,
    )


def test_it_is_explained_why_something_stays(store: Store) -> None:
    record = make_image(store, "a", "b", names=("docker.io/library/debian:12",))
    start(store, record, "brave")
    pins.pin(store, record.id)
    nameless = make_image(store, "b", "c")
    with lease(store) as held:
        held.add_layer(A)
        kept = {one.id: one for one in garbage.collect(store, explain=True).kept}
    assert kept[A].because == ("somebody is about to use it", f"image {record.id[:12]}", "container brave")
    assert set(kept[B].because) == {f"image {record.id[:12]}", f"image {nameless.id[:12]}", "container brave"}
    assert kept[record.id].because == ("named docker.io/library/debian:12", "pinned", "container brave")
    assert "without a name" in kept[nameless.id].because[0]
    assert kept[A].size == 1 and {one.kind for one in kept.values()} == {"image", "layer", "blob"}
    assert all(one.because for one in kept.values())


class TestPrune:
    def test_images_without_a_name(self, store: Store) -> None:
        named, nameless = make_image(store, "a", names=("n/a:1",)), make_image(store, "b")
        assert [gone.id for gone in prune_images(store)] == [nameless.id]
        gone = prune_images(store, everything=True)
        assert [(one.id, one.names) for one in gone] == [(named.id, ("n/a:1",))]
        assert images.identities(store) == []

    def test_what_is_used_pinned_or_wanted_stays(self, store: Store) -> None:
        used, pinned, held, kept, loose = (make_image(store, text) for text in "abcde")
        start(store, used)
        pins.pin(store, pinned.id)
        with lease(store) as own, images.hold(store, kept.id):
            own.add_image(held.id)
            assert [one.id for one in prune_images(store, everything=True)] == [loose.id]
        wanted = prune_images(store, everything=True, wanted=lambda record: record.id != held.id)
        assert [one.id for one in wanted] == [kept.id]

    def test_an_image_that_is_used_is_not_removed_unless_forced(self, store: Store) -> None:
        record = make_image(store, "a", names=("n/a:1",))
        home = start(store, record, "brave")
        with pytest.raises(Conflict, match=r"used by 1 container \(brave\)"):
            images.remove(store, record.id, unless_used=ContainerUses(store))
        with images.hold(store, record.id), pytest.raises(Conflict, match="being started"):
            images.remove(store, record.id, unless_used=ContainerUses(store))
        assert tags.named(store, "n/a:1") == record.id
        remove(home)
        assert images.remove(store, record.id, unless_used=ContainerUses(store)) == ["n/a:1"]


class TestLimit:
    def use(self, store: Store, *order: ImageRecord) -> None:
        for when, record in enumerate(order):
            os.utime(images.place_of(store, record.id), ns=(when, when))

    def test_the_longest_unused_goes_first(self, store: Store) -> None:
        a, b, c = (make_image(store, text, size=1000) for text in "abc")
        self.use(store, b, c, a)
        before = total(store)
        done = enforce(store, before.bytes - 1)
        assert [gone.id for gone in done.images] == [b.id] and done.over == 0
        assert done.freed == before.bytes - done.amount.bytes > 1000
        assert there(store) == {A, C}
        assert enforce(store, 10**9).images == ()
        assert [gone.id for gone in enforce(store, 1000).images] == [c.id, a.id]

    def test_garbage_goes_before_images(self, store: Store) -> None:
        make_image(store, "a", size=1000)
        with lease(store) as held:
            make_layer(store, "b", held, size=5000)
        done = enforce(store, 2000)
        assert done.images == () and done.freed == 5000

    def test_pinned_and_used_ones_stay_and_it_is_said(self, store: Store) -> None:
        a, b, c = (make_image(store, text, size=1000) for text in "abc")
        pins.pin(store, a.id)
        start(store, b)
        done = enforce(store, 0)
        assert [gone.id for gone in done.images] == [c.id]
        assert done.over == done.amount.bytes == total(store).bytes > 2000

    def test_layers_that_others_have_count_once_they_all_go(self, store: Store) -> None:
        a, b = make_image(store, "a", size=10_000), make_image(store, "a", config="other", size=10_000)
        c = make_image(store, "c", size=10_000)
        self.use(store, a, b, c)
        assert [gone.id for gone in enforce(store, 15_000).images] == [a.id, b.id]


class TestUsage:
    def test_shared_unique_and_reclaimable(self, store: Store) -> None:
        one = make_image(store, "a", "b", names=("n/one:1",), size=100)
        other = make_image(store, "a", "c", "c", size=100)
        start(store, one, "brave")
        found = df(store)
        uses = {use.id: use for use in found.images}
        assert uses[one.id].names == ("n/one:1",) and uses[one.id].containers == ("brave",)
        assert uses[one.id].shared == Amount(100, 1) and uses[one.id].unique == Amount(100, 1)
        assert uses[other.id].unique == Amount(100, 1)
        of = {use.id: use for use in found.layers}
        assert set(of[A].images) == {one.id, other.id} and of[A].containers == ("brave",)
        assert [use.reclaimable for use in (of[A], of[B], of[C])] == [False, False, True]
        totals = {line.kind: line for line in found.totals}
        line = totals["Images"]
        assert (line.count, line.active, line.amount, line.reclaimable) == (
            2,
            1,
            Amount(300, 3),
            Amount(100, 1),
        )
        assert totals["Containers"].count == 1
        assert totals["Blobs"].amount.bytes == sum(
            blobs.size_of(store, blob) or 0 for blob in blobs.identities(store)
        )

    def test_what_is_reclaimable_is_what_a_prune_frees(self, store: Store) -> None:
        start(store, make_image(store, "a", "b", size=7), "brave")
        make_image(store, "a", "c", size=7)
        pins.pin(store, make_image(store, "d", size=7).id)
        lines = {line.kind: line for line in df(store).totals}
        prune_images(store, everything=True)
        freed = garbage.collect(store)
        assert freed.freed == lines["Images"].reclaimable.bytes + lines["Blobs"].reclaimable.bytes > 0
        assert freed.inodes == lines["Images"].reclaimable.inodes + lines["Blobs"].reclaimable.inodes

    def test_directories_are_walked_on_request(self, store: Store) -> None:
        record = make_image(store, "a")
        volume = volumes.create(store, "data")
        Path(os.fsdecode(volume.path), "f").write_text("x" * 50)
        os.link(volume.path + b"/f", volume.path + b"/g")
        home = start(store, record, "brave", volumes=[{"name": "data", "target": "/d"}])
        assert df(store).volumes == ()
        found = df(store, walk=True)
        assert [(use.name, use.amount, use.users, use.reclaimable) for use in found.volumes] == [
            ("data", Amount(50, 1), ("brave",), False)
        ]
        assert [use.name for use in found.containers] == ["brave"]
        remove(home)
        assert df(store, walk=True).volumes[0].reclaimable

    def test_a_tree_that_goes_away_meanwhile_counts_as_nothing(self, tmp_path: Path) -> None:
        assert walked(os.fsencode(tmp_path / "none")) == Amount()


class TestVolumes:
    def test_made_found_and_removed(self, store: Store) -> None:
        made = volumes.create(store, "data", {"a": "b"})
        assert volumes.find(store, "data") == made and made.path == volumes.data_of(store, "data")
        assert volumes.create(store, "data", {"other": "label"}) == made
        assert os.stat(made.path).st_mode & 0o777 == 0o755
        assert os.stat(volumes.place_of(store, "data")).st_mode & 0o777 == 0o700
        random = volumes.create(store, anonymous=True)
        assert volumes.identities(store) == sorted(["data", random.name])
        volumes.remove(store, "data")
        assert volumes.find(store, "data") is None and entries(store.tmp) == []
        with pytest.raises(NotFound):
            volumes.remove(store, "data")

    def test_what_is_used_stays(self, store: Store) -> None:
        record = make_image(store, "a")
        volumes.create(store, "data")
        home = start(store, record, "brave", volumes=[{"name": "data"}, {"source": "/x"}])
        uses = ContainerUses(store)
        with pytest.raises(Conflict, match="in use by brave"):
            volumes.remove(store, "data", unless_used=uses)
        remove(home)
        with volumes.hold(store, "data"), pytest.raises(Conflict, match="being started"):
            volumes.remove(store, "data", unless_used=uses)
        volumes.remove(store, "data", unless_used=uses)

    def test_held_and_made_at_once(self, store: Store) -> None:
        with pytest.raises(NotFound):
            volumes.hold(store, "data")
        with volumes.hold(store, "data", create=True, labels={"x": "y"}, anonymous=True):
            found = volumes.find(store, "data")
        assert found is not None and found.labels == {"x": "y"} and found.anonymous

    def test_pruning_leaves_those_that_somebody_named(self, store: Store) -> None:
        uses = ContainerUses(store).refresh()
        volumes.create(store, "data")
        anonymous = volumes.create(store, anonymous=True)
        assert volumes.prune(store, uses) == [anonymous.name]
        assert volumes.prune(store, uses, named=True) == ["data"]

    @pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a b", "a\n", "ä", "x" * 129])
    def test_what_is_no_name_is_never_a_path(self, store: Store, name: str) -> None:
        acts: list[Callable[[Store, str], object]] = [
            volumes.create, volumes.find, volumes.hold, volumes.remove, volumes.data_of,
        ]  # fmt: skip
        for act in acts:
            with pytest.raises(ValueError, match="not a valid name"):
                act(store, name)
