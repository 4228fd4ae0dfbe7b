"""The real docker-registry on this machine: what skopeo writes is pulled, what is pushed is what skopeo reads."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import NotFound, RegistryError
from lamina.image.documents import media
from lamina.image.platform import current
from lamina.image.reference import parse
from lamina.image.registry.credentials import Login
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.image.transfer.push import Pushed, push
from lamina.store import blobs, layers
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry, digest, layer_of
from support.registries import ALICE, DockerRegistry, registries, skopeo

pytestmark = [pytest.mark.peer("docker-registry", "skopeo", "setpriv")]
FILES = ({"bin/tool": b"#!/bin/sh\n" * 1000, "etc/name": b"first"}, {"etc/other": b"second"})


def layout(directory: Path) -> Path:
    """An OCI image layout of two layers, made without us."""
    with FakeRegistry() as fake:
        found = fake.add_image("x", "1", *FILES, platform=str(current()))
        (directory / "blobs/sha256").mkdir(parents=True)
        data, kind = fake.manifests["x"][found]
        for content in (*fake.blobs["x"].values(), data):
            (directory / "blobs/sha256" / digest(content).partition(":")[2]).write_bytes(content)
    entry = {
        "mediaType": kind,
        "digest": found,
        "size": len(data),
        "annotations": {"org.opencontainers.image.ref.name": "1"},
    }
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as running:
        yield running


def copied(home: Path, *arguments: str | Path) -> None:
    done = skopeo(home, "copy", "-q", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_what_skopeo_pushes_is_pulled(
    registry: DockerRegistry, tmp_path: Path, store_root: Path, form: str
) -> None:
    name = f"{registry.host}/team/tool:{form}"
    copied(
        tmp_path,
        "--format",
        form,
        "--dest-tls-verify=false",
        f"oci:{layout(tmp_path / 'layout')}:1",
        f"docker://{name}",
    )
    store = Store(store_root)
    with registries(tmp_path) as network:
        record = pull(store, parse(name), registries=network)
        with pytest.raises(NotFound, match="no such image"):
            pull(store, parse(f"{registry.host}/team/tool:missing"), registries=network)
        with pytest.raises(NotFound):
            pull(store, parse(f"{registry.host}/nobody/nothing:1"), registries=network)
        assert list(network.repositories(parse(name))[0].tags()) == [form]
    assert record.layers == tuple(digest(layer_of(files)).partition(":")[2] for files in FILES)
    assert Path(layers.tree_of(store, record.layers[1]).decode(), "etc/other").read_bytes() == b"second"
    inspected = skopeo(tmp_path, "inspect", "--tls-verify=false", f"docker://{name}")
    assert json.loads(inspected.stdout)["Digest"] == record.manifest
    manifest = json.loads(blobs.read_blob(store, record.manifest or "", 1 << 20))
    assert manifest["mediaType"] == (media.OCI_MANIFEST if form == "oci" else media.DOCKER_MANIFEST)


def test_a_registry_with_passwords(tmp_path: Path, store_root: Path) -> None:
    store = Store(store_root)
    with DockerRegistry(tmp_path / "registry", users=ALICE) as guarded, registries(tmp_path) as network:
        name = f"{guarded.host}/team/tool:1"
        copied(
            tmp_path,
            *("--dest-creds", "alice:secret", "--dest-tls-verify=false"),
            *(f"oci:{layout(tmp_path / 'layout')}:1", f"docker://{name}"),
        )
        with pytest.raises(RegistryError, match=r"access denied|does not take this name and password"):
            pull(store, parse(name), registries=network)
        with pytest.raises(RegistryError, match=r"access denied|does not take this name and password"):
            network.login(guarded.host, Login("alice", "wrong"))
        network.login(guarded.host, Login("alice", "secret"))
        assert pull(store, parse(name), registries=network).layers
        # podman's and skopeo's way to read the same file
        read = skopeo(
            tmp_path,
            *(
                "inspect",
                "--tls-verify=false",
                "--authfile",
                tmp_path / ".docker/config.json",
                f"docker://{name}",
            ),
        )
        assert read.returncode == 0, read.stderr
        network.logout(guarded.host)
        with pytest.raises(RegistryError, match=r"access denied|does not take this name and password"):
            pull(store, parse(name), registries=network)


@pytest.mark.parametrize("keep_blobs", [True, False])
@pytest.mark.parametrize("chunk", [None, 4000])
def test_what_is_pushed_is_what_skopeo_reads(
    registry: DockerRegistry, tmp_path: Path, store_root: Path, keep_blobs: bool, chunk: int | None
) -> None:
    name = f"{registry.host}/team/tool:1"
    copied(tmp_path, "--dest-tls-verify=false", f"oci:{layout(tmp_path / 'layout')}:1", f"docker://{name}")
    store = Store(store_root)
    with registries(tmp_path) as network, DockerRegistry(tmp_path / "other") as other:
        record = pull(store, parse(name), options=Options(keep_blobs=keep_blobs), registries=network)
        moved = f"{registry.host}/moved/tool:1"
        # into another repository of the same registry: mounted
        assert push(store, record, parse(moved), registries=network) == Pushed(
            record.manifest or "", changed=False
        )
        elsewhere = f"{other.host}/else/where:1"
        pushed = push(store, record, parse(elsewhere), options=Options(chunk=chunk), registries=network)
        assert pushed.digest == record.manifest or not keep_blobs
        for pulled in (moved, elsewhere):
            read = tmp_path / f"read-{pulled.rpartition('/')[2].replace(':', '-')}-{pulled == moved}"
            copied(tmp_path, "--src-tls-verify=false", f"docker://{pulled}", f"oci:{read}:1")
            index = json.loads((read / "index.json").read_text())
            manifest = json.loads((read / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
            assert manifest["config"]["digest"] == record.config
            tars = [
                gzip.decompress((read / "blobs/sha256" / x["digest"][7:]).read_bytes())
                for x in manifest["layers"]
            ]
            assert tars == [layer_of(files) for files in FILES]


@pytest.mark.peer("openssl")
def test_a_registry_with_a_certificate_of_its_own(
    tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.image.registry.client.is_loopback", lambda host: False)
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=lamina-test -addext subjectAltName=IP:127.0.0.1"
    )
    key, certificate = tmp_path / "server.key", tmp_path / "server.crt"
    subprocess.run(
        ["openssl", *words.split(), "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
        timeout=200,
    )
    store = Store(store_root)
    with DockerRegistry(tmp_path / "registry", tls=(certificate, key)) as secured:
        name = f"{secured.host}/team/tool:1"
        copied(
            tmp_path, "--dest-tls-verify=false", f"oci:{layout(tmp_path / 'layout')}:1", f"docker://{name}"
        )
        with (
            registries(tmp_path) as network,
            pytest.raises(RegistryError, match="certificate is not trusted"),
        ):
            pull(store, parse(name), registries=network)
        trusted = tmp_path / f"etc/docker/certs.d/{secured.host}/ca.crt"
        trusted.parent.mkdir(parents=True)
        trusted.write_bytes(certificate.read_bytes())
        with registries(tmp_path) as network:
            assert pull(store, parse(name), options=Options(keep_blobs=True), registries=network).layers
