"""What a container wrote, over another image."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from errno import EIO
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, LaminaError, NotFound, Unsupported
from lamina.store import trace
from support.small_images import small_image
from support.written import delete, put, shown, upper

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


def test_what_it_wrote_stays_and_all_else_is_the_new_images(box: Container, engine: Engine) -> None:
    put(box, "data/own", "mine")
    put(box, "data/same", "mine")
    box.snapshot("first")
    delete(box, "data/d/x")
    assert box.rebase("new", dry_run=True) == []
    assert box.rebase("new") == []
    assert shown(box, "data") == {
        "a": "new",
        "b": "new",
        "same": "mine",
        "d/y": "new",
        "fresh": "new",
        "own": "mine",
    }
    again = engine.container("box")
    assert again.image == "new"
    assert again.record["config"]["workdir"] == "/new"
    box.snapshot("second")
    with pytest.raises(Unsupported, match="over another image"):
        box.rewind("first")
    [fork] = box.fork(1)
    assert shown(fork, "data") == shown(box, "data")


def test_what_it_would_hide_is_named(box: Container) -> None:
    put(box, "data/a", "mine")  # another one in the new image
    put(box, "data/c", "mine")  # not in the new image
    put(box, "data/fresh", "mine")  # in the new image alone
    delete(box, "data/b")
    (upper(box) / "data/d").mkdir()
    os.setxattr(upper(box) / "data/d", "trusted.overlay.opaque", b"y")
    put(box, "data/d/mine", "mine")
    with pytest.raises(Conflict) as refused:
        box.rebase("new")
    named = [
        line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:] if line.startswith("  /")
    ]
    assert named == ["/data/a", "/data/b", "/data/c", "/data/d/y", "/data/fresh"]
    assert shown(box, "data")["a"] == "mine"
    assert box.image == "old"
    hidden = box.rebase("new", force=True)
    assert [os.fsdecode(one.path) for one in hidden] == named
    assert shown(box, "data") == {"a": "mine", "c": "mine", "fresh": "mine", "same": "same", "d/mine": "mine"}


def test_what_cannot_be_rebased(engine: Engine, box: Container) -> None:
    with pytest.raises(NotFound):
        box.rebase("nosuch")
    with pytest.raises(Unsupported, match="over this machine"):
        engine.create("host", ["true"], name="here").rebase("new")


def test_it_is_over_one_image_or_the_other_whatever_fails(
    box: Container, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step: a fork has the files of its parent, and says that it is over the same image."""
    put(box, "data/own", "mine")
    steps: list[str] = []
    monkeypatch.setattr(trace, "hook", steps.append)
    model = box.fork(1, durability="full")[0]
    steps.clear()
    model.rebase("new")
    for number in range(len(steps)):
        tried = box.fork(1, durability="full")[0]
        left = iter(range(len(steps) + 100))

        def fail(step: str, left: Iterator[int] = left, number: int = number) -> None:
            if next(left) == number:
                raise OSError(EIO, f"asked for at {step}")

        monkeypatch.setattr(trace, "hook", fail)
        with contextlib.suppress(LaminaError, OSError):
            tried.rebase("new")
        monkeypatch.setattr(trace, "hook", None)
        now = engine.container(tried.id)
        [fork] = now.fork(1)
        assert (fork.image, shown(fork, "data")) == (now.image, shown(now, "data")), steps[number]
