"""Forks are brought together again: merged into their parent, or one of them takes its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.overlay.stack import Overlay
from support.small_images import small_image
from support.written import delete, put, shown, upper

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def box(engine: Engine, store_root: Path) -> Container:
    """A container that wrote something, of which forks can be made."""
    small_image(store_root)
    box = engine.create("tiny", ["true"], name="box", durability="none")
    put(box, "work/a", "a")
    put(box, "work/b", "b")
    put(box, "work/deep/c", "c")
    return box


def check(box: Container) -> None:
    from lamina.store.check import check as check_store
    from lamina.store.garbage import collect

    collect(box.store)
    assert check_store(box.store).findings == ()


def test_two_forks_that_do_not_meet(box: Container) -> None:
    one, two = box.fork(2)
    put(one, "work/a", "one")
    put(one, "work/new/of-one", "x")
    delete(two, "work/b")
    put(two, "work/new/of-two", "y")
    put(box, "work/own", "z")
    dry = box.merge([one, two], dry_run=True)
    assert dry.snapshot is None
    assert {os.fsdecode(path) for path, _ in dry.taken} == {
        "/work/a", "/work/b", "/work/new", "/work/new/of-one", "/work/new/of-two",
    }  # fmt: skip
    assert shown(box) == {"a": "a", "b": "b", "deep/c": "c", "own": "z"}
    done = box.merge([one, two], name="both")
    assert done.snapshot is not None
    assert (done.snapshot.name, done.clashes, done.snapshot.size) == ("both", (), 5)
    wanted = {"a": "one", "deep/c": "c", "own": "z", "new/of-one": "x", "new/of-two": "y"}
    assert shown(box) == wanted
    assert shown(one) == {"a": "one", "b": "b", "deep/c": "c", "new/of-one": "x"}  # as it was
    put(box, "work/after", "w")
    box.snapshot("later")
    box.rewind(box.snapshots()[-3])  # before the merge
    assert shown(box) == {"a": "a", "b": "b", "deep/c": "c", "own": "z"}
    box.rewind("both")
    assert shown(box) == wanted
    check(box)


def test_after_what_they_began_with_was_removed(box: Container) -> None:
    """What is left that both come from is before that."""
    first = box.snapshot("first")
    put(box, "work/a", "later")
    box.snapshot()
    put(box, "work/b", "later")
    (one,) = box.fork(1, name="one")
    put(one, "work/c", "one")
    box.snapshot("last")
    for _ in range(2):
        assert box.prune_snapshots() or _
        assert [one.parent for one in box.snapshots()] == [None, first.id]
        assert box.history().states[-1].forks == ("one",)
        box.snapshot()
        put(box, "work/d", "later")
        box.snapshot()
    box.merge([one])
    assert shown(box) == {"a": "later", "b": "later", "c": "one", "d": "later", "deep/c": "c"}
    check(box)


def test_what_both_changed_is_named_and_decided(box: Container) -> None:
    one, two = box.fork(2, names=("one", "two"))
    put(one, "work/a", "one")
    put(two, "work/a", "two")
    put(two, "work/b", "two")
    delete(one, "work/deep/c")
    put(two, "work/deep/c", "two")
    with pytest.raises(Conflict) as refused:
        box.merge([one, two])
    assert "/work/a" in str(refused.value)
    assert "/work/deep/c" in str(refused.value)
    assert "/work/b" not in str(refused.value)
    start = {"a": "a", "b": "b", "deep/c": "c"}
    assert shown(box) == start
    dry = box.merge([one, two], prefer="one", dry_run=True)
    assert [(clash.path, clash.fork, clash.decided) for clash in dry.clashes] == [
        (b"/work/a", "two", "ours"), (b"/work/deep/c", "two", "ours"),
    ]  # fmt: skip
    before = box.snapshot("before")
    box.merge([one, two], prefer="theirs")
    assert shown(box) == {"a": "two", "b": "two", "deep/c": "two"}
    box.rewind(before)
    box.merge([one, two], prefer="one")
    assert shown(box) == {"a": "one", "b": "two"}
    box.rewind(before)
    put(box, "work/a", "mine")
    box.merge([two], prefer="ours")
    assert shown(box) == {"a": "mine", "b": "two", "deep/c": "two"}
    box.rewind(before)
    put(box, "work/a", "two")  # the same that two made of it
    assert box.merge([two]).clashes == ()
    check(box)


def test_directories_links_and_attributes(box: Container) -> None:
    put(box, "work/gone/x", "x")
    [fork] = box.fork(1)
    delete(fork, "work/gone")
    put(fork, "work/d/first", "linked")
    os.link(upper(fork) / "work/d/first", upper(fork) / "work/d/second")
    os.symlink("first", upper(fork) / "work/d/link")
    (upper(fork) / "work/d").chmod(0o2750)
    put(fork, "work/b", "b")
    os.utime(upper(fork) / "work/b", ns=(7, 9))
    (upper(fork) / "work/b").chmod(0o4711)
    os.setxattr(upper(fork) / "work/b", "user.a", b"1")
    box.merge([fork])
    with Overlay(box.overlays()[0][1]).open() as tree:
        work = tree / "work"
        assert not (work / "gone").exists()
        first, second = ((work / "d" / name).lstat() for name in ("first", "second"))
        assert first.st_ino == second.st_ino
        assert os.fspath((work / "d/link").readlink()) == "first"
        assert (work / "d").lstat().st_mode & 0o7777 == 0o2750
        b = (work / "b").lstat()
        assert (b.st_mode & 0o7777, b.st_mtime_ns) == (0o4711, 9)
        assert (work / "b").getxattr("user.a") == b"1"
    check(box)


def test_a_directory_that_one_removed_and_the_other_wrote_to(box: Container) -> None:
    [fork] = box.fork(1)
    delete(fork, "work/deep")
    put(box, "work/deep/mine", "m")
    with pytest.raises(Conflict, match="/work/deep/mine"):
        box.merge([fork])
    before = box.snapshot()
    box.merge([fork], prefer="ours")
    assert shown(box) == {"a": "a", "b": "b", "deep/mine": "m"}
    box.rewind(before)
    box.merge([fork], prefer="theirs")
    assert shown(box) == {"a": "a", "b": "b"}
    box.rewind(before)
    [other] = box.fork(1)
    put(other, "work/deep/theirs", "t")
    delete(box, "work/deep")
    box.merge([other], prefer="theirs")
    assert shown(box) == {"a": "a", "b": "b", "deep/theirs": "t"}
    check(box)


def test_forks_of_forks_and_what_has_nothing_in_common(box: Container, engine: Engine) -> None:
    [one] = box.fork(1)
    put(one, "work/one", "1")
    [two] = one.fork(1)
    put(two, "work/two", "2")
    box.merge([two])
    assert shown(box)["one"] == "1"
    assert shown(box)["two"] == "2"
    stranger = engine.create("tiny", ["true"], name="stranger", durability="none")
    with pytest.raises(NotFound, match="no state that both come from"):
        box.merge([stranger])
    with pytest.raises(InvalidInput, match="twice"):
        box.merge([box])
    with pytest.raises(InvalidInput, match="consistency 'copy'"):  # not only where it runs
        box.merge([stranger], consistency="copy")
    with pytest.raises(NotFound, match="no fork"):
        stranger.forked_from()
    assert two.forked_from() == one


def test_the_winner_takes_the_place_of_its_parent(box: Container) -> None:
    one, two = box.fork(2)
    put(one, "work/a", "one")
    put(two, "work/a", "two")
    delete(two, "work/b")
    put(box, "work/own", "z")
    state = box.promote(two, "best")
    assert (state.name, state.message, state.size) == ("best", f"promoted from {two.name}", 3)
    assert shown(box) == {"a": "two", "deep/c": "c"}
    put(box, "work/next", "n")
    assert shown(two) == {"a": "two", "deep/c": "c"}
    two.remove()
    box.snapshot("later")
    before = next(one for one in box.snapshots() if "before" in one.message)
    box.rewind(before)
    assert shown(box) == {"a": "a", "b": "b", "deep/c": "c", "own": "z"}
    box.rewind("later")
    assert shown(box) == {"a": "two", "deep/c": "c", "next": "n"}
    check(box)


def test_over_another_image_nothing_is_promoted(box: Container, engine: Engine, store_root: Path) -> None:
    small_image(store_root, lambda tree: (tree / "other").mkdir(), names=("docker.io/library/other:latest",))
    other = engine.create("other", ["true"], name="else", durability="none")
    with pytest.raises(Unsupported, match="different images"):
        box.promote(other)


def test_a_parent_that_runs_goes_on_over_what_was_merged(engine: Engine, store_root: Path) -> None:
    small_image(store_root)
    box = engine.start("tiny", ["sleep", "1000"], name="live", durability="none")

    def said(*words: str) -> str:
        return str(box.exec(list(words), capture_output=True, check=True, text=True).stdout)

    said("sh", "-c", "mkdir /work; echo a >/work/a; echo b >/work/b")
    one, two = box.fork(2)
    put(one, "work/one", "1\n")
    delete(two, "work/b")
    pid = box.first_process
    said("sh", "-c", "echo mine >/work/own")
    box.merge([one, two])
    assert said("ls", "/work").split() == ["a", "one", "own"]
    assert box.first_process == pid
    said("sh", "-c", "echo more >>/work/own")
    box.promote(two)
    assert said("ls", "/work").split() == ["a"]
    said("sh", "-c", "echo c >/work/c")
    box.stop(timeout=0)
    assert shown(box) == {"a": "a\n", "c": "c\n"}
    check(box)


def test_forks_over_this_machine(engine: Engine) -> None:
    top = "lamina-merges"  # which this machine has not
    box = engine.create("host", ["true"], name="here", durability="none")
    put(box, f"{top}/a", "a")
    put(box, f"{top}/b", "b")
    one, two = box.fork(2)
    put(one, f"{top}/one", "1")
    delete(two, f"{top}/b")
    put(two, "etc/lamina-was-here", "2")
    done = box.merge([one, two])
    assert {os.fsdecode(path) for path, _ in done.taken} == {
        f"/{top}/one",
        f"/{top}/b",
        "/etc/lamina-was-here",
    }
    assert shown(box, top) == {"a": "a", "one": "1"}
    box.promote(two)
    assert shown(box, top) == {"a": "a"}
    box.squash()
    assert shown(box, top) == {"a": "a"}
    assert [os.fsdecode(change.path) for change in box.changes() if not change.incidental] == [
        "/etc/lamina-was-here", f"/{top}", f"/{top}/a",
    ]  # fmt: skip
    check(box)
