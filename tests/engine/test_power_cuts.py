"""The power is cut at every step of a snapshot, a commit and a rewind, on a disk of their own: what is on it then is
mounted, its journal is replayed, and the store shows what was before or what was to come.

A file system that keeps the order of changes of names (store/order_of_names.py) may have written the first ones of
them at any time, because somebody else waited for something. That is tried at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.overlay.spec import MountSpec, top_first
from lamina.overlay.stack import Overlay
from lamina.store import durable, images, layers, order_of_names
from lamina.store.check import DAMAGED
from support.image_archives import ImageSource, old_docker, tar
from support.lives import await_burials
from support.power_cuts import Cuts, copied, make_disk, maker_of, mounted
from support.stores import in_memory
from support.written import put

pytestmark = [pytest.mark.root, pytest.mark.peer("mkfs.ext4")]

# how they are made; and mounted: a file that is renamed over another is not written for that reason alone, nor because
# seconds have passed
EXT4, XFS = "ext4", "xfs"
MADE = {EXT4: ("-b", "4096", "-O", "has_journal"), XFS: ("--unsupported", "-l", "size=10m")}
OPTIONS = {EXT4: "noauto_da_alloc,commit=1000", XFS: "nouuid"}
SIZES = {EXT4: 24, XFS: 64}
KINDS = [EXT4, *([XFS] if maker_of(XFS) else [])]


def prepared(place: Path) -> None:
    """A container with "first" in its snapshot and in the image "made:1", and "second" in its upper."""
    engine = Engine(place / "store")
    source = ImageSource(tar({"etc/": b"", "etc/base": b"1"}), config={"Cmd": ["true"]})
    (place / "image.tar").write_bytes(tar(*old_docker((source, ["whole:1"]))))
    engine.load(place / "image.tar")
    box = engine.create("whole:1", ["never"], name="box")
    put(box, "n", "first")
    box.snapshot("before")
    box.commit("made:1")
    put(box, "n", "second")
    await_burials()


def box_in(place: Path) -> Container:
    return Engine(place / "store").container("box")


def shown(spec: MountSpec) -> str:
    with Overlay(spec).open() as tree:
        return (tree / "n").read_text()


def shown_by(engine: Engine, reference: str) -> str:
    record = images.get(engine.store, engine.image(reference).id)
    assert record is not None
    trees = top_first([layers.tree_of(engine.store, layer) for layer in record.layers])
    return shown(MountSpec(trees))


def check(place: Path) -> tuple[str, list[str], str]:
    """What the container shows, which snapshots it has, and what the image shows; all of it is whole."""
    engine = Engine(place / "store")
    assert [one for one in engine.storage.check().findings if one.severity == DAMAGED] == []
    box = engine.container("box")
    names = [one.name for one in box.snapshots()]
    state = shown(box.overlays()[0][1]), names, shown_by(engine, "made:1")
    engine.storage.check(repair=True)
    assert engine.storage.check(rehash=True).findings == ()
    # and it goes on from there
    put(box, "later", "1")
    box.snapshot("later")
    assert shown(box.overlays()[0][1]) == state[0]
    for name, text in (("after", "second"), ("before", "first")):
        if name in names:
            box.rewind(name)
            assert shown(box.overlays()[0][1]) == text
    await_burials()
    engine.storage.collect()
    assert engine.storage.check(rehash=True).findings == ()
    return state


VERBS: dict[str, tuple[Callable[[Container], object], tuple[str, list[str], str]]] = {
    "snapshot": (lambda box: box.snapshot("after"), ("second", ["before", "after"], "first")),
    "commit": (lambda box: box.commit("made:1"), ("second", ["before"], "second")),
    "rewind": (lambda box: box.rewind("before"), ("first", ["before"], "first")),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("order", ["kept", "unknown"])
@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_any_step(
    tmp_path: Path, kind: str, order: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if order == "unknown":
        monkeypatch.setattr(order_of_names, "keeps_order", lambda *_: False)
    in_memory(cut_at_every_step, tmp_path, kind, verb, order)


def cut_at_every_step(place: Path, kind: str, verb: str, order: str) -> None:
    work, after = VERBS[verb]
    before = ("second", ["before"], "first")
    whole, point = make_disk(place / "whole", SIZES[kind], *MADE[kind], kind=kind), place / "mounted"
    point.mkdir()
    with mounted(whole, point, OPTIONS[kind]):
        prepared(point)
    in_one: list[bool] = []
    real = durable.sync_together

    def sync_together(paths: Mapping[bytes, str], **how: bool) -> None:
        in_one.append(how.get("in_one", False))
        real(paths, **how)

    for journal in (False, True):
        disk = copied(whole, place / "disk")
        with mounted(disk, point, OPTIONS[kind]), pytest.MonkeyPatch.context() as patched:
            box = box_in(point)
            cuts = Cuts(disk, point, journal=journal)
            order_of_names._known.clear()
            if journal:  # a program that has found out before what it is
                order_of_names.keeps_order(bytes(point))
            patched.setattr(durable, "sync_together", sync_together)
            in_one.clear()
            cuts.during(partial(work, box))
            assert any(in_one) == (journal and (kind, order) == ("ext4", "kept") and verb != "rewind")
            assert order_of_names.keeps_order(bytes(point)) == (order == "kept")
            await_burials()
        disk.unlink()
        states = []
        for step, copy in cuts.copies:
            with mounted(copy, point, OPTIONS[kind]):
                states.append(check(point))
                assert states[-1] in (before, after), (step, journal)
            copy.unlink()
        assert states[-1] == after
        if journal:
            assert len(states) > 5
            assert before in states
