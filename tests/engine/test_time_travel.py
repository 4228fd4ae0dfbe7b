"""Snapshots, and going back: containers that do not run, over an image and over this machine."""

from __future__ import annotations

import asyncio
import os
import tarfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lamina import AsyncEngine, Container, Engine, Snapshot
from lamina.engine import chains
from lamina.engine.asynchronous.snapshot import AsyncSnapshot
from lamina.errors import Conflict, InvalidInput, NotFound
from lamina.store import layers
from support.lives import said, until
from support.written import upper

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]

COUNT = "echo run >>/var/runs; cat /var/runs"


def write(box: Container, path: str, text: str) -> None:
    file = box.files / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def read(box: Container, path: str) -> str:
    return (box.files / path).read_text()


def is_there(box: Container, path: str) -> bool:
    return (box.files / path).exists()


def changed(box: Container) -> dict[str, str]:
    """What it did, by path, without what a start puts there."""
    return {os.fsdecode(one.path): one.kind for one in box.changes() if not one.incidental}


def run(box: Container) -> None:
    box.start()
    assert box.wait(200) == 0


def test_a_container_goes_through_its_states(engine: Engine) -> None:
    box = engine.create("tiny", ["sh", "-c", COUNT], name="box")
    one = box.snapshot("one")
    assert (one.record.new, one.parent, one.size, one.command) == ((), None, 0, [])
    run(box)
    two = box.snapshot("two", message="after a run")
    assert (two.parent, two.size, two.message, len(two.record.new)) == (one.id, 4, "after a run", 1)
    assert two.command == ["sh", "-c", COUNT]
    assert datetime.fromisoformat(two.inspect()["Created"]).timestamp() == pytest.approx(two.created, abs=1)
    (box.files / "etc/passwd").write_text("eve:x:77:77::/:/bin/sh\n")
    (box.files / "etc/group").unlink()
    write(box, "srv/new", "new\n")
    three = box.snapshot()
    assert changed(box) == {
        "/var/runs": "added", "/etc/passwd": "changed", "/etc/group": "deleted", "/srv": "added",
        "/srv/new": "added",
    }  # fmt: skip
    run(box)
    assert read(box, "var/runs") == "run\nrun\n"
    assert [snap.shown for snap in (kept.record for kept in box.snapshots())] == [
        "one",
        "two",
        three.short_id,
    ]

    box.rewind("two")
    assert (read(box, "var/runs"), is_there(box, "srv/new"), is_there(box, "etc/group")) == (
        "run\n",
        False,
        True,
    )
    run(box)
    assert read(box, "var/runs") == "run\nrun\n"
    other = box.snapshot()
    assert other.parent == two.id
    box.rewind(three)
    assert (read(box, "var/runs"), read(box, "srv/new")) == ("run\n", "new\n")
    box.rewind(one)
    assert not is_there(box, "var/runs") and changed(box) == {}

    with pytest.raises(Conflict, match="has that name"):
        box.snapshot("two")
    with pytest.raises(NotFound, match="has none of that name"):
        box.rewind("nosuch")
    with pytest.raises(InvalidInput, match="not a valid name"):
        box.snapshot("../two")
    with pytest.raises(InvalidInput, match="there is no such"):
        box.snapshot(consistency="hope")
    assert engine.storage.check().findings == ()


def test_what_looks_at_a_container_sees_all_of_its_states(engine: Engine, tmp_path: Path) -> None:
    box = engine.create("tiny", ["sh", "-c", COUNT], name="box")
    write(box, "data/one", "1\n")
    box.snapshot("one")
    (box.files / "data/one").write_text("one\n")
    write(box, "data/two", "2\n")
    (box.files / "etc/image").unlink()
    box.snapshot("two")
    write(box, "data/three", "3\n")
    engine.export("box", tmp_path / "files.tar")
    with tarfile.open(tmp_path / "files.tar") as found:
        names = {name for name in found.getnames() if name.startswith(("data/", "etc/"))}
    written = {"data/one", "data/two", "data/three"}
    assert written == {name for name in names if name.startswith("data/")} and "etc/image" not in names
    box.copy_out("/data", tmp_path / "out")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "one": "one\n", "two": "2\n", "three": "3\n",
    }  # fmt: skip
    patch = b"".join(box.patch(box.changes(["/data/two"]))).decode()
    assert "+2" in patch
    frozen = box.inspect()["GraphDriver"]["Data"]["Overlays"][0]["frozen"]
    assert len(frozen) == 2 and set(frozen) <= set(layers.identities(engine.store))
    sizes = {one.id: one.amount.bytes for one in engine.storage.usage().layers}
    assert [sizes[one] for one in frozen] == [2, 6]
    assert all(use.containers == ("box",) for use in engine.storage.usage().layers if use.id in frozen)


