"""Archives that podman, skopeo and umoci write are loaded, and what is saved is loaded and run by them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamina import Engine
from support.image_archives import ImageSource, digest, layout, old_docker, tar, tree_tar, unpacked
from support.leaks import Leaks
from support.peers import PeerRoot
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("busybox")]


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    (tmp_path / "tree").mkdir(mode=0o755)
    busybox_tree(tmp_path / "tree")
    top = tar({"etc/": b"", "etc/.wh.image": b"", "etc/top": b"top\n"})
    config = {"Cmd": ["sh", "-c", "cat /etc/top; ls /etc"], "Env": ["PATH=/bin"], "Labels": {"a": "b"}}
    return ImageSource(tree_tar(tmp_path / "tree"), top, config=config)


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks, source: ImageSource, tmp_path: Path) -> Engine:
    engine = Engine(store_root)
    (tmp_path / "in").write_bytes(tar(*old_docker((source, ["localhost/tool:1"]))))
    engine.load(tmp_path / "in")
    return engine


SAID = b"top\ngroup\nhostname\nhosts\npasswd\nresolv.conf\ntop\n"


def run(engine: Engine, name: str) -> bytes:
    return bytes(engine.run(name, rm=True, capture_output=True).stdout)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_converts_what_was_saved_and_back(
    engine: Engine, peer_root: PeerRoot, source: ImageSource, tmp_path: Path, form: str
) -> None:
    engine.save("localhost/tool:1", tmp_path / "saved", form=form)
    other = {"docker-archive": "oci-archive", "oci-archive": "docker-archive"}[form]
    name = "localhost/other:2"
    done = peer_root.run(
        ["skopeo", "copy", "-q", f"{form}:{tmp_path}/saved", f"{other}:{tmp_path}/copy:{name}"]
    )
    assert done.returncode == 0, done.stderr
    engine.remove_image("localhost/tool:1")
    loaded = engine.load(tmp_path / "copy")
    assert [image.tags for image in loaded] == [[name]]
    # on the way to OCI it writes the config anew
    assert (loaded[0].id == source.id) is (other == "docker-archive")
    found = engine.inspect_image(name)["RootFS"]["Layers"]
    assert found == [digest(layer) for layer in source.layers]
    assert run(engine, name) == SAID


def test_umoci_unpacks_what_was_saved(
    engine: Engine, peer_root: PeerRoot, source: ImageSource, tmp_path: Path
) -> None:
    engine.save("localhost/tool:1", tmp_path / "layout", form="oci-dir")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "1"
    done = peer_root.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:1", f"{tmp_path}/bundle"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bundle/rootfs/etc/top").read_text() == "top\n"
    assert not (tmp_path / "bundle/rootfs/etc/image").exists()
    done = peer_root.run(["umoci", "config", "--image", f"{tmp_path}/layout:1", "--config.label", "by=umoci"])
    assert done.returncode == 0, done.stderr
    loaded = engine.load(tmp_path / "layout")
    assert loaded[0].labels == {"a": "b", "by": "umoci"}
    assert loaded[0].id != source.id


def test_podman_loads_and_runs_what_was_saved_and_saves_it_again(
    engine: Engine, peer_root: PeerRoot, source: ImageSource, tmp_path: Path
) -> None:
    engine.save("localhost/tool:1", tmp_path / "saved")
    places = ["--root", f"{tmp_path}/podman", "--runroot", f"{tmp_path}/podman-run"]
    podman = ["podman", *places, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
    done = peer_root.run([*podman, "load", "-q", "-i", f"{tmp_path}/saved"])
    assert done.returncode == 0 and "localhost/tool:1" in done.stdout, done.stderr
    done = peer_root.run([*podman, "images", "-q", "--no-trunc"])
    assert done.stdout.strip() == f"sha256:{source.id}"
    for form in ("docker-archive", "oci-archive"):
        again = tmp_path / f"again-{form}"
        done = peer_root.run([*podman, "save", "-q", "--format", form, "-o", str(again), "localhost/tool:1"])
        assert done.returncode == 0, done.stderr
        engine.remove_image(source.id, force=True)
        loaded = engine.load(again)
        assert (loaded[0].id, loaded[0].tags) == (source.id, ["localhost/tool:1"])
        assert run(engine, "localhost/tool:1") == SAID


def test_skopeo_reads_a_layout_of_gzip_layers(
    engine: Engine, peer_root: PeerRoot, source: ImageSource, tmp_path: Path
) -> None:
    unpacked(layout((source, "localhost/tool:1")), tmp_path / "plain")
    done = peer_root.run(
        [
            "skopeo",
            "copy",
            "-q",
            "--dest-compress-format",
            "zstd",
            f"oci:{tmp_path}/plain",
            f"oci:{tmp_path}/zstd:x",
        ]
    )
    assert done.returncode == 0, done.stderr
    loaded = engine.load(tmp_path / "zstd")
    assert loaded[0].id == source.id
