"""Images whose layers have no digests yet: made when they are needed, once, the same whoever makes them."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import Corrupt, InvalidInput, NotFound, Unsupported
from lamina.image.archive.load import record_of
from lamina.image.documents import PENDING, ImageConfig, RootFS, decode_config, encode_config
from lamina.image.pack import pack_stored
from lamina.image.pending import packed_blob, with_digests
from lamina.image.platform import current
from lamina.image.reference import parse
from lamina.image.transfer.options import Options
from lamina.image.transfer.pull import pull
from lamina.image.transfer.push import push
from lamina.store import blobs, images, layers, sizes
from lamina.store.digest import digest_of
from lamina.store.garbage import collect
from lamina.store.images import ImageRecord
from lamina.store.layers import Layer
from lamina.store.leases import Lease, lease
from lamina.store.root import Store
from lamina.testing.registry import FakeRegistry
from lamina.values import replace
from support.registries import registries

NAME = "docker.io/library/made:1"


@pytest.fixture
def store(store_root: Path) -> Store:
    return Store(store_root)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


def frozen(store: Store, held: Lease, files: dict[str, str], made: tuple[str, ...] = ()) -> Layer:
    """A layer as a container leaves it: not counted, without a digest."""
    with layers.stage(store, None, held) as stage:
        for name, text in files.items():
            place = Path(os.fsdecode(stage.path), name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir() if name.endswith("/") else place.write_text(text)
        layer = stage.commit(None, 0, 0, {"made": list(made)})
    sizes.amend(store, layer.id, lambda facts: {**facts, "size": None, "inodes": None})
    found = layers.find(store, layer.id)
    assert found is not None and not found.counted
    return found


def pending(
    store: Store, *trees: dict[str, str], over: ImageRecord | None = None, made: tuple[str, ...] = ()
) -> ImageRecord:
    with lease(store) as held:
        found = [layers.find(store, one) for one in over.layers] if over else []
        new = [frozen(store, held, tree, made) for tree in trees]
        known = [str(layer.diff_id) for layer in found if layer]
        texts = [*known, *(PENDING + layer.id for layer in new)]
        config = ImageConfig(RootFS("layers", texts), architecture=current().architecture, os="linux")
        data = encode_config(config)
        blob = blobs.write_blob(store, data, held)
        base = over.manifest if over else None
        record = replace(
            record_of(data, config, [*(layer for layer in found if layer), *new], blobs=(blob,)),
            pending=tuple(layer.id for layer in new),
            base=base,
            blobs=(blob, *([base] if base else [])),
        )
        return images.put(store, record, [NAME], lease=held)


def made_of(store: Store, record: ImageRecord) -> ImageRecord:
    with lease(store) as held:
        return with_digests(store, record, held)


def config_of(store: Store, record: ImageRecord) -> ImageConfig:
    return decode_config(blobs.read_blob(store, record.config, 1 << 20))


def members(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return sorted(one.name for one in archive)


def test_digests_are_made_once_and_kept(store: Store) -> None:
    first = pending(store, {"etc/a": "one"}, {"etc/b": "two", "big": "x" * 5000})
    made = made_of(store, first)
    assert (made.pending, made.layers, images.get(store, first.id)) == ((), first.layers, made)
    assert made.id == made.config.partition(":")[2] == images.identities(store)[0]
    assert made.size == 5006
    diff_ids = config_of(store, made).diff_ids
    for identity, promised in zip(made.layers, diff_ids, strict=True):
        layer = layers.find(store, identity)
        assert layer is not None and layer.diff_id == promised and layer.counted
        kept = packed_blob(store, layer)
        assert kept is not None and kept[0] in made.blobs
        data = gzip.decompress(blobs.read_blob(store, kept[0], 1 << 20))
        assert digest_of(data) == promised and len(data) == layer.extra["packed"]["archive"]
    collect(store)
    assert set(blobs.identities(store)) == set(made.blobs)
    assert made_of(store, first).id == made_of(store, made).id == made.id


def test_packed_again_it_is_the_same(store: Store) -> None:
    """Also without what was kept; a layer that was changed since is noticed."""
    made = made_of(store, pending(store, {"a": "one"}))
    layer = layers.find(store, made.layers[0])
    assert layer is not None
    out = io.BytesIO()
    assert pack_stored(layer, out).diff_id == layer.diff_id == digest_of(out.getvalue())
    Path(os.fsdecode(layer.path), "a").write_text("two")
    with pytest.raises(Corrupt, match="its files were changed"):
        pack_stored(layer, io.BytesIO())


def test_an_image_on_top_of_one_that_is_pending(store: Store) -> None:
    below = pending(store, {"a": "one"})
    with lease(store) as held:
        top = frozen(store, held, {"b": "two"})
        texts = [PENDING + below.layers[0], PENDING + top.id]
        config = ImageConfig(RootFS("layers", texts), architecture="amd64", os="linux")
        data = encode_config(config)
        blob = blobs.write_blob(store, data, held)
        base = layers.find(store, below.layers[0])
        assert base is not None
        record = replace(record_of(data, config, [base, top], blobs=(blob,)), pending=(base.id, top.id))
        above = images.put(store, record, lease=held)
    made_above = made_of(store, above)
    still = images.get(store, below.id)
    assert still is not None and still.pending, "it is another image"
    made_below = made_of(store, below)
    assert config_of(store, made_above).diff_ids[0] == config_of(store, made_below).diff_ids[0]
    images.remove(store, made_above.id)
    collect(store)
    kept = images.get(store, below.id)
    assert kept is not None and all(blobs.has(store, blob) for blob in kept.blobs)


def test_two_at_once_make_one_image(store: Store) -> None:
    record = pending(store, {f"file{number}": "x" * 3000 for number in range(50)}, {"b": "2"})
    found: list[ImageRecord] = []
    packed: list[str] = []

    def make() -> None:
        with lease(store) as held:

            def hear(kind: str, /, **facts: Any) -> None:
                if kind == "packing":
                    packed.append(facts["id"])

            found.append(with_digests(store, record, held, events=hear))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert [one.id for one in found] == [found[0].id] * 4
    assert sorted(packed) == sorted(record.layers), "each layer was packed once"
    assert images.identities(store) == [found[0].id]


def test_what_a_start_made_to_mount_on_it_is_left_out(
    store: Store, fake: FakeRegistry, tmp_path: Path
) -> None:
    """As long as nothing is in it, and not what the image has itself."""
    fake.add_image(
        "team/tool", "1", {"etc/hosts": b"", "dev/": b"", "srv/own": b"1"}, platform=str(current())
    )
    with registries(tmp_path) as network:
        base = pull(store, parse(f"{fake.host}/team/tool:1"), registries=network)
    upper = {
        "etc/hostname": "", "etc/new": "1", "proc/": "", "some/where/": "", "data/": "", "data/in": "x",
        "mine/": "", "empty": "",
    }  # fmt: skip
    places = ("/etc/hostname", "/etc/hosts", "/proc", "/some/where", "/data", "/../../escape", "")
    made = made_of(store, pending(store, upper, over=base, made=places))
    layer = layers.find(store, made.layers[-1])
    assert layer is not None
    out = io.BytesIO()
    pack_stored(layer, out)
    assert members(out.getvalue()) == [".", "data", "data/in", "empty", "etc", "etc/new", "mine"]
    assert sorted(layer.extra["left_out"]) == ["etc/hostname", "proc", "some", "some/where"]


def test_pushed_it_is_the_same_image_elsewhere(store: Store, fake: FakeRegistry, tmp_path: Path) -> None:
    """Of the image it was made from nothing is packed or sent again; the second push sends nothing at all."""
    fake.add_image("team/tool", "1", {"bin/tool": b"#!" * 900}, platform=str(current()))
    with registries(tmp_path) as network:
        base = pull(store, parse(f"{fake.host}/team/tool:1"), registries=network)
        record = made_of(store, pending(store, {"etc/new": "content"}, over=base))
        told: list[str] = []
        reference = parse(f"{fake.host}/own/thing:1")
        options = Options()

        def hear(kind: str, /, **facts: Any) -> None:
            told.append(kind)

        push(store, record, reference, hear, options=options, registries=network)
        assert "packing" not in told
        fake.requests.clear()
        push(store, record, reference, registries=network)
        assert not fake.asked("PUT", "/blobs/")
        elsewhere = Store(tmp_path / "elsewhere")
        pulled = pull(elsewhere, reference, registries=network)
    assert pulled.id == record.id
    tree = layers.tree_of(elsewhere, pulled.layers[-1])
    assert Path(os.fsdecode(tree), "etc/new").read_text() == "content"


def test_what_no_archive_can_say_leaves_it_as_it_was(store: Store) -> None:
    record = pending(store, {"a": "1"}, {"d/.wh.x": "1"})
    for _ in range(2):
        with pytest.raises(Unsupported, match=r"\.wh\.x"):
            made_of(store, record)
        assert images.get(store, record.id) == record
    assert os.listdir(store.tmp) == []


def test_one_that_was_removed_is_not_brought_back(store: Store) -> None:
    record = pending(store, {"a": "1"})
    images.remove(store, record.id)
    collect(store)
    with pytest.raises(NotFound):
        made_of(store, record)
    assert images.identities(store) == [] and list(blobs.identities(store)) == []


def test_nobody_else_can_name_a_layer_of_this_store(store: Store) -> None:
    """The attack: a config from a registry or an archive that says "pending:x..." to get at what a container wrote."""
    record = pending(store, {"secret": "1"})
    data = blobs.read_blob(store, record.config, 1 << 20)
    assert json.loads(data)["rootfs"]["diff_ids"] == [PENDING + record.layers[0]]
    with pytest.raises(InvalidInput, match="not a digest"):
        decode_config(data)
    for text in ("pending:", "pending:../../x", "pending:sha256:" + "0" * 64, "pending:x" + "g" * 63):
        config = ImageConfig(RootFS("layers", [text]), architecture="amd64", os="linux")
        with pytest.raises(InvalidInput):
            decode_config(encode_config(config), pending=True)
