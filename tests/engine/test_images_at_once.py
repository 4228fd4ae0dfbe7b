"""Images that are run, removed, loaded and named by several at once: whoever started has its layers to its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina import Engine
from lamina.errors import Conflict, LaminaError, NotFound
from lamina.store import images, layers
from lamina.store.check import check
from support.image_archives import ImageSource, new_docker, tar, tree_tar
from support.leaks import Leaks
from support.small_images import busybox_tree, small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

ROUNDS = 12


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    busybox_tree(tmp_path / "tree")
    path = tmp_path / "archive"
    path.write_bytes(
        tar(new_docker(ImageSource(tree_tar(tmp_path / "tree"), config={"Cmd": ["true"]}), "tool:1"))
    )
    return path


def at_once(*jobs: Callable[[], object]) -> list[BaseException]:
    failures: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            for _ in range(ROUNDS):
                job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_run_remove_and_load(store_root: Path, archive: Path, untouched_host: Leaks) -> None:
    """Each verb works, or says that the image is not there or in use; never anything else."""
    ran: list[int] = []

    def run() -> None:
        try:
            done = Engine(store_root).run(
                "tool:1", ["cat", "/etc/image"], rm=True, capture_output=True, pull="never"
            )
            assert (done.returncode, done.stdout) == (0, b"busybox\n")
            ran.append(1)
        except NotFound as error:
            assert "no such image" in str(error)

    def remove() -> None:
        try:
            Engine(store_root).remove_image("tool:1", force=True)
        except (NotFound, Conflict):
            pass

    def load() -> None:
        Engine(store_root).load(archive)

    def tag() -> None:
        try:
            Engine(store_root).tag("tool:1", "other:1")
        except NotFound:
            pass

    load()
    assert at_once(run, run, remove, load, tag) == []
    Engine(store_root).load(archive)
    run()
    assert ran
    for image in Engine(store_root).images():
        Engine(store_root).remove_image(image.id, force=True)
    engine = Engine(store_root)
    engine.prune_images(everything=True)
    assert layers.identities(engine.store) == []
    assert os.listdir(engine.store.tmp) == []
    found = check(engine.store)
    assert found.findings == ()


def test_a_running_container_keeps_its_layers(store_root: Path, archive: Path, untouched_host: Leaks) -> None:
    engine = Engine(store_root)
    engine.load(archive)
    name = engine.run("tool:1", ["sh", "-c", "echo x >/new"]).name
    identity = engine.image("tool:1").id
    with pytest.raises(Conflict, match=f"used by 1 container \\({name}\\)"):
        engine.remove_image("tool:1")
    engine.remove_image("tool:1", force=True)
    container = engine.container(name)
    assert [change.path for change in container.changes() if not change.incidental] == [b"/new"]
    assert images.get(engine.store, identity) is None
    assert len(layers.identities(engine.store)) == 1
    container.remove()
    engine.prune_images()
    assert layers.identities(engine.store) == []


def test_an_image_that_is_being_started_from_cannot_be_removed(
    store_root: Path, untouched_host: Leaks
) -> None:
    engine = Engine(store_root)
    image = small_image(engine.store)
    with images.hold(engine.store, image.id), pytest.raises(Conflict, match="is being started from it"):
        engine.remove_image("tiny")
    assert engine.run("tiny", ["true"], rm=True).returncode == 0
    engine.remove_image("tiny")


def test_two_who_load_the_same_unpack_it_once(store_root: Path, archive: Path, untouched_host: Leaks) -> None:
    said: list[str] = []
    lock = threading.Lock()

    def load() -> None:
        def event(kind: str, **_: object) -> None:
            with lock:
                said.append(kind)

        Engine(store_root).load(archive, on_event=event)

    failures: list[BaseException] = []

    def safely() -> None:
        try:
            load()
        except LaminaError as error:
            failures.append(error)

    threads = [threading.Thread(target=safely) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(layers.identities(Engine(store_root).store)) == 1
