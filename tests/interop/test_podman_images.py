"""podman 5 and skopeo of the peers root, over a real registry: each reads the images that the other side pushed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lamina.image.platform import current
from lamina.image.reference import parse
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.image.transfer.push import push
from lamina.store import layers
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry
from support.peers import PeerRoot
from support.registries import DockerRegistry, registries

pytestmark = [pytest.mark.root, pytest.mark.peer("docker-registry", "setpriv"), pytest.mark.slow]
FILES = ({"bin/tool": b"#!/bin/sh\n" * 1000, "etc/name": b"first"}, {"etc/other": b"second"})
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def podman(make_peer_root: Callable[..., PeerRoot], tmp_path: Path) -> Callable[..., str]:
    root = make_peer_root(network="host")
    (tmp_path / "policy.json").write_text(POLICY)
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    environment = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf")}

    def run(*words: str) -> str:
        done = root.run(["podman", "--cgroup-manager=cgroupfs", *words], env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_each_reads_what_the_other_pushed(
    registry: DockerRegistry, podman: Callable[..., str], tmp_path: Path, store_root: Path
) -> None:
    store = Store(store_root)
    with FakeRegistry() as fake, registries(tmp_path) as network:
        fake.add_image("team/tool", "1", *FILES, platform=str(current()), config={"Cmd": ["/bin/tool"]})
        record = pull(store, parse(f"{fake.host}/team/tool:1"), registries=network)
        ours = f"{registry.host}/from/lamina:1"
        pushed = push(store, record, parse(ours), registries=network)
    podman("pull", "-q", "--tls-verify=false", f"--signature-policy={tmp_path / 'policy.json'}", ours)
    inspected = json.loads(podman("image", "inspect", ours))[0]
    assert (inspected["Id"], inspected["Digest"]) == (record.id, pushed.digest)
    assert [layer.removeprefix("sha256:") for layer in inspected["RootFS"]["Layers"]] == list(record.layers)

    theirs = f"{registry.host}/from/podman:1"
    podman("tag", ours, theirs)
    podman("push", "-q", "--tls-verify=false", f"--signature-policy={tmp_path / 'policy.json'}", theirs)
    with registries(tmp_path) as network:
        back = pull(store, parse(theirs), options=Options(keep_blobs=True), registries=network)
    assert (back.id, back.layers) == (record.id, record.layers)
    tree = Path(layers.tree_of(store, back.layers[1]).decode())
    assert (tree / "etc/other").read_bytes() == b"second"