def test_layers_stay_as_long_as_a_state_needs_them(engine: Engine) -> None:
    box = engine.create("tiny", ["true"], name="box")
    before = set(layers.identities(engine.store))
    snaps: list[Snapshot] = []
    for number in range(4):
        write(box, "n", str(number))
        snaps.append(box.snapshot(f"s{number}" if number == 1 else None))
    box.rewind(snaps[0])
    engine.storage.collect()
    assert len(set(layers.identities(engine.store)) - before) == 4
    snaps[2].remove()
    assert [one.parent for one in box.snapshots()] == [None, snaps[0].id, snaps[1].id]
    engine.storage.collect()
    box.rewind(snaps[3])
    assert read(box, "n") == "3"
    assert box.prune_snapshots(keep=5) == []  # more than there are
    assert [one.id for one in box.prune_snapshots(keep=1)] == [snaps[0].id]
    assert [one.parent for one in box.snapshots()] == [None, snaps[1].id]
    box.rewind("s1")
    snaps[3].remove()
    with pytest.raises(NotFound):
        snaps[3].remove()
    with pytest.raises(NotFound):
        snaps[3].inspect()
    engine.storage.collect()
    assert read(box, "n") == "1"
    assert len(set(layers.identities(engine.store)) - before) == 2
    box.remove()
    engine.storage.collect()
    assert set(layers.identities(engine.store)) == before


def test_an_attempt_stays_or_is_taken_back(engine: Engine) -> None:
    box = engine.create("tiny", ["true"], name="box")
    with box.attempt() as attempt:
        write(box, "a", "1")
    assert (read(box, "a"), attempt.rewound, box.snapshots()) == ("1", False, [])
    with pytest.raises(ZeroDivisionError), box.attempt("named") as attempt:
        write(box, "a", "2")
        raise ZeroDivisionError
    assert (read(box, "a"), attempt.rewound) == ("1", True)
    assert [one.name for one in box.snapshots()] == ["named"]
    with pytest.raises(ZeroDivisionError) as caught, box.attempt() as attempt:
        assert attempt.before is not None
        attempt.before.remove()
        raise ZeroDivisionError
    assert "while taking back what the attempt did" in caught.value.__notes__[0]


def test_over_this_machine(engine: Engine, tmp_path: Path) -> None:
    """Several places, each with its chain; what it did is applied in all of its states together."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "old").write_text("old\n")
    script = f"cd {there}; n=$(cat n 2>/dev/null || echo 0); echo $((n+1)) >n; echo $n >file$n; rm -f old"
    box = engine.create("host", ["sh", "-c", script], name="box")
    first = box.snapshot("first")
    run(box)
    second = box.snapshot("second")
    assert second.record.new
    run(box)
    wanted = {
        f"{there}/n": "added",
        f"{there}/file0": "added",
        f"{there}/file1": "added",
        f"{there}/old": "deleted",
    }
    assert {path: kind for path, kind in changed(box).items() if str(there) in path} == wanted
    assert (there / "old").exists()
    box.rewind(second)
    wanted.pop(f"{there}/file1")
    assert {path: kind for path, kind in changed(box).items() if str(there) in path} == wanted
    run(box)
    box.snapshot()
    assert box.clashes([str(there)]) == []
    box.apply([str(there)])
    assert sorted(path.name for path in there.iterdir()) == ["file0", "file1", "n"]
    assert (there / "n").read_text() == "2\n"
    box.undo()
    assert [path.name for path in there.iterdir()] == ["old"]
    box.rewind(first)
    assert not any(str(there) in path for path in changed(box))
    assert engine.storage.check().findings == ()


def test_the_top_directory_stays_as_the_container_made_it(engine: Engine) -> None:
    script = "chmod 751 /; chown 1000:100 /"
    box = engine.create("tiny", ["sh", "-c", script], name="box")
    before = box.snapshot()
    run(box)
    for _ in range(2):  # the second has nothing to freeze
        after = box.snapshot()
        top = os.stat(upper(box))
        assert (top.st_mode & 0o7777, top.st_uid, top.st_gid) == (0o751, 1000, 100)
    assert after.record.new == ()
    box.rewind(before)
    top = os.stat(upper(box))
    assert (top.st_mode & 0o7777, top.st_uid) == (0o755, 0)


def test_attributes_of_the_top_directory_stay(engine: Engine) -> None:
    """Also those that are called like overlayfs' own inside, which it keeps under a longer name."""
    box = engine.create("tiny", ["true"], name="box")
    wanted = {"user.a": b"1", "trusted.overlay.overlay.opaque": b"y", "user.overlay.opaque": b"z"}
    for name, content in wanted.items():
        os.setxattr(upper(box), name, content)
    box.snapshot()
    names = [name for name in os.listxattr(upper(box)) if name != "trusted.overlay.uuid"]
    assert {name: os.getxattr(upper(box), name) for name in names} == wanted


