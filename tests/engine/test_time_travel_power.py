"""What a disk has after a power cut while a snapshot or an image is made, or right afterwards."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import EIO
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import committed_image, freezing
from lamina.engine.burials import sweep
from lamina.errors import KernelError, Unsupported
from lamina.image.documents import DEFAULT_LIMITS
from lamina.linux import flush
from lamina.store import lock, order_of_names, tags, trace
from lamina.store.layers import tree_of
from lamina.store.lock import Lock
from lamina.values import replace
from support.image_archives import ImageSource, old_docker, tar
from support.lives import await_burials, place_of
from support.written import put

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]


KEPT, UNKNOWN = "kept", "unknown"


@pytest.fixture(autouse=True)
def _unwatched() -> Iterator[None]:
    yield
    trace.hook = None


@pytest.fixture(params=[KEPT, UNKNOWN])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the file system keeps the order of changes of names."""
    monkeypatch.setattr(order_of_names, "keeps_order", lambda *_: request.param == KEPT)
    return str(request.param)


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
    """Every file that gets its name has its content on the disk, before anything of the container is moved."""
    moved = next(at for at, (what, path) in enumerate(found) if what == "to" and path.endswith("/fs"))
    files = [path for what, path in found if what == "from" and (".json." in path or "/partial/" in path)]
    assert len(files) >= 3
    for path in files:
        assert ("sync", path) in found[:moved], path


def waits_of(found: list[tuple[str, str]]) -> list[list[str]]:
    """What is waited for together."""
    groups: list[list[str]] = [[]]
    for what, path in found:
        if what == "sync":
            groups[-1].append(path)
        elif groups[-1]:
            groups.append([])
    return [group for group in groups if group]


def test_content_is_on_the_disk_before_its_name_and_a_layer_before_who_names_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, order: str
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
    assert named < snapshot < ended
    if order == KEPT:  # one wait for all names: a disk that has a later one has the earlier ones
        assert len(waits_of(found)) == 2
        assert "sync" not in {what for what, _ in found[begun:ended]}
        assert found.index(("sync", layer)) > ended < found.index(("sync", layers))
    else:
        assert len(waits_of(found)) == 3
        for synced in (layer, layers):
            assert named < found.index(("sync", synced)) < snapshot
    # the directory from which it was moved as well: else the disk may have one directory by two names
    for directory in (f"{home}/snapshots", home):
        assert found.index(("sync", directory), ended) > ended


