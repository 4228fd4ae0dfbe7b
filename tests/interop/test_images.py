"""Images that skopeo, umoci, buildah, podman and docker write are Lamina's, and Lamina's are theirs.

Their versions are those of the peers root; docker-registry serves on loopback. Both ways the id stays what it was, and
what is seen in the image is what `umoci unpack` makes of it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.store import images
from lamina.store.images import ImageRecord
from lamina.store.root import Store
from support.engines import ENGINES, POLICY
from support.image_archives import ImageSource, tar, tree_tar
from support.image_schema import validator
from support.peer_images import (
    ANSWER,
    ASK,
    CHANGE,
    WRITERS,
    Written,
    base_archive,
    config_of,
    copy,
    id_of,
    our_tree,
    umocis_tree,
)
from support.peers import PeerRoot
from support.registries import DockerRegistry
from support.small_images import busybox_tree

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.peer("unshare", "nsenter", "mount", "busybox", "docker-registry", "setpriv"),
]
Lamina = Callable[..., subprocess.CompletedProcess[str]]
OCI = "application/vnd.oci.image"


@pytest.fixture
def root(make_peer_root: Callable[..., PeerRoot]) -> PeerRoot:
    """The peers, on this machine's loopback: they have to reach the registry."""
    found = make_peer_root(network="host")
    policy = "mkdir -p /etc/containers; cat >/etc/containers/policy.json"
    found.run(["sh", "-c", policy], input=POLICY, check=True)
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as running:
        yield running


@pytest.fixture(params=sorted(WRITERS))
def written(request: pytest.FixtureRequest, root: PeerRoot, tmp_path: Path) -> Written:
    """The image of support.peer_images, as one of them writes it."""
    return WRITERS[request.param](root, tmp_path)


@pytest.fixture
def ours(tmp_path: Path, lamina: Lamina) -> ImageSource:
    """An image that Lamina has read: busybox, and a layer with whiteouts; it is called `team/tool:1`."""
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox_tree(tree)
    (tree / "etc/dir").mkdir()
    (tree / "etc/dir/hidden").write_text("hidden\n")
    (tree / "etc/owned").write_text("owned\n")
    (tree / "etc/owned").chmod(0o640)
    subprocess.run(["chown", "7:8", tree / "etc/owned"], check=True)
    files = {
        "etc/": b"",
        "etc/.wh.image": b"",
        "etc/dir/": b"",
        "etc/dir/.wh..wh..opq": b"",
        "etc/dir/new": b"new\n",
    }
    made = ImageSource(
        tree_tar(tree), tar(files), config={"Cmd": ["cat", "/etc/dir/new"], "Env": ["PATH=/bin"]}
    )
    place = tmp_path / "in"
    members, descriptor = made.oci()
    members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    entry = {**descriptor, "annotations": {"io.containerd.image.name": "docker.io/team/tool:1"}}
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    for name, data in members.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    done = lamina("load", "-q", "-i", place)
    assert done.returncode == 0, done.stderr
    return made


def image(store: Store, lamina: Lamina) -> ImageRecord:
    """The only one that the store has."""
    ids = set(lamina("images", "-q", "--no-trunc").stdout.split())
    assert len(ids) == 1
    found = images.get(store, ids.pop().removeprefix("sha256:"))
    assert found is not None
    return found


def check_layout(place: Path) -> tuple[list[str], dict[str, Any]]:
    """The digests of the layers of the one image in an OCI layout, and its config; all documents are to the letter."""

    def blob(descriptor: dict[str, Any]) -> bytes:
        path = place / "blobs/sha256" / str(descriptor["digest"]).removeprefix("sha256:")
        data = path.read_bytes()
        assert (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) == (
            descriptor["digest"],
            descriptor["size"],
        )
        return data

    validator("image-layout-schema.json").validate(json.loads((place / "oci-layout").read_text()))
    index = json.loads((place / "index.json").read_text())
    validator("image-index-schema.json").validate(index)
    (entry,) = index["manifests"]
    manifest = json.loads(blob(entry))
    assert entry["mediaType"] == manifest["mediaType"] == f"{OCI}.manifest.v1+json"
    validator("image-manifest-schema.json").validate(manifest)
    config = json.loads(blob(manifest["config"]))
    for layer in manifest["layers"]:
        blob(layer)
    return [layer["digest"] for layer in manifest["layers"]], config


def test_what_others_write_is_loaded_and_run(
    written: Written, root: PeerRoot, tmp_path: Path, lamina: Lamina, store_root: Path
) -> None:
    store = Store(store_root)
    for number, (source, path) in enumerate(written.sources.items()):
        done = lamina("load", "-q", "-i", path)
        assert done.returncode == 0, done.stderr
        record = image(store, lamina)
        assert record.id == id_of(root, source)
        assert our_tree(store, record) == umocis_tree(root, source, tmp_path / f"umoci{number}")
        done = lamina("run", "--rm", "--network", "none", record.id, "sh", "-c", ASK)
        assert (done.stdout, done.stderr) == (ANSWER, "")
        assert lamina("rmi", "-f", record.id).returncode == 0


