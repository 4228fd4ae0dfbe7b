"""Depth: many snapshots of a container, whose layers are made fewer in the background; nothing reads otherwise for it.

LAMINA_SNAPSHOTS says how many are made (default 120); 10,000 is what docs/time-travel.md promises.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine import chains, freezing, obtain, shallow, squashing
from lamina.errors import Conflict, LaminaError, Unsupported
from lamina.overlay.stack import Overlay
from lamina.store import claims, layers, trace
from lamina.store.burial import bury_all
from lamina.store.containers import Home
from lamina.store.garbage import collect
from lamina.store.squashing import cost, due, made_of, origins
from support.lives import until
from support.small_images import small_image
from support.written import delete, put

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

MANY = int(os.environ.get("LAMINA_SNAPSHOTS", "120"))


@pytest.fixture
def box(engine: Engine, store_root: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    """A container for which nothing is done in the background, but by `settle`."""
    monkeypatch.setattr(squashing, "start", lambda home: None)
    small_image(store_root)
    return engine.create("tiny", ["true"], name="box", durability="none")


def home_of(box: Container) -> Home:
    return Home(box.store, box.id)


def texts(box: Container, *paths: str) -> list[str | None]:
    with Overlay(box.overlays()[0][1]).open() as tree:
        return [(tree / path).read_text() if (tree / path).exists() else None for path in paths]


def depth(box: Container) -> int:
    return len(chains.chain_of(home_of(box).asked())[b"/"])


def settle(box: Container) -> None:
    """What is due is done now."""
    if squashing.wanted(home_of(box).asked()):
        assert squashing.squash_due(home_of(box))


# -- which layers are worth it


def test_few_layers_of_which_each_is_twice_what_is_above_it_stay() -> None:
    assert due([]) == 0
    assert due([9]) == 0
    assert due([100, 30, 10, 1]) == 0
    assert due([1, 1]) == 2
    assert due([100, 30, 10, 10]) == 3  # 30 is less than twice 20
    assert due([1, 1000]) == 2
    assert due([1000, 10, 10]) == 2
    assert cost(64 << 10, 3) == 4


def test_what_is_written_is_written_again_a_logarithmic_number_of_times() -> None:
    sizes: list[int] = []
    written = deepest = settled = 0
    for _ in range(10_000):
        sizes.append(1)
        deepest = max(deepest, len(sizes))
        if len(sizes) - settled == squashing.DEEP:
            count = max(due(sizes), squashing.DEEP)
            written += sum(sizes[-count:])
            sizes[-count:] = [sum(sizes[-count:])]
            settled = len(sizes)
    assert deepest <= squashing.DEEP + 8
    assert written <= 10_000 * 8


# -- a container


def test_any_number_of_snapshots(box: Container) -> None:
    """The chain stays short, whatever state is looked at reads as it did, and nothing is left over."""
    home = home_of(box)
    files: dict[str, str] = {}
    kept = {}
    deepest = 0
    for number in range(MANY):
        files |= {f"task/{number % 50}": f"{number}", "last": f"{number}"}
        put(box, f"task/{number % 50}", f"{number}")
        put(box, "last", f"{number}")
        if number % 7 == 3:
            gone = f"task/{(number - 3) % 50}"
            delete(box, gone)
            del files[gone]
        one = box.snapshot()
        if number % 40 == 20:
            kept[one.id] = dict(files)
        settle(box)
        deepest = max(deepest, depth(box))
    assert deepest <= squashing.DEEP + 10
    assert not os.path.lexists(home.path + b"/squash.error")
    assert shown(box) == files
    last = box.snapshots()[-1]
    for identity, known in kept.items():
        box.rewind(identity)
        assert shown(box) == known
    box.rewind(last)
    assert shown(box) == files
    check(box)


def shown(box: Container) -> dict[str, str]:
    with Overlay(box.overlays()[0][1]).open() as tree:
        found = {
            f"task/{name}": (tree / "task" / name).read_text()
            for _, _, names in (tree / "task").walk()
            for name in names
        }
        return {**found, "last": (tree / "last").read_text()}


def check(box: Container) -> None:
    from lamina.store.check import check as check_store

    bury_all(box.store)
    collect(box.store)
    assert check_store(box.store).findings == ()


def test_it_is_done_in_the_background(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process of its own, which is gone when it has done it."""
    monkeypatch.undo()
    for number in range(squashing.DEEP):
        put(box, f"f{number}", "x")
        box.snapshot()
    until(lambda: not squashing.wanted(home_of(box).asked()))
    put(box, "more", "x")
    box.snapshot()
    assert depth(box) == 2
    claims.claim(box.store, squashing._key(home_of(box))).release()


