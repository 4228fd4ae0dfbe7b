"""A commit names layers; what others know them by is made when they are to have them (docs/store.md)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine.images import MOST_KEPT, config_of
from lamina.errors import Conflict, InvalidInput
from lamina.image.documents import ImageConfig
from lamina.store import images, layers
from lamina.testing.registry import FakeRegistry
from support.image_archives import ImageSource, old_docker, tar, tree_tar
from support.leaks import Leaks
from support.small_images import busybox_tree

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def engine(store_root: Path, untouched_host: Leaks, tmp_path: Path) -> Engine:
    found = Engine(store_root)
    tree = tmp_path / "tree"
    tree.mkdir()
    busybox_tree(tree)
    source = ImageSource(
        tree_tar(tree), tar({"etc/second": b"2\n"}), config={"Env": ["PATH=/bin"], "Cmd": ["sh"]}
    )
    (tmp_path / "image.tar").write_bytes(tar(*old_docker((source, ["tiny:1"]))))
    found.load(tmp_path / "image.tar")
    return found


def ended(engine: Engine, image: str, script: str, **options: Any) -> Container:
    done = engine.run(image, ["sh", "-ec", script], capture_output=True, timeout=200, **options)
    assert done.returncode == 0, done.stderr
    return engine.container(done.container)


def output(engine: Engine, image: str, *words: str) -> str:
    done = engine.run(image, words, rm=True, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def layers_of(engine: Engine, reference: str) -> tuple[str, ...]:
    found = images.get(engine.store, engine.image(reference).id)
    assert found is not None
    return found.layers


def test_a_config_is_decoded_once_unless_it_is_large(engine: Engine, tmp_path: Path) -> None:
    """A program that has looked at a few images whose configs are as large as may be does not grow by what they are."""
    labels = {"of": "x" * MOST_KEPT}
    source = ImageSource(tar({"file": b"1\n"}), config={"Labels": labels})
    (tmp_path / "large.tar").write_bytes(tar(*old_docker((source, ["large:1"]))))
    engine.load(tmp_path / "large.tar")

    def config(name: str) -> ImageConfig:
        record = images.get(engine.store, engine.image(name).id)
        assert record is not None
        return config_of(engine.store, record)

    assert config("tiny:1") is config("tiny:1")
    assert config("large:1") == config("large:1")
    assert config("large:1") is not config("large:1")


def test_the_life_of_a_pending_image(engine: Engine, tmp_path: Path) -> None:
    box = ended(
        engine,
        "tiny:1",
        "echo one > /one; rm -f /etc/second; mkdir -p /d; echo x > /d/x",
        volumes=["/deep/own"],
    )
    base = layers_of(engine, "tiny:1")
    image = box.commit("made:1", message="by hand", author="me")
    assert image.is_pending and (image.tags, image.size) == (["made:1"], engine.image("tiny:1").size + 6)
    assert layers_of(engine, image.id)[:-1] == base
    # the container goes on above it
    box.start()
    assert box.wait(200) == 0
    assert [os.fsdecode(change.path) for change in box.changes(["/one"])] == ["/one"]
    # everything without digests
    assert output(engine, "made:1", "sh", "-c", "cat /one /d/x; ls / /etc") == output(
        engine, image.id[:12], "sh", "-c", "cat /one /d/x; ls / /etc"
    )
    assert not Path(
        os.fsdecode(layers.tree_of(engine.store, layers_of(engine, image.id)[-1])), "deep"
    ).exists()
    attrs = image.attrs
    assert attrs["Pending"] == [layers_of(engine, image.id)[-1]]
    assert attrs["RootFS"]["Layers"][-1] == f"pending:{attrs['Pending'][0]}"
    steps = engine.history("made:1")
    assert (steps[0].comment, steps[0].id, steps[0].size, steps[0].empty) == ("by hand", image.id, 6, False)
    image.tag("other:2")
    engine.storage.pin("made:1")
    assert engine.image("other:2").is_pinned and engine.images()[0].id == image.id
    above = ended(engine, "other:2", "echo two > /two")
    second = above.commit("made:2")
    assert len(second.attrs["Pending"]) == 2
    assert engine.storage.check(rehash=True).findings == ()
    usage = {use.id: use for use in engine.storage.usage().images}
    assert (usage[second.id].unique.bytes, usage[image.id].shared.bytes) == (4, engine.image("made:1").size)
    with pytest.raises(Conflict, match="several repositories"):
        engine.remove_image(image.id)
    # what others get
    engine.save("made:1", tmp_path / "made.tar")
    elsewhere = Engine(tmp_path / "elsewhere")
    (loaded,) = elsewhere.load(tmp_path / "made.tar")
    old = image.id
    image.reload()
    assert loaded.id == image.id != old and engine.image(old) == engine.image(old[:12]) == image
    assert (image.tags, image.is_pinned, image.is_pending) == (["made:1", "other:2"], True, False)
    assert image.size == loaded.size and image.attrs["RootFS"] == loaded.attrs["RootFS"]
    assert engine.image("made:2").is_pending
    # the container over what it was knows it still
    above.start()
    assert above.wait(200) == 0 and above.image_id == image.id == above.inspect()["Image"][7:]
    engine.remove_image("other:2")
    assert [one.id for one in engine.containers(all=True) if one.image_id == engine.image("made:1").id] == [
        above.id
    ]
    with pytest.raises(Conflict, match="used by"):
        engine.remove_image(image.id)
    engine.storage.pin(old, False)
    for one in (box, above):
        one.remove(volumes=True)
    engine.remove_image("made:2")
    engine.remove_image(old, force=True)
    engine.storage.collect()
    assert sorted(layers.identities(engine.store)) == sorted(base)
    assert engine.storage.check(rehash=True).findings == ()


def test_without_its_container_an_image_stays_whole(engine: Engine) -> None:
    box = ended(engine, "tiny:1", "echo one > /one")
    first = box.commit("made:1")
    box.start()
    box.wait(200)
    assert layers_of(engine, box.commit().id) != layers_of(engine, first.id), "it was written again"
    box.remove()
    engine.storage.collect()
    assert output(engine, "made:1", "cat", "/one") == "one\n"


def test_where_nothing_was_written_since_there_is_no_further_layer(engine: Engine) -> None:
    box = ended(engine, "tiny:1", "echo one > /one", volumes=["/deep/own"])
    first, second = box.commit("made:1"), box.commit("made:2")
    assert first.id != second.id and layers_of(engine, first.id) == layers_of(engine, second.id)
    assert engine.inspect_image("made:2")["RootFS"] == engine.inspect_image("made:1")["RootFS"]
    assert [step.empty for step in engine.history("made:2")][:2] == [True, False]
    again = ended(engine, "made:2", "true")
    assert layers_of(engine, again.commit().id) == layers_of(engine, first.id)
    box.remove(volumes=True)


def test_now(engine: Engine, tmp_path: Path) -> None:
    box = ended(engine, "tiny:1", "echo one > /one")
    image = box.commit("made:1", now=True)
    assert not image.is_pending and image.id == engine.image("made:1").id
    layer = layers.find(engine.store, layers_of(engine, image.id)[-1])
    assert layer is not None and layer.id.startswith("x") and layer.diff_id
    (Path(os.fsdecode(layer.path)) / "one").chmod(0o600)  # damage
    damaged = engine.storage.check(rehash=True).findings
    assert [(one.severity, one.what) for one in damaged] == [("damaged", layer.id)]
    (Path(os.fsdecode(layer.path)) / "one").chmod(0o644)
    assert engine.storage.check(rehash=True).findings == ()
    # its layers are known by now, so an image of the same ones is never pending
    second = box.commit("made:2")
    assert not second.is_pending
    actions = [
        (event.action, event.attributes.get("was", "")[:7])
        for event in engine.events(since=0, until=time.time(), filters={"type": ["image"]})
    ]
    assert actions[-3:-1] == [("tag", ""), ("digest", "sha256:")]
    with pytest.raises(InvalidInput, match="there is no such"):
        box.commit(consistency="never")


def test_a_push_makes_digests_once(engine: Engine) -> None:
    box = ended(engine, "tiny:1", "echo one > /one")
    with FakeRegistry() as fake:
        image = box.commit(f"{fake.host}/team/made:1")
        image.tag(f"{fake.host}/team/made:2")
        digest = engine.push(f"{fake.host}/team/made:1", tls_verify=False)
        assert engine.push_all(f"{fake.host}/team/made", tls_verify=False) == [
            (f"{fake.host}/team/made:{number}", digest) for number in (1, 2)
        ]
        image.reload()
        assert image.digests == [f"{fake.host}/team/made@{digest}"]
        engine.remove_image(image.id, force=True)
        engine.pull(f"{fake.host}/team/made:2", tls_verify=False)
        assert engine.image(f"{fake.host}/team/made:2").id == image.id
        assert output(engine, image.id, "cat", "/one") == "one\n"


def test_an_image_of_a_snapshot(engine: Engine) -> None:
    box = ended(engine, "tiny:1", "echo one > /one")
    snap = box.snapshot("first", message="after the first")
    box.start()
    box.wait(200)
    image = snap.to_image("lab:base", changes=["ENV A=1"])
    assert layers_of(engine, image.id)[-1] in snap.layers
    assert output(engine, "lab:base", "sh", "-c", "cat /one; echo $A") == "one\n1\n"
    assert engine.history("lab:base")[0].comment == "after the first"
    later = box.commit("lab:later")
    assert [step.comment for step in engine.history("lab:later")][:2] == ["", "after the first"]
    assert layers_of(engine, later.id)[:-1] == layers_of(engine, image.id)
    box.remove()
    engine.storage.collect()
    assert output(engine, "lab:base", "cat", "/one") == "one\n"


def test_a_layer_that_waited_for_no_disk_is_synced_before(engine: Engine) -> None:
    box = ended(engine, "tiny:1", "echo one > /one", durability="none")
    image = box.commit("made:1")
    layer = layers.find(engine.store, layers_of(engine, image.id)[-1])
    assert layer is not None and layer.extra["volatile"] is False


def test_what_a_start_made_is_in_no_archive(engine: Engine) -> None:
    """Neither of one that was frozen while it could not be taken away."""
    from lamina.engine.digesting import digested

    box = ended(engine, "tiny:1", "echo one > /some/new", volumes=["/some/where/own"])
    image = box.commit()
    layer = layers.find(engine.store, layers_of(engine, image.id)[-1])
    assert layer is not None
    tree = Path(os.fsdecode(layer.path))
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == ["some", "some/new"]
    (tree / "some/where/own").mkdir(parents=True)  # as if it had run
    (tree / "etc").mkdir(exist_ok=True)
    (tree / "etc/hosts").touch()
    assert "/some/where/own" in layer.extra["made"]
    record = images.get(engine.store, image.id)
    assert record is not None
    digested(engine.store, record)
    found = layers.find(engine.store, layer.id)
    assert found is not None and set(found.extra["left_out"]) >= {"some/where", "some/where/own"}
    assert "some" not in found.extra["left_out"]
    box.remove(volumes=True)
