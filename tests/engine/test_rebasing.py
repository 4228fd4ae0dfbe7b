"""What a container wrote, over another image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, NotFound, Unsupported
from lamina.overlay.stack import Overlay
from lamina.store.containers import Home
from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

OLD = {"a": "old", "b": "old", "c": "old", "same": "same", "d/x": "old"}
NEW = {"a": "new", "b": "new", "same": "same", "d/x": "old", "d/y": "new", "fresh": "new"}


def image(root: Path, name: str, files: dict[str, str]) -> None:
    def fill(tree: Path) -> None:
        for path, text in files.items():
            place = tree / "data" / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    small_image(
        root, fill, names=(f"docker.io/library/{name}:latest",), labels={"is": name}, workdir=f"/{name}"
    )


@pytest.fixture
def box(engine: Engine, store_root: Path) -> Container:
    image(store_root, "old", OLD)
    image(store_root, "new", NEW)
    return engine.create("old", ["cat", "/data/fresh"], name="box", durability="none")


def upper(box: Container) -> Path:
    home = Home(box.store, box.id)
    return Path(os.fsdecode(home.path), os.fsdecode(home.asked()["overlays"][0]["upper"]))


def put(box: Container, path: str, text: str) -> None:
    place = upper(box) / "data" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def delete(box: Container, path: str) -> None:
    place = upper(box) / "data" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(place, 0o020000, 0)


def shown(box: Container) -> dict[str, str]:
    with Overlay(box.overlays()[0][1]).open() as tree:
        top = tree / "data"
        found = [directory / name for directory, _, others in top.walk() for name in others]
        return {str(one)[len("/data/") :]: one.read_text() for one in found}


def test_what_it_wrote_stays_and_all_else_is_the_new_images(box: Container, engine: Engine) -> None:
    put(box, "own", "mine")
    put(box, "same", "mine")
    box.snapshot("first")
    delete(box, "d/x")
    assert box.rebase("new", dry_run=True) == []
    assert box.rebase("new") == []
    assert shown(box) == {"a": "new", "b": "new", "same": "mine", "d/y": "new", "fresh": "new", "own": "mine"}
    again = engine.container("box")
    assert again.image == "new"
    assert again.record["config"]["workdir"] == "/new"
    box.snapshot("second")
    with pytest.raises(Unsupported, match="over another image"):
        box.rewind("first")
    [fork] = box.fork(1)
    assert shown(fork) == shown(box)


def test_what_it_would_hide_is_named(box: Container) -> None:
    put(box, "a", "mine")  # another one in the new image
    put(box, "c", "mine")  # not in the new image
    put(box, "fresh", "mine")  # in the new image alone
    delete(box, "b")
    (upper(box) / "data/d").mkdir()
    os.setxattr(upper(box) / "data/d", "trusted.overlay.opaque", b"y")
    put(box, "d/mine", "mine")
    with pytest.raises(Conflict) as refused:
        box.rebase("new")
    named = [
        line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:] if line.startswith("  /")
    ]
    assert named == ["/data/a", "/data/b", "/data/c", "/data/d/y", "/data/fresh"]
    assert shown(box)["a"] == "mine"
    assert box.image == "old"
    hidden = box.rebase("new", force=True)
    assert [os.fsdecode(one.path) for one in hidden] == named
    assert shown(box) == {"a": "mine", "c": "mine", "fresh": "mine", "same": "same", "d/mine": "mine"}


def test_what_cannot_be_rebased(engine: Engine, box: Container) -> None:
    with pytest.raises(NotFound):
        box.rebase("nosuch")
    with pytest.raises(Unsupported, match="over this machine"):
        engine.create("host", ["true"], name="here").rebase("new")