def test_what_others_push_is_pulled_and_saved_as_it_was(
    written: Written,
    root: PeerRoot,
    tmp_path: Path,
    registry: DockerRegistry,
    lamina: Lamina,
    store_root: Path,
) -> None:
    name = f"{registry.host}/team/changed:1"
    written.push(name)
    done = lamina("pull", "-q", name)
    assert done.returncode == 0, done.stderr
    store = Store(store_root)
    record = image(store, lamina)
    assert record.id == id_of(root, f"docker://{name}")
    assert our_tree(store, record) == umocis_tree(root, f"docker://{name}", tmp_path / "umoci")
    done = lamina("run", "--rm", "--network", "none", name, "sh", "-c", ASK)
    assert (done.stdout, done.stderr) == (ANSWER, "")
    # the layers' archives are made again, byte by byte
    done = lamina("save", "-q", "--format", "oci-dir", "-o", tmp_path / "saved", name)
    assert done.returncode == 0, done.stderr
    layers, config = check_layout(tmp_path / "saved")
    assert layers == config["rootfs"]["diff_ids"]
    assert id_of(root, f"oci:{tmp_path}/saved") == record.id


@pytest.mark.parametrize("compression", ["gzip", "zstd", "zstd:chunked"])
def test_what_skopeo_compresses_is_pulled(
    root: PeerRoot,
    ours: ImageSource,
    tmp_path: Path,
    registry: DockerRegistry,
    lamina: Lamina,
    compression: str,
) -> None:
    name = f"{registry.host}/team/tool:1"
    options = ("--format", "oci", "--dest-compress-format", compression, "--dest-tls-verify=false")
    copy(root, f"oci:{tmp_path}/in", f"docker://{name}", *options)
    assert lamina("rmi", "-f", ours.id).returncode == 0
    done = lamina("pull", "-q", name)
    assert done.returncode == 0, done.stderr
    # skopeo writes the config anew when it has no history of its own for it: what counts is what the registry has
    assert image(Store(tmp_path / "lamina-store"), lamina).id == id_of(root, f"docker://{name}")
    assert lamina("run", "--rm", "--network", "none", name).stdout == "new\n"


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_what_is_saved_is_read_by_skopeo_and_umoci(
    root: PeerRoot, ours: ImageSource, tmp_path: Path, lamina: Lamina, store_root: Path, form: str
) -> None:
    archive = tmp_path / "saved.tar"
    done = lamina("save", "-q", "--format", form, "-o", archive, "team/tool:1")
    assert done.returncode == 0, done.stderr
    source = f"{form}:{archive}"
    assert config_of(root, source) == ours.config
    store = Store(store_root)
    assert umocis_tree(root, source, tmp_path / "umoci") == our_tree(store, image(store, lamina))
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "layout", "-xf", archive], check=True)
    layers, config = check_layout(tmp_path / "layout")  # docker's archive is an OCI layout as well
    assert layers == config["rootfs"]["diff_ids"]


def test_what_is_made_here_is_to_the_letter_and_runs_elsewhere(
    root: PeerRoot, tmp_path: Path, lamina: Lamina, store_root: Path
) -> None:
    """`import` and `image from-dir`: manifest and config are Lamina's own."""
    base = base_archive(tmp_path)
    podman = ENGINES["podman"](root, tmp_path)
    changes = ["PATH=/bin", "NAME=value"]
    words = [word for change in changes for word in ("-c", f"ENV {change}")]
    words += ["-c", 'CMD ["cat", "/etc/image"]', "-c", "LABEL who=me", "-c", "EXPOSE 80", "-c", "USER 0:0"]
    for number, made in enumerate((["import", base], ["image", "from-dir", tmp_path / "base"])):
        done = lamina(*made, "made:1", *words)
        assert done.returncode == 0, done.stderr
        archive, layout = tmp_path / f"made{number}.tar", tmp_path / f"made{number}"
        assert lamina("save", "-q", "-o", archive, "made:1").returncode == 0
        assert lamina("save", "-q", "--format", "oci-dir", "-o", layout, "made:1").returncode == 0
        layers, config = check_layout(layout)
        validator("config-schema.json").validate(config)
        assert layers == config["rootfs"]["diff_ids"]
        store = Store(store_root)
        record = image(store, lamina)
        assert umocis_tree(root, f"oci:{layout}", tmp_path / f"umoci{number}") == our_tree(store, record)
        podman("load", "-q", "-i", str(archive), check=True)
        shown = podman("inspect", "--type", "image", "--format", "{{.Id}}", "made:1", check=True).stdout
        assert shown.strip() == record.id
        assert podman("run", "--rm", "--network=none", "made:1", check=True).stdout == "busybox\n"
        podman("rmi", "-f", "made:1", check=True)
        assert lamina("rmi", "-f", record.id).returncode == 0


