"""The check: every kind of damage is found, said, and mended without touching what a container is over."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.store import blobs, images, layers, tags, volumes
from lamina.store.check import DAMAGED, LEFT_OVER, Checked, check
from lamina.store.containers import Home, create
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.root import Store
from lamina.store.seal import tree_digest
from lamina.store.tree import remove_tree
from support.namespaces import in_mount_namespace
from support.stores import diff_id, entries, make_image, make_layer

A, B = (layers.layer_id(diff_id(text)) for text in "ab")
NAME = "docker.io/library/debian:12"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


@pytest.fixture
def image(store: Store) -> ImageRecord:
    return make_image(store, "a", "b", names=(NAME,))


def path(text: bytes) -> Path:
    return Path(os.fsdecode(text))


def over(store: Store, record: ImageRecord, name: str = "brave") -> Home:
    home, _ = create(store, name)
    home.write(
        "container", {"id": home.id, "name": name, "image_id": record.id, "layers": list(record.layers)}
    )
    home.unmark()
    home.release()
    return home


def said(checked: Checked) -> list[tuple[str, str, str]]:
    return [(found.severity, found.kind, found.problem) for found in checked.findings]


def test_a_store_without_fault(store: Store, image: ImageRecord) -> None:
    over(store, image)
    volumes.create(store, "data")
    done = check(store, rehash=True)
    assert done.findings == () and done.clean
    assert (done.layers, done.blobs, done.images, done.containers, done.volumes) == (2, 3, 1, 1, 1)
    assert (done.proven, done.sealed) == (3, 2)
    again = check(store, rehash=True)
    assert (again.proven, again.sealed) == (5, 0) and again.clean


def test_an_empty_store_and_one_just_opened(store: Store) -> None:
    assert check(store).findings == ()


Damage = Callable[[Store, ImageRecord], object]


def _blob_is_a_directory(store: Store, image: ImageRecord) -> None:
    _blob(store, image).unlink()
    _blob(store, image).mkdir()


def _volume_without(name: str) -> Damage:
    def damage(store: Store, image: ImageRecord) -> None:
        volumes.create(store, "v")
        path(volumes.place_of(store, "v") + b"/" + name.encode()).rename(path(store.tmp) / "x")

    return damage


def _blob(store: Store, image: ImageRecord) -> Path:
    return path(blobs.place_of(store, image.blobs[1]))


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "layer.json is torn": (
        lambda s, i: path(layers.place_of(s, A) + b"/layer.json").write_text("{"), "layer", "not a record"),
    "layer.json is missing": (
        lambda s, i: path(layers.place_of(s, A) + b"/layer.json").unlink(), "layer", "no layer.json"),
    "a tree is missing": (
        lambda s, i: path(layers.tree_of(s, A)).rename(path(s.tmp) / "x"), "layer", "its tree is missing"),
    "a layer is missing": (
        lambda s, i: path(layers.place_of(s, A)).rename(path(s.tmp) / "x"), "image", "of it is missing"),
    "a blob is missing": (lambda s, i: _blob(s, i).unlink(), "image", "of it is missing"),
    "a blob is a directory": (_blob_is_a_directory, "blob", "no file"),
    "a record is torn": (
        lambda s, i: path(images.place_of(s, i.id)).write_text('{"id"'), "image", "not a record"),
    "a name is torn": (
        lambda s, i: path(s.images + b"/names/" + tags.file_of(NAME)).write_text("x"), "name", "not a record"),
    "a directory is missing": (lambda s, i: path(s.claims).rmdir(), "store", "missing"),
    "a directory is open to all": (lambda s, i: path(s.layers).chmod(0o755), "store", "its mode is 755"),
    "a volume is not described": (
        _volume_without("volume.json"),
        "volume", "no volume.json"),
    "a volume has no data": (
        _volume_without("_data"), "volume", "data is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_found_and_mended(store: Store, image: ImageRecord, what: str) -> None:
    damage, kind, problem = DAMAGES[what]
    damage(store, image)
    found = check(store)
    hits = [one for one in found.findings if one.severity == DAMAGED and one.kind == kind]
    assert len(hits) == 1 and problem in hits[0].problem and hits[0].remedy and not hits[0].repaired, found
    assert not found.clean
    mended = check(store, repair=True)
    assert mended.clean, mended
    assert check(store).findings == ()
    make_image(store, "a", "b", names=(NAME,))  # what pulling again does
    assert images.get(store, image.id) is not None and layers.find(store, A) is not None
    assert check(store, rehash=True).findings == ()


def test_other_bytes_are_found_by_hashing_only(store: Store, image: ImageRecord) -> None:
    check(store, rehash=True)
    path(layers.tree_of(store, A) + b"/file").write_text("x")
    _blob(store, image).write_text("damaged")
    assert check(store).clean
    found = check(store, rehash=True)
    assert sorted(said(found)) == [
        (DAMAGED, "blob", next(one.problem for one in found.findings if one.kind == "blob")),
        (DAMAGED, "layer", "its content is not what was unpacked"),
    ]
    assert check(store, rehash=True, repair=True).clean
    assert check(store, rehash=True).findings == () and not layers.is_there(store, A)


def test_whoever_can_prove_a_layer_is_asked(store: Store, image: ImageRecord) -> None:
    done = check(store, rehash=True, prove=lambda layer: layer.id != A)
    assert done.sealed == 1 and [one.what for one in done.findings] == [A]
    assert check(store, rehash=True, prove=lambda layer: None).sealed == 1


def test_a_layer_whose_archive_is_right_is_compared_with_its_seal_all_the_same(
    store: Store, image: ImageRecord
) -> None:
    check(store, rehash=True, prove=lambda layer: True)
    path(layers.tree_of(store, A) + b"/file").chmod(0o4755)
    found = check(store, rehash=True, prove=lambda layer: True)
    assert [(one.kind, one.what) for one in found.findings] == [("layer", A)]


def test_a_layer_that_a_container_is_over_is_not_taken_away(store: Store, image: ImageRecord) -> None:
    over(store, image)
    path(layers.place_of(store, A) + b"/layer.json").unlink()
    assert check(store, repair=True).clean
    mended = layers.find(store, A)
    assert mended is not None and mended.diff_id == diff_id("a") and mended.size == 1
    check(store, rehash=True)
    path(layers.tree_of(store, A) + b"/file").write_text("x")
    found = check(store, rehash=True, repair=True)
    assert not found.clean and layers.is_there(store, A)
    assert found.findings[0].remedy == "remove the containers over it: brave"


def test_containers_whose_layers_are_gone_are_named(store: Store, image: ImageRecord) -> None:
    home = over(store, image)
    path(layers.place_of(store, B)).rename(path(store.tmp) / "x")
    found = [one for one in check(store).findings if one.kind == "container"]
    assert [(one.what, one.remedy) for one in found] == [("brave", "lamina rm -f brave")]
    path(home.path + b"/container.json").write_text("{")
    found = [one for one in check(store).findings if one.kind == "container"]
    assert [one.problem for one in found] == ["its record cannot be read"]


def test_what_is_left_over_is_no_damage(store: Store, image: ImageRecord) -> None:
    with lease(store) as held:
        lonely = make_layer(store, "c", held)
    (path(store.layers) / "junk").mkdir()
    (path(store.blobs) / "sha256" / "junk").write_text("")
    (path(store.tmp) / "left").mkdir()
    (path(store.tmp) / "file").touch()
    (path(store.leases) / ("0" * 64)).touch()
    (path(store.claims) / ("0" * 64)).touch()
    (path(store.images) / "removed" / ("0" * 64 + ".json.1")).touch()
    found = check(store)
    assert {one.severity for one in found.findings} == {LEFT_OVER}
    assert {one.what for one in found.findings} >= {lonely.id, "junk", "sha256:junk", "tmp/left"}
    assert len(found.findings) == 8
    assert check(store, repair=True).clean and check(store).findings == ()
    assert images.get(store, image.id) == image


def test_what_somebody_works_on_is_not_left_over(store: Store) -> None:
    from lamina.store import claims

    with lease(store) as held, claims.claim(store, A), layers.stage(store, A, held):
        assert check(store).findings == ()
        assert check(store, repair=True).findings == ()
    assert entries(store.tmp) == []


@pytest.mark.root
def test_mounts_that_are_left_over(store: Store, image: ImageRecord) -> None:
    def look() -> tuple[Checked, Checked]:
        from lamina.linux.mount import mount

        mount("tmpfs", layers.tree_of(store, A), "tmpfs")
        before = check(store)
        check(store, repair=True)
        return before, check(store)

    before, after = in_mount_namespace(look)
    assert said(before) == [(LEFT_OVER, "mount", "mounted here (tmpfs)")] and after.findings == ()


class TestSeal:
    def test_it_is_the_same_wherever_the_tree_lies(self, tmp_path: Path) -> None:
        digests = set()
        for place in ("one", "other/deep"):
            top = tmp_path / place
            top.mkdir(parents=True)
            for name in ("b", "a") if place == "one" else ("a", "b"):  # made in another order
                (top / name).write_text(name)
            os.link(top / "a", top / "c")
            (top / "l").symlink_to("a")
            os.mkfifo(top / "p")
            for entry in (*top.iterdir(), top):
                os.utime(entry, ns=(1, 1), follow_symlinks=False)
            digests.add(tree_digest(os.fsencode(top)))
        assert len(digests) == 1

    def test_a_tree_may_be_deeper_than_a_program_has_calls(self, tmp_path: Path) -> None:
        """As a container can make it."""
        top = os.open(tmp_path, os.O_RDONLY)
        for _ in range(2000):
            os.mkdir("d", dir_fd=top)
            above, top = top, os.open("d", os.O_RDONLY, dir_fd=top)
            os.close(above)
        before = tree_digest(os.fsencode(tmp_path))
        os.mkdir("d", dir_fd=top)
        os.close(top)
        assert tree_digest(os.fsencode(tmp_path)) != before
        remove_tree(os.fsencode(tmp_path / "d"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda top: (top / "a").write_text("y"),
            lambda top: (top / "a").chmod(0o600),
            lambda top: os.utime(top / "a", ns=(1, 7)),
            lambda top: (top / "new").touch(),
            lambda top: os.setxattr(top / "a", "user.x", b"1"),
            lambda top: os.setxattr(top, "user.x", b"1"),
            lambda top: ((top / "l").unlink(), (top / "l").symlink_to("b")),
            lambda top: ((top / "c").unlink(), (top / "c").write_text("x")),
            lambda top: top.chmod(0o700),
        ],
    )
    def test_everything_counts(self, tmp_path: Path, change: Callable[[Path], object]) -> None:
        (tmp_path / "a").write_text("x")
        os.link(tmp_path / "a", tmp_path / "c")
        (tmp_path / "l").symlink_to("a")
        tmp_path.chmod(0o755)
        for entry in tmp_path.iterdir():
            os.utime(entry, ns=(1, 1), follow_symlinks=False)
        os.utime(tmp_path, ns=(1, 1))
        before = tree_digest(os.fsencode(tmp_path))
        change(tmp_path)
        for entry in tmp_path.iterdir():
            if entry.lstat().st_mtime_ns != 7:
                os.utime(entry, ns=(1, 1), follow_symlinks=False)
        os.utime(tmp_path, ns=(1, 1))
        assert tree_digest(os.fsencode(tmp_path)) != before
