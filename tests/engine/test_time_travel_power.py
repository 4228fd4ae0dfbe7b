"""What a disk has after a power cut while a snapshot or an image is made, or right afterwards."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import committed_image
from lamina.engine.burials import sweep
from lamina.errors import Unsupported
from lamina.image.documents import DEFAULT_LIMITS
from lamina.linux import flush
from lamina.store import trace
from lamina.store.layers import tree_of
from lamina.store.lock import Lock
from lamina.values import replace
from support.image_archives import ImageSource, old_docker, tar
from support.lives import await_burials, place_of
from support.written import put

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    trace.hook = None


def calls(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> list[tuple[str, str]]:
    """What *work* syncs, and renames to where, in order; of each the path. What a thread does that removes what is left
    of something else is none of it.
    """
    found: list[tuple[str, str]] = []
    fsync, rename, own = os.fsync, os.rename, threading.get_ident()

    def synced(fd: int) -> None:
        if threading.get_ident() == own:
            found.append(("sync", os.readlink(f"/proc/self/fd/{int(fd)}")))
        fsync(fd)

    def renamed(source: bytes, target: bytes, **directories: int) -> None:
        if threading.get_ident() == own:
            found.append(("from", os.fsdecode(source)))
            found.append(("to", os.fsdecode(target)))
        rename(source, target, **directories)

    with monkeypatch.context() as patched:
        patched.setattr(flush, "_flush", None)  # of several at once as well
        patched.setattr(os, "fsync", synced)
        patched.setattr(os, "rename", renamed)
        work()
    return found


def over_an_image(engine: Engine, place: Path) -> Container:
    source = ImageSource(tar({"etc/": b"", "etc/base": b"1"}), config={"Cmd": ["true"]})
    (place / "image.tar").write_bytes(tar(*old_docker((source, ["whole:1"]))))
    engine.load(place / "image.tar")
    return engine.create("whole:1", ["never"])


def check_content_first(found: list[tuple[str, str]]) -> None:
    """Every record that gets its name has its content on the disk."""
    for at, (what, path) in enumerate(found):
        if what == "from" and path.endswith(".json.new"):
            assert ("sync", path) in found[:at], path


def test_content_is_on_the_disk_before_its_name_and_a_layer_before_who_names_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = engine.create("tiny", ["true"], name="box")
    (box.files / "n").write_text("1")
    home, layers = str(place_of(box)), os.fsdecode(engine.store.layers)

    found = calls(monkeypatch, lambda: box.snapshot("first"))
    check_content_first(found)
    [layer] = [path for what, path in found if what == "to" and os.path.dirname(path) == layers]
    stage = f"{home}/freezing-{os.path.basename(layer)}"
    moved, named = found.index(("to", f"{stage}/fs")), found.index(("to", layer))
    begun, ended = [at for at, one in enumerate(found) if one == ("to", f"{home}/container.json")]
    assert found.index(("sync", f"{stage}/layer.json")) < begun < moved < named < ended
    snapshot = next(at for at, (what, path) in enumerate(found) if what == "to" and "/snapshots/" in path)
    for synced in (layer, layers):
        assert named < found.index(("sync", synced)) < snapshot < ended
    # the directory from which it was moved as well: else the disk may have one directory by two names
    for directory in (f"{home}/snapshots", home):
        assert found.index(("sync", directory), ended) > ended


def test_of_one_that_runs_the_directory_it_was_moved_from_is_on_the_disk_as_well(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = engine.start("tiny", ["sleep", "600"], name="box", network="none", stop_timeout=0)
    box.exec(["touch", "/n"], check=True)
    found = calls(monkeypatch, box.snapshot)
    named = [
        at
        for at, (what, path) in enumerate(found)
        if what == "to" and path.startswith(os.fsdecode(engine.store.layers))
    ]
    assert found.index(("sync", str(place_of(box))), named[-1]) > named[-1]
    box.remove(force=True)


def test_a_layer_that_has_its_old_name_as_well_is_not_swept_away(engine: Engine) -> None:
    """As a disk may have it that was written in between: one directory, which is a layer's tree and an upper."""
    box = engine.create("tiny", ["true"], name="box")
    (box.files / "n").write_text("1")
    upper = Path(os.fsdecode(box.overlays()[0][1].upperdir or b""))
    state = box.snapshot("first")
    [tree] = [Path(os.fsdecode(tree_of(engine.store, one))) for one in state.record.new]
    stage = place_of(box) / f"freezing-{tree.parent.name}"
    with ExitStack() as mounted:
        for source, name in ((tree, upper), (tree.parent, stage)):
            name.mkdir()
            subprocess.run(["mount", "--bind", source, name], check=True)
            mounted.callback(os.system, f"umount {shlex.quote(str(name))}")
        sweep(box._home, {**box._home.asked(), "left": ["upper-0"]})
        await_burials()
        assert (tree / "n").read_text() == "1"
    sweep(box._home, {**box._home.asked(), "left": ["upper-0"]})
    await_burials()
    assert not upper.exists()
    assert (tree / "n").read_text() == "1"