def test_where_the_background_does_not_keep_up(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squashing, "DEEPEST", squashing.DEEP + 4)
    deepest = 0
    for number in range(2 * squashing.DEEP + 10):
        put(box, f"f{number}", "x")
        box.snapshot()
        deepest = max(deepest, depth(box))
    assert deepest == squashing.DEEP + 4
    assert texts(box, "f0", f"f{2 * squashing.DEEP + 9}") == ["x", "x"]


def test_each_file_remembers_its_step(box: Container) -> None:
    steps = {}
    for number in range(squashing.DEEP):
        put(box, f"f{number}", "x")
        put(box, "same", str(number))
        steps[number] = box.snapshot(f"s{number}", message=f"step {number}")
    settle(box)
    put(box, "more", "x")
    box.snapshot("after")
    ids = chains.chain_of(home_of(box).asked())[b"/"]
    assert len(ids) == 2
    layer = layers.find(box.store, ids[0])
    assert layer is not None
    assert made_of(layer) == steps[squashing.DEEP - 1].record.places[0].layers
    known = origins(layer)
    assert known is not None
    for path, number in (("f0", 0), ("f7", 7), ("same", squashing.DEEP - 1)):
        step = known.step(path.encode())
        assert step is not None
        assert step["origin"]["snapshot"] == steps[number].id
        assert step["origin"]["message"] == f"step {number}"
    assert known.step(b"more") is None


def test_layers_that_nobody_stands_on_any_more_go(box: Container) -> None:
    for number in range(squashing.DEEP):
        put(box, f"f{number}", "x")
        box.snapshot()
    settle(box)
    put(box, "more", "x")
    box.snapshot()
    for one in box.snapshots()[:-1]:
        one.remove()
    collect(box.store)
    assert texts(box, "f0", "f7", "more") == ["x", "x", "x"]
    assert len(layers.identities(box.store)) == 1 + 2  # the image's, the squashed one, the last
    check(box)


def test_a_state_from_before_is_gone_back_to_and_goes_on(box: Container) -> None:
    for number in range(squashing.DEEP + 3):
        put(box, f"f{number}", "x")
        box.snapshot(f"s{number}")
        settle(box)
    box.rewind("s5")
    assert texts(box, "f5", "f6") == ["x", None]
    put(box, "other", "y")
    box.snapshot("branch")
    assert texts(box, "f5", "f6", "other") == ["x", None, "y"]
    box.rewind(f"s{squashing.DEEP + 2}")
    assert texts(box, "f6", "other") == ["x", None]
    check(box)


# -- asked for


def test_squash_by_hand(box: Container) -> None:
    for number in range(5):
        put(box, f"f{number}", str(number))
        box.snapshot(f"s{number}")
    put(box, "later", "z")
    [done] = box.squash()
    assert len(done.layers) == 5
    assert depth(box) == 1
    assert texts(box, "f0", "f4", "later") == ["0", "4", "z"]
    box.rewind("s2")
    assert texts(box, "f2", "f3", "later") == ["2", None, None]
    assert depth(box) == 3
    box.squash()
    check(box)


def test_squash_from_a_snapshot_on(box: Container) -> None:
    for number in range(6):
        put(box, f"f{number}", str(number))
        box.snapshot(f"s{number}")
    [done] = box.squash("s2")
    assert len(done.layers) == 3
    assert depth(box) == 4
    assert box.squash("s5") == []
    box.squash()
    with pytest.raises(Conflict, match="in one layer already"):
        box.squash("s3")


def test_squash_a_snapshot(box: Container) -> None:
    for number in range(4):
        put(box, f"f{number}", str(number))
        box.snapshot(f"s{number}")
    box.find_snapshot("s2").squash()
    assert len(box.find_snapshot("s2").record.places[0].layers) == 1
    box.rewind("s2")
    assert texts(box, "f2", "f3") == ["2", None]
    assert depth(box) == 1
    check(box)