def test_a_start_that_writes_nothing_leaves_nothing_to_freeze(engine: Engine) -> None:
    """Empty directories and files, on which something was mounted."""
    box = engine.create("tiny", ["true"], name="box", volumes=["data:/deep/down"])
    for _ in range(2):
        run(box)
        assert os.listdir(upper(box)) != []
        assert box.snapshot().record.new == ()
        assert os.listdir(upper(box)) == []


def test_users_that_a_state_added_are_known(engine: Engine) -> None:
    box = engine.create("tiny", ["sh", "-c", "id -u"], user="ann", name="box")
    (box.files / "etc/passwd").write_text("ann:x:77:77::/:/bin/sh\n")
    box.snapshot()
    run(box)
    assert said(box) == b"77\n"


def test_it_is_said_once_that_volumes_are_no_part(engine: Engine) -> None:
    box = engine.create("tiny", ["true"], volumes=["data:/data", "other:/other:ro"], name="box")
    heard: list[str] = []
    box.snapshot(on_warning=heard.append)
    box.snapshot(on_warning=heard.append)
    assert heard == ["volumes and binds are no part of a snapshot: /data (--volumes: volumes are)"]


def test_what_is_volatile_says_so(engine: Engine) -> None:
    box = engine.create("tiny", ["true"], durability="none", name="box")
    write(box, "a", "1")
    snap = box.snapshot()
    assert snap.is_volatile and snap.inspect()["Volatile"]
    found = layers.find(engine.store, snap.record.new[0])
    assert found is not None and found.extra["volatile"] is True
    assert found.extra["origin"]["snapshot"] == snap.id


def test_a_container_that_is_in_use_is_left_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    box = engine.create("tiny", ["true"], name="box")
    asked: dict[str, Any] = box.record
    assert not chains.pending(asked)
    home = engine.container("box")._home
    monkeypatch.setattr("lamina.engine.settling.LETTING_GO", 0.05)
    assert home.hold()
    try:
        with pytest.raises(Conflict, match="in use by another command"):
            box.snapshot()
    finally:
        home.release()
    assert box.snapshot().parent is None
    until(lambda: not os.listdir(engine.store.leases))


def test_what_states_take_is_counted(engine: Engine) -> None:
    box = engine.create("tiny", ["true"], name="box")
    images = engine.storage.usage().totals[0]
    assert "Snapshots" not in {one.kind for one in engine.storage.usage().totals}
    for text in ("one", "three"):
        write(box, "n", text)
        box.snapshot(text)
    box.rewind("one")
    found = {one.kind: one for one in engine.storage.usage().totals}
    assert (found["Snapshots"].count, found["Snapshots"].active) == (2, 1)
    assert (found["Snapshots"].amount.bytes, found["Snapshots"].reclaimable.bytes) == (8, 5)
    assert found["Images"] == images


def test_for_event_loops(engine: Engine) -> None:
    box = engine.create("tiny", ["true"], name="box")

    async def travel() -> None:
        there = await AsyncEngine(os.fsdecode(engine.store.path)).container("box")
        one = await there.snapshot("one")
        await (there.files / "f").write_text("1")
        two = await there.snapshot(message="later")
        assert (two.parent, await two.size, (await two.inspect())["Message"]) == (one.id, 1, "later")
        await there.rewind(one)
        assert not await (there.files / "f").exists()
        with pytest.raises(ZeroDivisionError):
            async with there.attempt() as attempt:
                await there.rewind(two)
                raise ZeroDivisionError
        assert attempt.rewound and not await (there.files / "f").exists()
        assert [snap.id for snap in await there.snapshots()] == [one.id, two.id]
        await two.remove()
        assert [repr(snap) for snap in await there.snapshots()] == [f"<AsyncSnapshot one of {box.short_id}>"]
        [fork] = await there.fork()
        await (fork.files / "f").write_text("1")
        merged = await there.merge([fork], name="merged")
        assert merged.snapshot is not None and [path for path, _ in merged.taken] == [b"/f"]
        assert isinstance(merged.snapshot, AsyncSnapshot) and await merged.snapshot.size == 1
        assert (await there.merge([fork], dry_run=True)).snapshot is None
        log = await there.history()
        assert log.here == merged.snapshot.id and log.states[0].snapshot == merged.snapshot
        await log.states[0].snapshot.fork()

    asyncio.run(travel())
