"""Images written to archives: the same bytes as they came with, read by others, and by ourselves again."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from lamina import Engine
from lamina.errors import Conflict, Corrupt, InvalidInput, KernelError, NotFound
from lamina.image.archive.writing import header
from lamina.store import layers
from support.image_archives import ImageSource, digest, gzipped, layout, new_docker, old_docker, tar
from support.leaks import Leaks
from support.small_images import small_image

pytestmark = pytest.mark.root

BASE = tar({"etc/": b"", "etc/base": b"base\n", "etc/gone": b"x"})
TOP = tar({"etc/": b"", "etc/top": b"top\n", "etc/.wh.gone": b""})
ONE = ImageSource(BASE, TOP, config={"Env": ["A=1"], "Cmd": ["sh"]})
TWO = ImageSource(BASE, config={"Cmd": ["true"]})


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks, tmp_path: Path) -> Engine:
    """A store with two images that share a layer, one of them without a name."""
    files, links = old_docker((ONE, ["one:1", "localhost:5000/one:2"]), (TWO, []))
    (tmp_path / "loaded.tar").write_bytes(tar(files, links))
    engine = Engine(store_root)
    engine.load(tmp_path / "loaded.tar")
    return engine


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]


def blob(files: dict[str, bytes], name: str) -> bytes:
    """A blob whose content is what its name says."""
    data = files["blobs/sha256/" + name.removeprefix("sha256:")]
    assert digest(data) == "sha256:" + name.removeprefix("sha256:")
    return data


def test_docker_s_form_is_an_oci_layout_as_well(engine: Engine, tmp_path: Path) -> None:
    engine.save(["one:1", TWO.id[:12], "localhost:5000/one:2"], tmp_path / "saved.tar")
    files = members(tmp_path / "saved.tar")
    entries = json.loads(files["manifest.json"])
    assert [entry["RepoTags"] for entry in entries] == [["one:1", "localhost:5000/one:2"], None]
    assert blob(files, entries[0]["Config"].rpartition("/")[2]) == ONE.config
    assert [files[name] for name in entries[0]["Layers"]] == [BASE, TOP]  # to the byte as they came
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])
    assert [found.get("annotations") for found in index["manifests"]] == [
        {"io.containerd.image.name": "docker.io/library/one:1", "org.opencontainers.image.ref.name": "1"},
        {"io.containerd.image.name": "localhost:5000/one:2", "org.opencontainers.image.ref.name": "2"},
        None,
    ]
    manifest = json.loads(blob(files, index["manifests"][0]["digest"]))
    assert manifest["config"]["digest"] == f"sha256:{ONE.id}"
    assert [blob(files, layer["digest"]) for layer in manifest["layers"]] == [BASE, TOP]
    assert (
        len([name for name in files if name.startswith("blobs/")]) == 2 + 2 + 2
    )  # layers, configs, manifests


def test_the_same_image_is_the_same_archive(engine: Engine, tmp_path: Path) -> None:
    for name in ("first", "second"):
        engine.save(["one:1"], tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_what_was_saved_is_loaded_by_another_store(engine: Engine, tmp_path: Path, form: str) -> None:
    engine.save(["one:1", TWO.id], tmp_path / "saved", form=form)
    other = Engine(tmp_path / "other")
    assert [(image.id, image.tags) for image in other.load(tmp_path / "saved")] == [
        (ONE.id, ["one:1"]), (TWO.id, []),
    ]  # fmt: skip
    assert (form == "oci-archive") == (
        form != "oci-dir" and "manifest.json" not in members(tmp_path / "saved")
    )
    found = other.inspect_image("one:1")
    assert found["RootFS"]["Layers"] == [digest(BASE), digest(TOP)]


def test_through_a_pipe(engine: Engine, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    read: list[bytes] = []

    def take() -> None:
        with os.fdopen(reading, "rb") as file:
            read.append(file.read())

    reader = threading.Thread(target=take)
    reader.start()
    with os.fdopen(writing, "wb") as file:
        engine.save("one:1", file)
    reader.join()
    engine.save("one:1", tmp_path / "saved")
    assert read[0] == (tmp_path / "saved").read_bytes()


def test_a_reader_that_leaves(engine: Engine) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as file, pytest.raises(BrokenPipeError):
        engine.save("one:1", file)
    assert os.listdir(engine.store.tmp) == []


def test_a_manifest_that_came_with_an_image_is_kept(store_root: Path, tmp_path: Path) -> None:
    """Its compressed layers are not: so another one is written, with the same config."""
    engine = Engine(store_root)
    (tmp_path / "in").write_bytes(tar(layout((ONE, "one:1"), compress=gzipped, suffix="+gzip")))
    engine.load(tmp_path / "in")
    engine.save("one:1", tmp_path / "out")
    files = members(tmp_path / "out")
    manifest = json.loads(blob(files, json.loads(files["index.json"])["manifests"][0]["digest"]))
    assert manifest["config"]["digest"] == f"sha256:{ONE.id}"
    assert [blob(files, layer["digest"]) for layer in manifest["layers"]] == [BASE, TOP]


def test_a_new_archive_is_saved_as_it_was(store_root: Path, tmp_path: Path) -> None:
    """Uncompressed layers have nothing that could be written otherwise, so even the manifest is the same."""
    engine = Engine(store_root)
    came = new_docker(ONE, "one:1")
    (tmp_path / "in").write_bytes(tar(came))
    engine.load(tmp_path / "in")
    engine.save("one:1", tmp_path / "out")
    files = members(tmp_path / "out")
    assert {name for name in came if name.startswith("blobs/")} >= {
        name for name in files if name.endswith((digest(BASE)[7:], digest(TOP)[7:], ONE.id))
    }


@pytest.mark.peer("busybox")
def test_a_frozen_layer_gets_its_digest_when_it_is_saved(store_root: Path, tmp_path: Path) -> None:
    from lamina.store import images
    from lamina.store.blobs import write_blob
    from lamina.store.leases import lease
    from lamina.values import replace

    engine = Engine(store_root)
    record = small_image(engine.store)
    config = ImageSource(b"", config={"Cmd": ["sh"]}).config
    with lease(engine.store) as held:
        blob_ = write_blob(engine.store, config, held)
        images.put(engine.store, replace(record, id=blob_[7:], config=blob_, blobs=(blob_,)),
                   names=("docker.io/library/frozen:1",), lease=held)  # fmt: skip
    said: list[str] = []
    engine.save(
        "frozen:1", tmp_path / "out", on_event=lambda kind, **facts: said.append(facts.get("text", ""))
    )
    assert any("1 of its layers had to be packed anew" in text for text in said)
    other = Engine(tmp_path / "other")
    assert other.load(tmp_path / "out")[0].tags == ["frozen:1"]
    done = other.run("frozen:1", ["cat", "/etc/image"], rm=True, capture_output=True)
    assert done.stdout == b"busybox\n"


def test_what_cannot_be_saved(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        engine.save(["one:1", "nothing:1"], tmp_path / "out")
    with pytest.raises(InvalidInput, match="there is no form"):
        engine.save("one:1", tmp_path / "out", form="zip")
    with pytest.raises(InvalidInput, match="no image is named"):
        engine.save([], tmp_path / "out")
    with pytest.raises(KernelError, match="No such file or directory"):
        engine.save("one:1", tmp_path / "nowhere/out")
    with pytest.raises(Conflict, match="not empty"):
        engine.save("one:1", tmp_path, form="oci-dir")
    assert sorted(os.listdir(tmp_path)) == ["lamina-store", "loaded.tar"]


def test_a_layer_that_was_changed_is_not_saved(engine: Engine, tmp_path: Path) -> None:
    place = Path(os.fsdecode(layers.tree_of(engine.store, digest(BASE)[7:])))
    (place / "etc/base").write_text("evil\n")
    with pytest.raises(Corrupt, match="its files were changed"):
        engine.save("one:1", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert os.listdir(engine.store.tmp) == []


def test_headers_are_those_of_tar() -> None:
    for size in (0, 5, (8 << 30) - 1, 8 << 30, 1 << 40):
        info = tarfile.TarInfo.frombuf(header("blobs/x", size), "utf-8", "strict")
        assert (info.name, info.size, info.mode, info.mtime, info.uid) == ("blobs/x", size, 0o644, 0, 0)
    assert tarfile.TarInfo.frombuf(header("blobs/", 0, b"5", 0o755), "utf-8", "strict").isdir()


@pytest.mark.peer("skopeo")
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_was_saved(engine: Engine, tmp_path: Path, form: str) -> None:
    engine.save("one:1", tmp_path / "out", form=form)
    raw = subprocess.run(
        ["skopeo", "inspect", "--config", f"{form}:{tmp_path}/out"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(raw.stdout)["rootfs"]["diff_ids"] == [digest(BASE), digest(TOP)]