def test_a_snapshot_that_is_squashed_while_others_go(
    box: Container, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from where it came from, and who found it before begins with what it consists of now."""
    first = box.snapshot("first")
    for number in range(3):
        put(box, f"f{number}", str(number))
        box.snapshot()
    put(box, "f3", "3")
    last = box.snapshot("last")
    real = squashing.squashed

    def squashed(*args: Any) -> Any:
        assert len(box.prune_snapshots()) == 3
        return real(*args)

    monkeypatch.setattr(squashing, "squashed", squashed)
    assert len(last.squash()) == 1
    assert box.find_snapshot("last").parent == first.id
    box.rewind("first")
    engine.storage.collect()
    [fork] = last.fork()
    assert texts(fork, "f0", "f3") == ["0", "3"]
    assert [change.path for change in last.changes()] == [b"/", b"/f0", b"/f1", b"/f2", b"/f3"]
    fork.remove()
    check(box)


def test_squash_an_image(engine: Engine, store_root: Path, tmp_path: Path) -> None:
    (tmp_path / "tree/task").mkdir(parents=True)
    (tmp_path / "tree/task/base").write_text("base")
    name = "base"
    engine.from_directory(tmp_path / "tree", name, changes=['CMD ["true"]', "LABEL a=b"])
    for number in range(3):
        box = engine.create(name, ["true"], durability="none")
        put(box, f"task/{number}", f"{number}")
        put(box, "last", f"{number}")
        if number == 2:
            delete(box, "task/base")
        name = f"n{number}"
        box.commit(name, message=f"step {number}")
        box.remove()
    whole, fewer = engine.image(name).squash("whole"), engine.image(name).squash("fewer", since="base")
    assert [len(one.attrs["RootFS"]["Layers"]) for one in (engine.image(name), fewer, whole)] == [4, 2, 1]
    for one in (whole, fewer):
        assert [step.comment for step in one.history()][:4] == [
            "3 layers squashed" if one == fewer else "4 layers squashed",
            "step 2",
            "step 1",
            "step 0",
        ]
        assert one.labels == {"a": "b"}
        box = engine.create(one.tags[0], ["true"], durability="none")
        assert shown(box) == {"task/0": "0", "task/1": "1", "task/2": "2", "last": "2"}
        box.remove()
    whole.save(tmp_path / "saved.tar")
    engine.image("whole").remove()
    [again] = engine.load(tmp_path / "saved.tar")
    box = engine.create(again.tags[0], ["true"], durability="none")
    assert shown(box) == {"task/0": "0", "task/1": "1", "task/2": "2", "last": "2"}
    with pytest.raises(Conflict, match="not made of"):
        fewer.squash(since="n0")
    check(box)


# -- when something goes wrong


def test_whatever_fails_nothing_reads_otherwise(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at any step: the same call works later, and nothing is left over."""
    for number in range(3):
        put(box, f"f{number}", str(number))
        box.snapshot(f"s{number}")

    def failing(at: int) -> list[str]:
        """The steps of a squash that fails at one of them."""
        met: list[str] = []

        def step(name: str) -> None:
            met.append(name)
            if len(met) == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(trace, "hook", step)
            try:
                box.squash()
            except LaminaError as error:
                assert len(met) >= at, error
        return met

    at = 1
    while len(failing(at)) >= at:
        assert texts(box, "f0", "f1", "f2") == ["0", "1", "2"]
        at += 1
        if depth(box) == 1:  # it failed after it was done
            break
    assert at > 8
    assert depth(box) == 1
    check(box)


def test_killed_at_any_step(box: Container) -> None:
    for number in range(3):
        put(box, f"f{number}", str(number))
        box.snapshot(f"s{number}")
    for at in range(1, 100):
        child = os.fork()
        if child == 0:
            try:
                trace.hook = trace.parse(f"kill:{at}")
                box.squash()
            finally:
                os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
        bury_all(box.store)
        assert texts(box, "f0", "f1", "f2") == ["0", "1", "2"]
        if not killed or depth(box) == 1:
            break
    assert at > 8
    box.rewind("s1")
    assert texts(box, "f1", "f2") == ["1", None]
    check(box)


def test_what_fails_in_the_background_is_noted_and_not_tried_all_the_time(
    box: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(squashing, "start", lambda home: tried.append(1))
    home = home_of(box)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    for number in range(squashing.DEEP + 3):
        put(box, f"f{number}", "x")
        box.snapshot()
        if number == squashing.DEEP:
            with monkeypatch.context() as patched:
                patched.setattr(squashing, "squash_run", full)
                squashing.in_background(box.store, box.id)
            assert b"full" in Path(os.fsdecode(home.path) + "/squash.error").read_bytes()
    assert len(tried) == 2
    with monkeypatch.context() as patched:  # nothing that would take too much of the memory, or of the room
        patched.setattr(squashing, "MOST_INODES", 9)
        [done] = squashing.squash_due(home)
        assert len(done.layers) == 9
        patched.setattr(squashing, "_has_room", lambda store, size: False)
        assert squashing.squash_due(home) == []
    check(box)


def test_what_fails_where_it_is_waited_for_is_not_tried_each_time_either(
    box: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def full(*args: object) -> None:
        tried.append(1)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(squashing, "DEEPEST", squashing.DEEP)
    with monkeypatch.context() as patched:
        patched.setattr(squashing, "squash_run", full)
        for number in range(2 * squashing.DEEP + 3):
            put(box, f"f{number}", "x")
            box.snapshot()
        assert len(tried) == 2
        patched.setattr(squashing, "_has_room", lambda store, size: False)
        os.unlink(home_of(box).path + squashing.ERROR)
        put(box, "more", "x")
        box.snapshot()
        patched.setattr(freezing, "MOST_LAYERS", depth(box))
        put(box, "more", "y")
        with pytest.raises(Unsupported, match=r"fewer could not be made of them: .*too little room"):
            box.snapshot()
    while depth(box) > squashing.DEEP:  # and once it can be done it is
        put(box, "more", os.urandom(3).hex())
        box.snapshot()
    assert not os.path.lexists(home_of(box).path + squashing.ERROR)
    check(box)


def test_an_image_of_very_many_layers(
    engine: Engine, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lowest layers are one for whoever stands on it; found again by the next, made again when it is gone."""
    monkeypatch.setattr(obtain, "MANY", 4)
    monkeypatch.setattr(shallow, "MOST", 4)
    monkeypatch.setattr(shallow, "ON_TOP", 2)

    def filled(number: int) -> Callable[[Path], None]:
        def fill(tree: Path) -> None:
            (tree / "task").mkdir()
            (tree / f"task/{number}").write_text(str(number))
            (tree / "task/last").write_text(str(number))

        return fill

    record = small_image(store_root, *map(filled, range(7)))
    one, two = (engine.create("tiny", ["true"], durability="none") for _ in range(2))
    own = chains.own_layers(home_of(one).asked())
    assert own == chains.own_layers(home_of(two).asked())
    assert own[1:] == record.layers[-2:]
    files = {**{f"{number}": f"{number}" for number in range(7)}, "last": "6"}
    assert texts(one, *(f"task/{name}" for name in files)) == list(files.values())
    put(one, "task/last", "mine")
    one.snapshot("s")
    assert one.image_id == record.id
    one.remove()
    two.remove()
    collect(engine.store)
    three = engine.create("tiny", ["true"], durability="none")
    assert chains.own_layers(home_of(three).asked())[0] != own[0]
    assert texts(three, "task/0", "task/last", "etc/image") == ["0", "6", "busybox\n"]
    check(three)


def test_what_was_found_out_about_a_chain_outlives_a_start(
    box: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next snapshot would have it looked at again, and find nothing to be done."""
    for number in range(squashing.DEEP):
        (box.files / f"f{number}").write_text("x" * 4096 * (squashing.DEEP - number) ** 3)
        box.snapshot()
    settle(box)
    (box.files / "last").write_text("x")
    box.snapshot()
    entry = home_of(box).asked()["overlays"][0]
    assert entry["settled"] > 0
    monkeypatch.setattr(squashing, "DEEP", len(entry["frozen"]))
    assert not squashing.wanted(home_of(box).asked())
    box.start()
    box.wait()
    until(lambda: box.state == "exited")
    assert home_of(box).asked()["overlays"][0] == entry
    assert not squashing.wanted(home_of(box).asked())