def test_what_an_image_consists_of_is_on_the_disk_before_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    found = calls(monkeypatch, lambda: box.commit("made:1"))
    check_content_first(found)
    store = os.fsdecode(engine.store.path)
    [blob] = [at for at, (what, path) in enumerate(found) if what == "to" and "/blobs/sha256/" in path]
    [record] = [at for at, (what, path) in enumerate(found) if what == "to" and "/images/records/" in path]
    [name] = [at for at, (what, path) in enumerate(found) if what == "to" and "/images/names/" in path]
    assert blob < found.index(("sync", f"{store}/blobs/sha256")) < record < name
    assert {("sync", f"{store}/images/records"), ("sync", f"{store}/images/names")} <= {*found[name:]}
    # what it consists of: the config before it has its name, and so before anything was moved; the layer before it
    partial = next(path for what, path in found if what == "from" and "/blobs/partial/" in path)
    uppers = [(at, path) for at, (what, path) in enumerate(found) if what == "from" and "/upper-" in path]
    moved = next(at for at, path in uppers if not path.endswith(".new"))  # which is the one that comes next
    assert found.index(("sync", partial)) < moved < blob
    [layer] = [path for what, path in found if what == "to" and os.path.dirname(path) == f"{store}/layers"]
    assert found.index(("to", layer)) < found.index(("sync", f"{store}/layers")) < record
    # and the container stands on that layer when there is an image of it
    ended = [at for at, one in enumerate(found) if one == ("to", f"{place_of(box)}/container.json")][-1]
    assert ended < record < name < found.index(("sync", f"{store}/images/records"))


def test_a_commit_that_waits_for_its_container_keeps_nobody_from_the_images(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    record = threading.Event()
    waits: list[Lock] = []

    def waiting(name: str) -> None:
        # between what it froze and the record that says so, somebody else has the turn on the container's directory
        if name == "state.rename-layer" and not waits:
            turn = box._home.turn()
            waits.append(turn)
            record.set()

    trace.hook = waiting
    committing = threading.Thread(target=box.commit, args=("made:1",))
    committing.start()
    try:
        assert record.wait(60)
        engine.tag("whole:1", "another:1")
    finally:
        trace.hook = None
        waits[0].release()
        committing.join()
    assert {"made:1", "another:1"} <= {tag for image in engine.images() for tag in image.tags}


def test_a_commit_with_too_many_layers_moves_nothing(engine: Engine, tmp_path: Path) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    before = (place_of(box) / "container.json").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(committed_image, "DEFAULT_LIMITS", replace(DEFAULT_LIMITS, layers=1))
        with pytest.raises(Unsupported, match="an image of 2 layers"):
            box.commit("made:1")
    assert (place_of(box) / "container.json").read_bytes() == before
    assert (box.files / "n").read_text() == "1"
    assert [image for image in engine.images() if "made:1" in image.tags] == []
    assert box.commit("made:1").tags == ["made:1"]


def test_a_name_that_stood_for_another_image_is_taken_after_that_is_on_the_disk(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    box.commit("made:1")
    put(box, "m", "2")
    found = calls(monkeypatch, lambda: box.commit("made:1"))
    records = f"{os.fsdecode(engine.store.images)}/records"
    [name] = [at for at, (what, path) in enumerate(found) if what == "to" and "/images/names/" in path]
    assert ("sync", records) in found[:name]


def begun(box: Container, work: Callable[[], object]) -> bytes:
    """Do *work*; the record of the container when the first rename of what it wrote came next."""
    path = place_of(box) / "container.json"
    seen: list[bytes] = []

    def hook(name: str) -> None:
        if name == "state.rename-upper":
            seen.append(path.read_bytes())

    trace.hook = hook
    work()
    trace.hook = None
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("started", [False, True])
def test_the_record_may_be_the_one_before(engine: Engine, started: bool) -> None:
    """Nobody waited for its last change: what is done once more comes to the same, also over what was written since."""
    box = engine.create("tiny", ["sh", "-c", "echo later >/later"], name="box")
    (box.files / "n").write_text("1")
    parent = box.snapshot("parent")
    (box.files / "n").write_text("2")
    before = begun(box, lambda: box.snapshot("first"))
    if started:
        box.start()
        box.wait()
    else:
        (box.files / "later").write_text("later\n")
    (place_of(box) / "container.json").write_bytes(before)

    box = Engine(os.fsdecode(engine.store.path)).container("box")
    assert ((box.files / "n").read_text(), (box.files / "later").read_text()) == ("2", "later\n")
    first = box.find_snapshot("first")
    assert (first.parent, box.snapshot("second").parent) == (parent.id, first.id)
    box.rewind("first")
    assert ((box.files / "n").read_text(), (box.files / "later").exists()) == ("2", False)
    engine.storage.collect()
    assert engine.storage.check().findings == ()


def test_a_layer_whose_tree_is_still_the_upper(engine: Engine) -> None:
    """Of two directories one was written, the other not: the upper still has its name, and the layer is there."""
    box = engine.create("tiny", ["true"], name="box")
    (box.files / "n").write_text("1")
    upper = Path(os.fsdecode(box.overlays()[0][1].upperdir or b""))
    before = begun(box, box.snapshot)
    os.rename(box.overlays()[0][1].lowerdirs[0], os.fsencode(upper))
    shutil.rmtree(place_of(box) / "snapshots")
    (place_of(box) / "container.json").write_bytes(before)

    box = Engine(os.fsdecode(engine.store.path)).container("box")
    box.snapshot("after")
    assert (box.files / "n").read_text() == "1"
    engine.storage.collect()
    assert engine.storage.check().findings == ()
