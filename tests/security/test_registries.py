"""Registries, manifests and mirrors that mean harm: what they say is checked before anything is done with it.

Named after the attacks of docs/security.md's second table that come through a registry.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Corrupt, InvalidInput, LaminaError, NotFound
from lamina.image.documents import decode_config, decode_manifest, media
from lamina.image.platform import current
from lamina.image.reference import parse
from lamina.image.registry.credentials import Login
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.store import blobs, garbage, images, layers
from lamina.store.images import ImageRecord
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry, Fault, digest, layer_of
from support.registries import registries

HERE = str(current())
FILES = {"etc/name": b"first"}


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


def pulled(store: Store, home: Path, name: str, **options: Any) -> ImageRecord:
    with registries(home) as network:
        return pull(store, parse(name), options=Options(**options), registries=network)


def everything(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def replaced(fake: FakeRegistry, **changes: Any) -> None:
    found = fake.add_image("team/tool", "1", FILES, platform=HERE)
    document = {**json.loads(fake.manifests["team/tool"][found][0]), **changes}
    fake.add_manifest("team/tool", document, media.OCI_MANIFEST, "1")


EVIL_DIGESTS = [
    "sha256:../../../../etc/passwd",
    "../../evil",
    "sha256:" + "../" * 21 + "a",
    "sha256:" + "a" * 63 + "/",
    "sha256:" + "a" * 63 + "\0",
    "sha256:" + "A" * 64,
    "sha256:" + "a" * 64 + "\n",
    "sha256:" + "a" * 65,
    "md5:" + "a" * 32,
    "sha256",
    "",
    "sha256:" + "１" * 64,
]


@pytest.mark.parametrize("evil", EVIL_DIGESTS)
@pytest.mark.parametrize("where", ["layer", "config", "index", "diff_id"])
def test_cve_2024_3727_a_digest_is_checked_before_it_is_a_path(
    store: Store, fake: FakeRegistry, tmp_path: Path, evil: str, where: str
) -> None:
    layer = fake.descriptor("team/tool", gzip.compress(layer_of(FILES)), media.OCI_LAYER_GZIP)
    if where == "layer":
        replaced(fake, layers=[{**layer, "digest": evil}])
    elif where == "config":
        replaced(fake, config={"mediaType": media.OCI_CONFIG, "digest": evil, "size": 2})
    elif where == "index":
        entry = {"mediaType": media.OCI_MANIFEST, "digest": evil, "size": 2}
        fake.add_manifest("team/tool", {"schemaVersion": 2, "manifests": [entry]}, media.OCI_INDEX, "1")
    else:
        config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [evil]}}
        replaced(fake, config=fake.descriptor("team/tool", json.dumps(config).encode(), media.OCI_CONFIG))
    fake.requests.clear()
    with pytest.raises(InvalidInput, match="digest"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    assert not [path for path in fake.asked("GET") if ".." in path or "passwd" in path]
    assert layers.identities(store) == []


@pytest.mark.parametrize("keep_blobs", [False, True])
@pytest.mark.parametrize("fault", ["other bytes", "more bytes"])
@pytest.mark.parametrize("what", ["config", "layer"])
def test_cve_2026_111361_bytes_that_are_not_what_the_digest_says(
    store: Store, fake: FakeRegistry, tmp_path: Path, fault: str, what: str, keep_blobs: bool
) -> None:
    found = fake.add_image("team/tool", "1", FILES, platform=HERE)
    document = json.loads(fake.manifests["team/tool"][found][0])
    blob = document["config"] if what == "config" else document["layers"][0]
    fake.faults.append(Fault(fault, path=blob["digest"], method="GET"))
    with pytest.raises(Corrupt):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1", keep_blobs=keep_blobs)
    assert layers.identities(store) == []
    assert blob["digest"] not in set(blobs.identities(store))
    assert images.identities(store) == []


def test_cve_2026_111361_a_manifest_asked_for_by_digest_is_that_manifest(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    found = fake.add_image("team/tool", "1", FILES, platform=HERE)
    other = fake.add_image("team/tool", "2", {"evil": b"evil"}, platform=HERE)
    fake.manifests["team/tool"][found] = fake.manifests["team/tool"][other]
    for name in (f"team/tool@{found}", "team/tool:1"):  # by tag: the registry's own header says another one
        with pytest.raises(Corrupt, match=f"what came has the digest {other}, not {found}"):
            pulled(store, tmp_path, f"{fake.host}/{name}")
    assert images.identities(store) == []


def test_cve_2024_3727_what_changes_between_asking_and_fetching(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    """HEAD says one digest, GET gives another manifest: the first answer counts, or nothing."""
    found = fake.add_image("team/tool", "1", FILES, platform=HERE)
    pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    fake.add_image("team/tool", "1", {"evil": b"evil"}, platform=HERE)
    said = (("Docker-Content-Digest", digest(b"something")),)
    fake.faults.append(Fault("lie", method="HEAD", path="manifests", headers=said))
    with pytest.raises(NotFound):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    fake.faults.append(
        Fault("lie", method="HEAD", path="manifests", headers=(("Docker-Content-Digest", found),))
    )
    assert pulled(store, tmp_path, f"{fake.host}/team/tool:1").manifest == found


def test_cve_2021_41190_a_document_that_is_two_things_is_neither(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    replaced(fake, manifests=[])
    with pytest.raises(InvalidInput, match="could be an index and a manifest"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    fake.add_image("team/tool", "1", FILES, platform=HERE)
    kind = (("Content-Type", media.OCI_INDEX),)
    fake.faults.append(Fault("lie", method="GET", path="manifests", headers=kind))
    with pytest.raises(InvalidInput, match="where it came from says"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")


def test_cve_2026_53493_an_index_does_not_become_many_requests(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    """Indexes of indexes, each hundreds wide: one entry is followed, two levels down, and no further."""
    found = fake.add_image("team/tool", "", FILES, platform=HERE)
    system, architecture = HERE.split("/")[:2]
    for _ in range(4):
        data, kind = fake.manifests["team/tool"][found]
        where = {"os": system, "architecture": architecture}
        entry = {"mediaType": kind, "digest": found, "size": len(data), "platform": where}
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry] * 400}
        found = fake.add_manifest("team/tool", document, media.OCI_INDEX, "1")
    with pytest.raises(InvalidInput, match="an index in an index"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    assert len(fake.asked("GET", "/manifests/")) == 3
    document["manifests"] = [entry] * 1000
    fake.add_manifest("team/tool", document, media.OCI_INDEX, "1")
    with pytest.raises(InvalidInput, match="an index of 1000 manifests"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")


def test_cve_2026_53493_an_index_that_is_its_own_entry_ends(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    """No digest can contain itself; a registry that claims so is found out at the first step."""
    evil = "sha256:" + "0" * 64
    entry = {"mediaType": media.OCI_INDEX, "digest": evil, "size": 100}
    document = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    fake.add_manifest("team/tool", document, media.OCI_INDEX, "1")
    fake.manifests["team/tool"][evil] = document, media.OCI_INDEX
    with pytest.raises(Corrupt, match="what came has the digest"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")


def test_cve_2026_53493_a_huge_size_allocates_nothing(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    layer = fake.descriptor("team/tool", gzip.compress(layer_of(FILES)), media.OCI_LAYER_GZIP)
    replaced(fake, layers=[{**layer, "size": 2**62}])
    with pytest.raises(InvalidInput, match="--layer-limit size="):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    assert fake.asked("GET", layer["digest"]) == []
    replaced(fake, layers=[{**layer, "size": 2**37}])
    fake.faults.append(Fault("no length", path=layer["digest"], times=100))
    with pytest.raises(Corrupt):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    fake.faults.clear()
    replaced(fake, config={"mediaType": media.OCI_CONFIG, "digest": digest(b"x"), "size": 2**62})
    with pytest.raises(InvalidInput, match="its config has"):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")


def test_foreign_layers_send_us_nowhere(store: Store, fake: FakeRegistry, tmp_path: Path) -> None:
    """CVE-2020-15157: `urls` in a manifest are requests to anywhere, with credentials to whoever asks for them."""
    layer = fake.descriptor("team/tool", gzip.compress(layer_of(FILES)), media.OCI_LAYER_GZIP)
    with FakeRegistry({"a": "b"}, scheme="basic") as evil:
        urls = [f"http://{evil.host}/v2/x/blobs/{layer['digest']}"]
        for kind in sorted(media.FOREIGN_LAYERS):
            replaced(fake, layers=[{**layer, "mediaType": kind, "urls": urls}])
            with pytest.raises(InvalidInput, match="a foreign one"):
                pulled(store, tmp_path, f"{fake.host}/team/tool:1")
        replaced(fake, layers=[{**layer, "urls": urls}])  # of an ordinary layer they have no meaning
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
        assert evil.requests == []


def test_credentials_go_to_their_registry_alone(store: Store, tmp_path: Path) -> None:
    with FakeRegistry({"alice": "x"}) as ours, FakeRegistry({"alice": "x"}, scheme="basic") as evil:
        ours.add_image("team/tool", "1", FILES, platform=HERE)
        with registries(tmp_path) as network:
            network.login(ours.host, Login("alice", "x"))
        for name in (f"{evil.host}/team/tool:1", f"{evil.host}/{ours.host.replace(':', '/')}/tool:1"):
            with pytest.raises(LaminaError):
                pulled(store, tmp_path, name)
        assert evil.requests
        assert all("Authorization" not in headers for _, _, headers in evil.requests)
        assert pulled(store, tmp_path, f"{ours.host}/team/tool:1").layers


# what containerd's and podman's bugs listened to
EVIL_WORDS = [
    "io.containerd.runtime.v2.logger",
    "containerd.io/log-uri",
    "io.podman.annotations.kube.health.check",
    "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
    "org.criu.checkpoint.engine.name",
    "io.podman.annotations.checkpoint.name",
    "io.containers.autoupdate",
    "run.oci.keep_original_groups",
    "org.systemd.property.ExecStartPre",
    "io.kubernetes.cri.sandbox-image",
    "lamina.anything",
]


def test_cve_2026_53488_labels_and_annotations_are_text(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    """They are kept to be shown, and mean nothing: only what a start needs of a config gets into the record."""
    evil = dict.fromkeys(EVIL_WORDS, "binary:///bin/sh?-c=touch%20/tmp/evil")
    found = fake.add_image("team/tool", "1", FILES, platform=HERE, config={"Labels": evil, "Evil": evil})
    document = json.loads(fake.manifests["team/tool"][found][0])
    document["annotations"] = evil
    document["layers"][0]["annotations"] = evil
    fake.add_manifest("team/tool", document, media.OCI_MANIFEST, "1")
    before = everything(tmp_path)
    record = pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    assert record.run["labels"] == evil
    assert set(record.run) == {
        *("env", "entrypoint", "cmd", "workdir", "user", "volumes", "exposed_ports", "labels"),
        *("stop_signal", "healthcheck", "shell", "onbuild"),
    }
    written = json.loads(Path(images.place_of(store, record.id).decode()).read_text())
    assert not {"annotations", "Evil"} & {*written, *written["run"]}
    assert {path for path in everything(tmp_path) - before if not path.startswith("lamina-store")} == set()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=10)
    | st.sampled_from([*EVIL_DIGESTS, media.OCI_LAYER_GZIP, media.OCI_CONFIG, media.OCI_MANIFEST, "layers"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
KEYS = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "annotations",
    "subject",
    "artifactType",
    "fsLayers",
]
GOOD = {"mediaType": media.OCI_LAYER_GZIP, "digest": "sha256:" + "a" * 64, "size": 1}


@given(
    base=st.sampled_from(["manifest", "index", "config"]),
    changes=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), JSON, max_size=4),
    dropped=st.sets(st.sampled_from(KEYS), max_size=2),
    cut=st.integers(0, 400),
)
def test_cve_2021_21285_no_manifest_crashes_us(
    base: str, changes: dict[str, Any], dropped: set[str], cut: int
) -> None:
    """Whatever it is: a document, or an InvalidInput. (A malformed one once took the whole daemon down.)"""
    known: dict[str, dict[str, Any]] = {
        "manifest": {"schemaVersion": 2, "config": {**GOOD, "mediaType": media.OCI_CONFIG}, "layers": [GOOD]},
        "index": {"schemaVersion": 2, "manifests": [{**GOOD, "mediaType": media.OCI_MANIFEST}]},
        "config": {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}},
    }
    document = {name: member for name, member in {**known[base], **changes}.items() if name not in dropped}
    data = json.dumps(document).encode()
    for text in (
        data,
        data[:cut],
        data + data[:cut],
        data.replace(b'"', b"'", 1),
        data.replace(b"{", b"[", 1),
    ):
        for read in (decode_manifest, decode_config):
            try:
                read(text)
            except InvalidInput:
                pass


def test_a_failed_pull_leaves_nothing_but_what_is_collected(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    replaced(fake, layers=[fake.descriptor("team/tool", os.urandom(5000), media.OCI_LAYER_GZIP)])
    empty = everything(Path(store.path.decode()))
    with pytest.raises(LaminaError):
        pulled(store, tmp_path, f"{fake.host}/team/tool:1")
    garbage.collect(store)
    assert everything(Path(store.path.decode())) - empty == set()
