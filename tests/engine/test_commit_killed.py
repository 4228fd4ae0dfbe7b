"""Killed at any step of a commit that makes its digests: the container has its files, images are whole or not there,
and the next one goes on.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import Engine
from lamina.errors import NotFound
from lamina.overlay.spec import MountSpec, top_first
from lamina.overlay.stack import Overlay
from lamina.store import images, layers, trace
from lamina.store.check import DAMAGED
from support.image_archives import ImageSource, old_docker, tar
from support.stores import in_memory
from support.written import put

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    trace.hook = None


def engine_of(place: Path) -> Engine:
    engine = Engine(place / "store")
    source = ImageSource(tar({"etc/": b"", "etc/base": b"1"}), config={"Cmd": ["true"]})
    (place / "image.tar").write_bytes(tar(*old_docker((source, ["tiny:1"]))))
    engine.load(place / "image.tar")
    return engine


def names_in(spec: MountSpec) -> set[str]:
    with Overlay(spec).open() as tree:
        return {node.name for node in tree.iterdir()} - {"etc"}


def shown_by(engine: Engine, reference: str) -> set[str]:
    record = images.get(engine.store, engine.image(reference).id)
    assert record is not None
    trees = [layers.tree_of(engine.store, layer) for layer in record.layers]
    return names_in(MountSpec(top_first(trees) if len(trees) > 1 else (*trees, engine.store.empty)))


def committed(place: Path, identity: str) -> None:
    Engine(place / "store").container(identity).commit("made:1", now=True)


def steps(place: Path, identity: str) -> int:
    seen: list[str] = []
    trace.hook = seen.append
    committed(place, identity)
    trace.hook = None
    assert {"state.rename-upper", "image.rename", "blob.adopt", "became.symlink", "image.remove"} <= {*seen}
    return len(seen)


def killed_at(number: int, place: Path, identity: str) -> None:
    pid = os.fork()
    if not pid:
        try:
            trace.hook = trace.parse(f"kill:{number}")
            committed(place, identity)
            os._exit(0)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_killed_at_any_step(tmp_path: Path) -> None:
    in_memory(kill_at_many_steps, tmp_path)


def kill_at_many_steps(place: Path) -> None:
    engine = engine_of(place)
    for _ in range(2):  # the first of a store makes what the next ones find
        box = engine.create("tiny:1", ["never"])
        put(box, "first", "first")
        total = steps(place, box.id)
        engine.remove_image("made:1", force=True)
    every = 1 if "LAMINA_STRESS" in os.environ else 3
    for number in range(1 + random.randrange(every), total + 1, every):
        box.remove()
        for image in engine.images():
            if image.tags != ["tiny:1"]:
                image.remove(force=True)
        box = engine.create("tiny:1", ["never"])
        put(box, "new", "new")
        killed_at(number, place, box.id)
        found = engine.storage.check().findings
        assert [one for one in found if one.severity == DAMAGED] == [], number
        try:
            assert shown_by(engine, "made:1") == {"new"}, number
            engine.save("made:1", place / "made.tar")
        except NotFound:
            assert number < total / 2, "it is named before its digests are made"
        if number % 2:
            engine.storage.collect()
        after = box.commit("after:1")
        assert (shown_by(engine, after.id), names_in(box.overlays()[0][1])) == ({"new"}, {"new"}), number
        engine.storage.collect()
        assert engine.storage.check(rehash=True).findings == (), number


def test_a_collector_at_any_step_leaves_what_a_commit_holds(tmp_path: Path) -> None:
    in_memory(collect_at_every_step, tmp_path)


def collect_at_every_step(place: Path) -> None:
    engine, number, is_there = engine_of(place), 0, False
    while not is_there:
        number += 1
        box = engine.create("tiny:1", ["never"])
        put(box, "new", "new")
        seen: list[str] = []

        def collect(name: str, seen: list[str] = seen, number: int = number) -> None:
            seen.append(name)
            # from there on the commit has the turn on the images
            if len(seen) == number and "image.rename" not in seen:
                trace.hook = None
                Engine(place / "store").storage.collect()
                trace.hook = collect

        trace.hook = collect
        made = box.commit("made:1")
        trace.hook = None
        is_there = "image.rename" in seen[:number]
        engine.storage.collect()
        assert shown_by(engine, "made:1") == {"new"}, seen[number - 1]
        assert engine.storage.check(rehash=True).findings == (), seen[number - 1]
        box.remove()
        made.remove(force=True)
    assert number > 10