def test_a_large_directory_is_on_the_disk_before_the_upper_has_another_name(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Two blocks of it may be written one without the other."""
    box = engine.create("tiny", ["true"], name="box")
    (box.files / "n").write_text("1")
    monkeypatch.setattr(freezing, "_is_large", lambda home: True)
    home = str(place_of(box))
    found = calls(monkeypatch, lambda: box.snapshot("first"))
    begun, _ = [at for at, one in enumerate(found) if one == ("to", f"{home}/container.json")]
    moved = next(at for at, (what, path) in enumerate(found) if what == "to" and path.endswith("/fs"))
    assert (("sync", home) in found[begun:moved]) == (order == UNKNOWN)
    assert len(waits_of(found)) == (2 if order == KEPT else 4)


def test_what_a_container_writes_that_need_not_be_on_the_disk_is_not_waited_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    box = engine.create("tiny", ["true"], name="box", durability="none")
    (box.files / "n").write_text("1")
    found = calls(monkeypatch, lambda: box.snapshot("first"))
    assert waits_of(found) == []
    assert (box.files / "n").read_text() == "1"
    assert waits_of(calls(monkeypatch, lambda: box.rewind("first"))) == []


def test_going_back_is_one_change(engine: Engine, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    box = engine.create("tiny", ["true"], name="box")
    (box.files / "n").write_text("1")
    box.snapshot("first")
    (box.files / "n").write_text("2")
    found = calls(monkeypatch, lambda: box.rewind("first"))
    home = str(place_of(box))
    assert waits_of(found) == [[f"{home}/container.json.new"], [home]]
    # nothing goes before that is on the disk
    gone = [
        at
        for at, (what, path) in enumerate(found)
        if what == "from" and "/upper-" in path and "." not in path
    ]
    assert found.index(("sync", home)) < gone[-1]


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
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, order: str
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    found = calls(monkeypatch, lambda: box.commit("made:1"))
    check_content_first(found)
    assert len(waits_of(found)) == (2 if order == KEPT else 3)
    store = os.fsdecode(engine.store.path)
    [blob] = [at for at, (what, path) in enumerate(found) if what == "to" and "/blobs/sha256/" in path]
    [record] = [at for at, (what, path) in enumerate(found) if what == "to" and "/images/records/" in path]
    [name] = [at for at, (what, path) in enumerate(found) if what == "to" and "/images/names/" in path]
    [layer] = [path for what, path in found if what == "to" and os.path.dirname(path) == f"{store}/layers"]
    # its config and its layer have their names before it; and the container stands on that layer then
    ended = [at for at, one in enumerate(found) if one == ("to", f"{place_of(box)}/container.json")][-1]
    assert blob < record
    assert found.index(("to", layer)) < ended < record < name
    for place in (f"{store}/blobs/sha256", f"{store}/layers"):
        synced = found.index(("sync", place))
        assert synced > name if order == KEPT else synced < record
    assert {("sync", f"{store}/images/records"), ("sync", f"{store}/images/names")} <= {*found[name:]}


def test_a_commit_that_waits_for_its_container_keeps_nobody_from_the_images(
    engine: Engine, tmp_path: Path, order: str
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    record = threading.Event()
    waits: list[Lock] = []

    def waiting(name: str) -> None:
        # before it changes the container's record, somebody else has the turn on that
        if name == "state.change-record" and not waits:
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


def test_a_commit_has_the_turn_on_the_images_while_these_get_their_names(
    engine: Engine, tmp_path: Path, order: str
) -> None:
    """And while the names are waited for, if what others do with them could be on the disk before."""
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    steps: list[tuple[str, bool]] = []

    def look(name: str) -> None:
        turn = lock.free_turn(engine.store.images)
        steps.append((name, turn is None))
        if turn is not None:
            turn.release()

    trace.hook = look
    box.commit("made:1")
    trace.hook = None
    taken = [name for name, is_taken in steps if is_taken]
    assert taken[:2] == ["image.rename", "name.rename"]
    assert bool(taken[2:]) == (order == UNKNOWN)
    assert {name.rpartition(".")[2] for name in taken[2:]} <= {"fsync", "remove"}


def test_what_was_frozen_is_on_the_disk_though_there_is_no_image_of_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")

    def fail(name: str) -> None:
        if name == "image.rename":
            raise OSError(EIO, os.strerror(EIO))

    def failing() -> None:
        trace.hook = fail
        with pytest.raises(KernelError, match="Input/output error"):
            box.commit("made:1")
        trace.hook = None

    home = str(place_of(box))
    found = calls(monkeypatch, failing)
    ended = [at for at, one in enumerate(found) if one == ("to", f"{home}/container.json")][-1]
    assert ("sync", home) in found[ended:]
    engine.tag("whole:1", "another:1")  # nobody has the turn
    assert box.commit("made:1").tags == ["made:1"]


def test_what_a_commit_has_written_beside_is_not_swept_away(
    engine: Engine, tmp_path: Path, order: str
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    left = Path(os.fsdecode(engine.store.images)) / "names" / "of-somebody-who-was-killed.json.new"
    left.write_text("{")
    seen: list[str] = []

    def sweep_away(name: str) -> None:
        seen.append(name)
        if "image.rename" not in seen:
            tags.sweep(engine.store)

    trace.hook = sweep_away
    box.commit("made:1")
    trace.hook = None
    assert not left.exists()
    assert engine.image("made:1").tags == ["made:1"]
    for below in ("records", "names"):
        assert not list((Path(os.fsdecode(engine.store.images)) / below).glob("*.new"))


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
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, order: str
) -> None:
    box = over_an_image(engine, tmp_path)
    put(box, "n", "1")
    box.commit("made:1")
    put(box, "m", "2")
    found = calls(monkeypatch, lambda: box.commit("made:1"))
    records = f"{os.fsdecode(engine.store.images)}/records"
    [record] = [at for at, (what, path) in enumerate(found) if what == "to" and path.startswith(records)]
    [name] = [at for at, (what, path) in enumerate(found) if what == "to" and "/images/names/" in path]
    assert record < name
    assert (("sync", records) in found[record:name]) == (order == UNKNOWN)


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
