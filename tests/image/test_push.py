"""Pushing: only what the registry has not, the same manifest where that can be, the same image always."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, NotFound, RegistryError
from lamina.image.documents import (
    ImageConfig,
    Manifest,
    RootFS,
    config_run,
    decode_config,
    decode_manifest,
    encode_config,
    media,
)
from lamina.image.platform import current
from lamina.image.reference import parse
from lamina.image.registry.credentials import Login
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.image.transfer.push import Pushed, push
from lamina.store import blobs, images, layers, tags
from lamina.store.garbage import collect
from lamina.store.images import ImageRecord
from lamina.store.leases import lease
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry, Fault
from support.image_schema import validator
from support.registries import registries

HERE = str(current())
FIRST = {"bin/tool": b"#!/bin/sh\n" * 500, "etc/name": b"first"}
SECOND = {"etc/other": b"second"}


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


class Moves:
    """Pulls and pushes of one store."""

    def __init__(self, store: Store, home: Path) -> None:
        self.store, self.home = store, home
        self.events: list[tuple[str, dict[str, Any]]] = []

    def hear(self, kind: str, /, **facts: Any) -> None:
        self.events.append((kind, facts))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [facts for told, facts in self.events if told == kind]

    def pull(self, fake: FakeRegistry, name: str, **options: Any) -> ImageRecord:
        with registries(self.home) as network:
            return pull(
                self.store, parse(f"{fake.host}/{name}"), options=Options(**options), registries=network
            )

    def push(self, record: ImageRecord, fake: FakeRegistry, name: str, **options: Any) -> Pushed:
        self.events = []
        with registries(self.home) as network:
            reference = parse(f"{fake.host}/{name}")
            return push(
                self.store, record, reference, self.hear, options=Options(**options), registries=network
            )


@pytest.fixture
def moves(store: Store, tmp_path: Path) -> Moves:
    return Moves(store, tmp_path)


@pytest.mark.parametrize("docker", [False, True])
@pytest.mark.parametrize("chunk", [None, 3000])
def test_with_its_blobs_an_image_arrives_as_it_was(
    moves: Moves, fake: FakeRegistry, docker: bool, chunk: int | None
) -> None:
    found = fake.add_image("team/tool", "1", FIRST, SECOND, FIRST, platform=HERE, docker=docker)
    record = moves.pull(fake, "team/tool:1", keep_blobs=True)
    with FakeRegistry() as other:
        pushed = moves.push(record, other, "new/place:2", chunk=chunk)
        assert pushed == Pushed(found, changed=False)
        assert other.tags["new/place"] == {"2": found}
        assert other.manifests["new/place"][found] == fake.manifests["team/tool"][found]
        assert other.blobs["new/place"] == fake.blobs["team/tool"]
        assert moves.events[-1] == ("done", {"image": record.id, "digest": found})
        assert moves.told("packing") == []
        other.requests.clear()
        moves.push(record, other, "new/place:3")
        assert not other.asked("POST")
        assert not other.asked("PATCH")
        assert len(moves.told("exists")) == 2  # the layer that is there twice is one


@pytest.mark.parametrize("keep", [False, True], ids=["layers", "blobs"])
def test_a_layer_that_is_there_twice_may_be_compressed_in_two_ways(
    moves: Moves, fake: FakeRegistry, keep: bool
) -> None:
    found = fake.add_image("team/tool", "1", FIRST, SECOND, FIRST, platform=HERE)
    manifest = json.loads(fake.manifests["team/tool"][found][0])
    other_way = gzip.compress(
        gzip.decompress(fake.blobs["team/tool"][manifest["layers"][0]["digest"]]), 1, mtime=1
    )
    manifest["layers"][2] = fake.descriptor("team/tool", other_way, manifest["layers"][2]["mediaType"])
    found = fake.add_manifest("team/tool", json.dumps(manifest).encode(), manifest["mediaType"], "2")
    record = moves.pull(fake, "team/tool:2", keep_blobs=keep)
    assert record.layers[0] == record.layers[2]
    assert moves.push(record, fake, "team/tool:3") == Pushed(found, changed=False)
    assert moves.told("warning") == []


def test_without_blobs_the_image_stays_the_same_and_its_manifest_is_new(
    moves: Moves, fake: FakeRegistry
) -> None:
    found = fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    record = moves.pull(fake, "team/tool:1")
    with FakeRegistry() as other:
        pushed = moves.push(record, other, "new/place:1")
        data, kind = other.manifests["new/place"][pushed.digest]
        document = decode_manifest(data, kind)
        assert isinstance(document, Manifest)
        assert document.config.digest == record.config
        assert pushed.changed == (pushed.digest != found)
        validator("image-manifest-schema.json").validate(json.loads(data))
        again = moves.push(record, other, "new/place:2")
        assert again.digest == pushed.digest
        # what was packed for the way is gone: neither a blob nor a left-over
        kept = {record.config, record.manifest, pushed.digest}
        assert set(blobs.identities(moves.store)) <= kept
        assert os.listdir(moves.store.tmp) == []
        if pushed.changed:
            assert any("packed again" in event["text"] for event in moves.told("warning"))
        # who pulls it gets the same image: the same id, and the same layers
        assert moves.pull(other, "new/place:1").id == record.id


def test_layers_may_be_packed_by_somebody_else(moves: Moves, fake: FakeRegistry) -> None:
    """As for an ordinary user, whose layers have files of ids that exist in a namespace alone."""
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    record = moves.pull(fake, "team/tool:1")
    asked: list[str] = []

    def packing(work: Any, layer: layers.Layer, path: bytes) -> Any:
        asked.append(layer.id)
        return work(layer, path, None, None)

    with FakeRegistry() as other:
        elsewhere = moves.push(record, other, "new/place:1", packing=packing)
    with FakeRegistry() as another:
        assert moves.push(record, another, "new/place:1") == elsewhere
    assert sorted(asked) == sorted(record.layers)


def test_what_was_packed_for_a_push_is_collected(moves: Moves, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    record = moves.pull(fake, "team/tool:1")
    with FakeRegistry() as other:
        moves.push(record, other, "new/place:1")
    collect(moves.store)
    kept = images.get(moves.store, record.id)
    assert kept is not None
    assert set(blobs.identities(moves.store)) == set(kept.blobs)


def test_back_to_where_it_came_from_nothing_is_sent(moves: Moves, fake: FakeRegistry) -> None:
    found = fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    record = moves.pull(fake, "team/tool:1")
    fake.requests.clear()
    assert moves.push(record, fake, "team/tool:2") == Pushed(found, changed=False)
    assert not fake.asked("POST")
    assert fake.tags["team/tool"] == {"1": found, "2": found}


def test_into_another_repository_of_the_same_registry_layers_are_mounted(
    moves: Moves, tmp_path: Path
) -> None:
    with FakeRegistry({"alice": "x"}) as guarded:
        with registries(tmp_path) as network:
            network.login(guarded.host, Login("alice", "x"))
        found = guarded.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
        record = moves.pull(guarded, "team/tool:1")
        assert moves.push(record, guarded, "other/tool:1") == Pushed(found, changed=False)
        assert len(moves.told("mounted")) == 2
        assert not guarded.asked("PUT", "/blobs/")
        assert guarded.blobs["other/tool"] == guarded.blobs["team/tool"]


def test_the_digest_is_remembered_for_the_name(moves: Moves, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    record = moves.pull(fake, "team/tool:1", keep_blobs=True)
    with FakeRegistry() as other:
        name = f"{other.host}/new/place:1"
        tags.tag(moves.store, name, record.id)
        pushed = moves.push(record, other, "new/place:1")
        kept = tags.find_name(moves.store, name)
        assert kept is not None
        assert kept.digests == (pushed.digest,)


def own_image(store: Store, frozen: bool) -> ImageRecord:
    """An image that was not pulled: a config of ours, one layer, frozen or imported."""
    with lease(store) as held:
        with layers.stage(store, None, held) as stage:
            Path(stage.path.decode(), "file").write_text("content")
            layer = stage.commit(None, 7, 1)
        diff_ids = [] if frozen else ["sha256:" + "0" * 64]
        config = ImageConfig(RootFS("layers", diff_ids), architecture=current().architecture, os="linux")
        digest = blobs.write_blob(store, encode_config(config), held)
        record = ImageRecord(
            id=digest.partition(":")[2],
            config=digest,
            layers=(layer.id,),
            blobs=(digest,),
            run=config_run(config),
        )
        return images.put(store, record, names=["docker.io/library/own:1"], lease=held)


def test_an_image_that_was_made_here_gets_a_manifest(moves: Moves, fake: FakeRegistry) -> None:
    record = own_image(moves.store, frozen=True)
    pushed = moves.push(record, fake, "own/tool:1")
    assert pushed.changed
    data, kind = fake.manifests["own/tool"][pushed.digest]
    assert kind == media.OCI_MANIFEST
    validator("image-manifest-schema.json").validate(json.loads(data))
    document = decode_manifest(data)
    assert isinstance(document, Manifest)
    config = fake.blobs["own/tool"][document.config.digest]
    validator("config-schema.json").validate(json.loads(config))
    decode_config(config, 1)
    assert any("another id" in event["text"] for event in moves.told("warning"))
    pulled = moves.pull(fake, "own/tool:1")
    path = layers.tree_of(moves.store, pulled.layers[0]) + b"/file"
    assert Path(path.decode()).read_text() == "content"
    assert moves.push(record, fake, "own/tool:2").digest == pushed.digest


def test_a_digest_is_not_pushed_to(moves: Moves, fake: FakeRegistry) -> None:
    record = own_image(moves.store, frozen=True)
    with pytest.raises(InvalidInput, match="a digest cannot be pushed to"):
        moves.push(record, fake, "own/tool@sha256:" + "0" * 64)


def test_an_image_that_is_gone_is_not_pushed(moves: Moves, fake: FakeRegistry) -> None:
    record = own_image(moves.store, frozen=True)
    images.remove(moves.store, record.id)
    with pytest.raises(NotFound, match="no such image"):
        moves.push(record, fake, "own/tool:1")


def test_an_image_that_is_removed_while_it_is_pushed_arrives_whole(moves: Moves, fake: FakeRegistry) -> None:
    """Removed by force, and collected, before its layer is read: what was left of the tree would be another image."""
    record = own_image(moves.store, frozen=True)
    done: list[tuple[str, ...]] = []

    def packing(work: Any, layer: layers.Layer, path: bytes) -> Any:
        images.remove(moves.store, record.id)
        done.append(collect(moves.store).layers)
        return work(layer, path, None, None)

    digest = moves.push(record, fake, "own/tool:1", packing=packing).digest
    assert done == [()]
    assert fake.manifests["own/tool"][digest]
    assert collect(moves.store).layers == record.layers, "now nobody needs it any more"


def test_who_may_not_push_is_told_so(moves: Moves, fake: FakeRegistry) -> None:
    fake.add_image("team/tool", "1", FIRST, platform=HERE)
    record = moves.pull(fake, "team/tool:1", keep_blobs=True)
    with FakeRegistry({"alice": "x"}) as guarded:
        with pytest.raises(RegistryError, match=f"access denied.*lamina login {guarded.host}"):
            moves.push(record, guarded, "team/tool:1")
        assert guarded.blobs == {}


@pytest.mark.parametrize(
    "fault",
    [
        Fault("break", method="PUT", path="/blobs/"),
        Fault("status", method="POST", status=503, times=2),
        Fault("status", method="HEAD", status=429),
        Fault("status", method="PUT", path="/manifests/", status=500),
        Fault("break", method="PUT", path="/manifests/"),
    ],
    ids=str,
)
def test_a_push_survives(moves: Moves, fake: FakeRegistry, fault: Fault) -> None:
    found = fake.add_image("team/tool", "1", FIRST, SECOND, platform=HERE)
    record = moves.pull(fake, "team/tool:1", keep_blobs=True)
    with FakeRegistry() as other:
        other.faults.append(fault)
        assert moves.push(record, other, "new/place:1").digest == found
