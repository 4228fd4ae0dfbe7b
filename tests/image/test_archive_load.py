"""Archives of images: every form that is written, and what is none, damaged or hostile."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.engine.images import Image
from lamina.errors import Corrupt, InvalidInput, LaminaError, NotFound
from lamina.image.archive.load import Unpacking, load
from lamina.image.archive.members import Directory
from lamina.store import layers
from lamina.store.garbage import collect
from support.image_archives import ImageSource, digest, gzipped, layout, new_docker, old_docker, tar, unpacked
from support.leaks import Leaks

pytestmark = pytest.mark.root

BASE = tar({"etc/": b"", "etc/base": b"base\n", "etc/gone": b"x"})
TOP = tar({"etc/": b"", "etc/top": b"top\n", "etc/.wh.gone": b""})
ONE = ImageSource(BASE, TOP, config={"Env": ["A=1"], "Cmd": ["sh"], "Labels": {"a": "b"}})
TWO = ImageSource(BASE, config={"Cmd": ["true"]})


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks) -> Engine:
    return Engine(store_root)


def check(engine: Engine, image: Image, source: ImageSource = ONE) -> None:
    """The image in the store is the one in the archive."""
    assert image.id == source.id
    found = engine.inspect_image(image.id)
    assert found["RootFS"]["Layers"] == [digest(layer) for layer in source.layers]
    assert found["Created"] == "2024-05-01T12:00:00.123456789Z"
    for layer in source.layers:
        place = Path(os.fsdecode(layers.tree_of(engine.store, digest(layer)[7:])))
        assert (place / "etc").is_dir()


def written(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "archive"
    path.write_bytes(data)
    return str(path)


FORMS: dict[str, Callable[[], bytes]] = {
    "docker before 25": lambda: tar(*old_docker((ONE, ["tool:1"]))),
    "docker from 25 on": lambda: tar(new_docker(ONE, "tool:1")),
    "oci": lambda: tar(layout((ONE, "docker.io/library/tool:1"))),
    "oci of podman's": lambda: tar(
        layout((ONE, "docker.io/library/tool:1"), key="org.opencontainers.image.ref.name")
    ),
    "oci with gzip": lambda: tar(layout((ONE, "tool:1"), compress=gzipped, suffix="+gzip")),
    "with a dot": lambda: tar({f"./{name}": data for name, data in layout((ONE, "tool:1")).items()}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form(engine: Engine, tmp_path: Path, form: str) -> None:
    loaded = engine.load(written(tmp_path, FORMS[form]()))
    assert [image.tags for image in loaded] == [["tool:1"]]
    check(engine, loaded[0])
    assert engine.image("tool:1").labels == {"a": "b"}


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"]
)
def test_compressed_archives(engine: Engine, tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    check(engine, engine.load(written(tmp_path, compress(FORMS["docker before 25"]())))[0])
    assert os.listdir(engine.store.tmp) == []


@pytest.mark.peer("zstd")
def test_an_archive_compressed_with_zstd(engine: Engine, tmp_path: Path) -> None:
    data = subprocess.run(["zstd", "-q", "-c"], input=FORMS["oci"](), capture_output=True, check=True).stdout
    check(engine, engine.load(written(tmp_path, data))[0])


@pytest.mark.parametrize("form", FORMS)
def test_through_a_pipe(engine: Engine, form: str) -> None:
    reading, writing = os.pipe()
    data = FORMS[form]() + b"\0" * 100_000  # tar pads its archives, and expects them to be read

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as file:
        check(engine, engine.load(file)[0])
    writer.join()
    assert os.listdir(engine.store.tmp) == []


def test_a_directory(engine: Engine, tmp_path: Path) -> None:
    check(engine, engine.load(unpacked(layout((ONE, "tool:1")), tmp_path / "layout"))[0])


def test_several_images_share_layers(engine: Engine, tmp_path: Path) -> None:
    said: list[tuple[str, Any]] = []
    files, links = old_docker((ONE, ["one:1", "one:2"]), (TWO, []))
    assert links
    loaded = engine.load(
        written(tmp_path, tar(files, links)), on_event=lambda kind, **facts: said.append((kind, facts))
    )
    assert [image.tags for image in loaded] == [["one:1", "one:2"], []]
    check(engine, loaded[0])
    check(engine, loaded[1], TWO)
    assert len(layers.identities(engine.store)) == 2
    assert [kind for kind, _ in said].count("layer") == 2
    said.clear()
    engine.load(str(tmp_path / "archive"), on_event=lambda kind, **facts: said.append((kind, facts)))
    assert {kind for kind, _ in said} == {"exists", "loaded"}
    names = [facts for kind, facts in said if kind == "loaded"]
    assert names == [{"reference": name, "image": loaded[0].id} for name in ("one:1", "one:2")]


def test_a_name_that_is_given_again_moves(engine: Engine, tmp_path: Path) -> None:
    engine.load(written(tmp_path, tar(new_docker(ONE, "tool:1"))))
    engine.load(written(tmp_path, tar(new_docker(TWO, "tool:1"))))
    assert engine.image("tool:1").id == TWO.id
    assert engine.image(ONE.id).tags == []


def test_a_tag_alone_is_no_name(engine: Engine, tmp_path: Path) -> None:
    files = layout((ONE, "latest"), key="org.opencontainers.image.ref.name")
    assert engine.load(written(tmp_path, tar(files)))[0].tags == []


def platforms(*names: str) -> dict[str, bytes]:
    """A layout with an index of images for several platforms, of which only the first is there as a whole."""
    files: dict[str, bytes] = {}
    manifests = []
    for number, name in enumerate(names):
        system, architecture = name.split("/")
        image = ImageSource(BASE, config={"Labels": {"for": name}}, architecture=architecture, os=system)
        members, descriptor = image.oci()
        files |= members if not number else {}
        manifests.append({**descriptor, "platform": {"os": system, "architecture": architecture}})
    index = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                        "manifests": manifests}).encode()  # fmt: skip
    files["blobs/sha256/" + digest(index)[7:]] = index
    top = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(index), "size": len(index),
           "annotations": {"io.containerd.image.name": "docker.io/library/tool:1"}}  # fmt: skip
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    return files


def test_an_image_for_several_platforms(engine: Engine, tmp_path: Path) -> None:
    path = written(tmp_path, tar(platforms("linux/s390x", "linux/amd64", "linux/arm64")))
    assert engine.load(path)[0].platform == "linux/s390x"  # the only one that is there
    assert engine.load(path, platform="linux/s390x")[0].labels == {"for": "linux/s390x"}
    with pytest.raises(NotFound, match="no image for linux/riscv64"):
        engine.load(path, platform="linux/riscv64")


# -- what is none


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"", InvalidInput, "neither index.json nor manifest.json"),
        (b"nonsense", LaminaError, "read archive"),
        (b"<html>no</html>" * 100, LaminaError, "read archive"),
        (tar({"etc/passwd": b"x"}), InvalidInput, "neither index.json nor manifest.json"),
        (tar({"repositories": b"{}"}), InvalidInput, "Docker before 1.10"),
        (tar({"manifest.json": b"[{]"}), InvalidInput, "read manifest.json: not JSON"),
        (tar({"manifest.json": b"{}"}), InvalidInput, "read manifest.json"),
        (tar({"manifest.json": b'[{"Config":"a.json","Layers":[]}]'}), NotFound, "there is no 'a.json'"),
        (tar({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}), NotFound, "there is no"),
        (tar({"index.json": b'{"schemaVersion":2,"manifests":[]}'}), InvalidInput, "there is no image in it"),
        (tar({"index.json": b'{"schemaVersion":2,"layers":[]}'}), InvalidInput, "index.json"),
        (gzip.compress(tar({"a": b"x" * 5000}), mtime=0)[:-20], Corrupt, "decompress"),
        (tar(new_docker(ONE, "tool:1"))[:9000], Corrupt, "it ends after"),
    ],
    ids=range(13),
)
def test_what_is_no_archive_of_images(
    engine: Engine, tmp_path: Path, data: bytes, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.load(written(tmp_path, data))
    assert engine.images() == []
    assert os.listdir(engine.store.tmp) == []


def damaged(**changes: bytes) -> dict[str, bytes]:
    """A layout in which the content of some blobs is another."""
    files = layout((ONE, "tool:1"))
    names = {"config": "blobs/sha256/" + ONE.id, "base": "blobs/sha256/" + digest(BASE)[7:]}
    files.update({names[key]: data for key, data in changes.items()})
    return files


@pytest.mark.parametrize(
    ("files", "error", "said"),
    [
        (damaged(config=b"{}"), Corrupt, "its content is another"),
        (damaged(base=TOP), Corrupt, "digest"),
        (damaged(base=b"nonsense"), LaminaError, "read archive"),
        (damaged(base=BASE[:700]), LaminaError, "it ends after"),
    ],
    ids=range(4),
)
def test_damaged_blobs(
    engine: Engine, tmp_path: Path, files: dict[str, bytes], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.load(written(tmp_path, tar(files)))
    assert engine.images() == []
    collect(engine.store)
    assert layers.identities(engine.store) == []
    assert os.listdir(engine.store.tmp) == []


def test_a_layer_that_is_missing(engine: Engine, tmp_path: Path) -> None:
    files = layout((ONE, "tool:1"))
    del files["blobs/sha256/" + digest(TOP)[7:]]
    with pytest.raises(NotFound, match="there is no 'blobs/sha256/"):
        engine.load(written(tmp_path, tar(files)))
    with pytest.raises(NotFound, match="No such file"):
        engine.load(unpacked(files, tmp_path / "layout"))
    assert engine.images() == []


def test_a_config_with_fewer_layers_than_its_manifest(engine: Engine, tmp_path: Path) -> None:
    files, _ = old_docker((ONE, ["tool:1"]))
    entries = json.loads(files["manifest.json"])
    entries[0]["Layers"].pop()
    with pytest.raises(InvalidInput, match="2 diff_ids, its manifest 1 layers"):
        engine.load(written(tmp_path, tar({**files, "manifest.json": json.dumps(entries).encode()})))


def test_cve_2026_20613_links_of_an_archive_lead_nowhere(engine: Engine, tmp_path: Path) -> None:
    """A member that is a link to a file of the host is a link to a member of that name, of which there is none."""
    secret = tmp_path / "secret"
    secret.write_bytes(ONE.config)
    files, links = old_docker((ONE, ["tool:1"]))
    del files[f"{ONE.id}.json"]
    for target in (str(secret), "../" * 20 + str(secret)[1:]):
        with pytest.raises(NotFound, match="there is no"):
            engine.load(written(tmp_path, tar(files, {**links, f"{ONE.id}.json": target})))
    place = unpacked(layout((ONE, "tool:1")), tmp_path / "layout")
    (place / "blobs/sha256" / ONE.id).unlink()
    (place / "blobs/sha256" / ONE.id).symlink_to(secret)
    with pytest.raises(NotFound):
        engine.load(place)
    assert engine.images() == []


def test_links_in_circles_end(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="neither"):
        engine.load(written(tmp_path, tar({}, {"manifest.json": "a", "a": "manifest.json"})))


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "../../etc/passwd", "/etc/passwd", ""])
def test_a_member_that_no_file_can_be_is_said_to_be_none(engine: Engine, tmp_path: Path, name: str) -> None:
    entry: dict[str, Any] = {"Config": name, "RepoTags": None, "Layers": []}
    (tmp_path / "manifest.json").write_text(json.dumps([entry]))
    with pytest.raises((InvalidInput, NotFound), match=f"read {tmp_path}"):
        engine.load(tmp_path)


def test_a_staged_layer_is_what_its_digest_says(engine: Engine, tmp_path: Path) -> None:
    """As for an ordinary user, whose layers become blobs before another process unpacks them."""
    files = layout((ONE, "tool:1"), compress=gzipped, suffix="+gzip")
    (name,) = [name for name, data in files.items() if data == gzipped(TOP)]
    files[name] = gzip.compress(TOP, 0)  # another level may give the same, 0 cannot
    place = unpacked(files, tmp_path / "layout")
    unpacking = Unpacking((("within", lambda work, *args, **words: work(*args, **words)),), staged=True)
    with Directory(str(place)) as members, pytest.raises(Corrupt, match="what came has the digest"):
        load(engine.store, members, unpacking=unpacking)


def test_a_fifo_in_a_layout_is_no_file(engine: Engine, tmp_path: Path) -> None:
    place = unpacked(layout((ONE, "tool:1")), tmp_path / "layout")
    (place / "index.json").unlink()
    os.mkfifo(place / "index.json")
    with pytest.raises(InvalidInput, match="is no file"):
        engine.load(place)


def test_a_million_names_are_refused(engine: Engine, tmp_path: Path) -> None:
    entry: dict[str, Any] = {"Config": "x", "RepoTags": None, "Layers": []}
    with pytest.raises(InvalidInput, match="at most 1000 are allowed"):
        engine.load(written(tmp_path, tar({"manifest.json": json.dumps([entry] * 1001).encode()})))


@pytest.mark.parametrize("name", ["../x", "x/UPPER:1", "a b", "x@sha256:1", "-rm", ""])
def test_a_name_that_is_none_is_refused_or_left_out(engine: Engine, tmp_path: Path, name: str) -> None:
    files, links = old_docker((ONE, [name]))
    with pytest.raises(InvalidInput):
        engine.load(written(tmp_path, tar(files, links)))
    assert engine.load(written(tmp_path, tar(layout((ONE, name)))))[0].tags == []