@pytest.mark.parametrize("program", sorted(ENGINES))
def test_what_is_saved_and_pushed_runs_elsewhere(
    root: PeerRoot, ours: ImageSource, tmp_path: Path, registry: DockerRegistry, lamina: Lamina, program: str
) -> None:
    engine = ENGINES[program](root, tmp_path)
    (tmp_path / "out").mkdir()
    forms = ["docker-archive", "oci-archive"] if program == "podman" else ["docker-archive"]
    for form in forms:
        archive = tmp_path / "out" / f"{form}.tar"
        assert lamina("save", "-q", "--format", form, "-o", archive, "team/tool:1").returncode == 0
        engine("load", "-q", "-i", str(archive), check=True)
        runs(engine, ours, "docker.io/team/tool:1")
    name = f"{registry.host}/team/tool:1"
    assert lamina("tag", "team/tool:1", name).returncode == 0
    done = lamina("push", name)
    assert done.returncode == 0, done.stderr
    words = ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{name}"]
    manifest = json.loads(root.run(words, check=True).stdout)
    validator("image-manifest-schema.json").validate(manifest)
    assert manifest["config"]["digest"] == f"sha256:{ours.id}"
    insecure = ["--tls-verify=false"] if program == "podman" else []
    engine("pull", "-q", *insecure, name, check=True)
    runs(engine, ours, name)


def test_diff_is_docker_s(root: PeerRoot, tmp_path: Path, lamina: Lamina) -> None:
    """The same is done in a container of each: `diff --format docker` is what docker's diff prints."""
    base = base_archive(tmp_path)
    script = f"cd /; {CHANGE}touch data/kept; mkdir -p new/deep; echo x >new/deep/file; rm etc/group"
    docker = ENGINES["docker"](root, tmp_path)
    docker("import", "-c", "ENV PATH=/bin", str(base), "base", check=True)
    docker("run", "--network=none", "--name", "made", "base", "sh", "-ec", script, check=True)
    assert lamina("import", base, "base", "-c", "ENV PATH=/bin").returncode == 0
    done = lamina("run", "--network", "none", "--name", "made", "base", "sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    theirs = sorted(docker("diff", "made", check=True).stdout.splitlines())
    done = lamina("diff", "--format", "docker", "made")
    assert sorted(done.stdout.splitlines()) == theirs, done.stderr


def test_what_is_committed_is_the_same_to_all(
    root: PeerRoot, tmp_path: Path, lamina: Lamina, store_root: Path
) -> None:
    """A container does what the peers' own do for support.peer_images; umoci, podman and docker see what is meant."""
    assert lamina("import", base_archive(tmp_path), "base", "-c", "ENV PATH=/bin").returncode == 0
    done = lamina("run", "--network", "none", "--name", "made", "base", "sh", "-ec", f"cd /; {CHANGE}")
    assert done.returncode == 0, done.stderr
    done = lamina("commit", "-a", "me", "-m", "by hand", "-c", 'CMD ["sh"]', "made", "changed:1")
    assert done.returncode == 0, done.stderr
    identity = done.stdout.strip().removeprefix("sha256:")
    assert lamina("rmi", "-f", "base").returncode == 0
    store, layout = Store(store_root), tmp_path / "committed"
    assert image(store, lamina).id == identity
    assert lamina("save", "-q", "--format", "oci-dir", "-o", layout, "changed:1").returncode == 0
    done = lamina(
        "image", "inspect", "-f", "{{.Id}}", identity
    )  # which is what it was called before its digests
    before, identity = identity, done.stdout.strip().removeprefix("sha256:")
    record = image(store, lamina)
    assert before != identity == record.id
    digests, config = check_layout(layout)
    validator("config-schema.json").validate(config)
    assert digests == config["rootfs"]["diff_ids"] and id_of(root, f"oci:{layout}") == identity
    assert umocis_tree(root, f"oci:{layout}", tmp_path / "umoci") == our_tree(store, record)
    archive = tmp_path / "committed.tar"
    assert lamina("save", "-q", "-o", archive, "changed:1").returncode == 0
    for program in sorted(ENGINES):
        (tmp_path / program).mkdir()
        engine = ENGINES[program](root, tmp_path / program)
        engine("load", "-q", "-i", str(archive), check=True)
        shown = engine("inspect", "--type", "image", "--format", "{{.Id}}", "changed:1", check=True).stdout
        assert shown.strip().removeprefix("sha256:") == identity
        done = engine("run", "--rm", "--network=none", "changed:1", "sh", "-c", ASK, check=True)
        assert done.stdout == ANSWER
        engine("rmi", "-f", "changed:1", check=True)
    done = lamina("run", "--rm", "--network", "none", "changed:1", "sh", "-c", ASK)
    assert (done.stdout, done.stderr) == (ANSWER, "")


def runs(engine: Any, ours: ImageSource, name: str) -> None:
    """The image is the same one, and is what it was; it is removed."""
    shown = engine("inspect", "--type", "image", "--format", "{{.Id}}", name, check=True).stdout.strip()
    assert shown.removeprefix("sha256:") == ours.id
    assert engine("run", "--rm", "--network=none", name, check=True).stdout == "new\n"
    script = "ls /etc/image /etc/dir/hidden 2>/dev/null; stat -c '%u:%g %a' /etc/owned"
    assert engine("run", "--rm", "--network=none", name, "sh", "-c", script, check=True).stdout == "7:8 640\n"
    engine("rmi", "-f", name, check=True)
