"""Forks are brought together again: merged into their parent, or one of them takes its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina import Container, Engine
from lamina.engine import forking
from lamina.engine.lineage import common_ancestor
from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.overlay.stack import Overlay
from lamina.store.containers import Home
from support.small_images import small_image
from support.written import delete, put, shown, upper

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]


@pytest.fixture
def box(engine: Engine, store_root: Path) -> Container:
    """A container that wrote something, of which forks can be made."""
    small_image(store_root)
    box = engine.create("tiny", ["true"], name="box", durability="none")
    put(box, "task/a", "a")
    put(box, "task/b", "b")
    put(box, "task/deep/c", "c")
    return box


def check(box: Container) -> None:
    from lamina.store.check import check as check_store
    from lamina.store.garbage import collect

    collect(box.store)
    assert check_store(box.store).findings == ()


def test_two_forks_that_do_not_meet(box: Container) -> None:
    one, two = box.fork(2)
    put(one, "task/a", "one")
    put(one, "task/new/of-one", "x")
    delete(two, "task/b")
    put(two, "task/new/of-two", "y")
    put(box, "task/own", "z")
    dry = box.merge([one, two], dry_run=True)
    assert dry.snapshot is None
    assert {os.fsdecode(path) for path, _ in dry.taken} == {
        "/task/a", "/task/b", "/task/new", "/task/new/of-one", "/task/new/of-two",
    }  # fmt: skip
    assert shown(box) == {"a": "a", "b": "b", "deep/c": "c", "own": "z"}
    done = box.merge([one, two], name="both")
    assert done.snapshot is not None
    assert (done.snapshot.name, done.clashes, done.snapshot.size) == ("both", (), 5)
    wanted = {"a": "one", "deep/c": "c", "own": "z", "new/of-one": "x", "new/of-two": "y"}
    assert shown(box) == wanted
    assert shown(one) == {"a": "one", "b": "b", "deep/c": "c", "new/of-one": "x"}  # as it was
    put(box, "task/after", "w")
    box.snapshot("later")
    box.rewind(box.snapshots()[-3])  # before the merge
    assert shown(box) == {"a": "a", "b": "b", "deep/c": "c", "own": "z"}
    box.rewind("both")
    assert shown(box) == wanted
    check(box)


def test_after_what_they_began_with_was_removed(box: Container) -> None:
    """What is left that both come from is before that."""
    first = box.snapshot("first")
    put(box, "task/a", "later")
    box.snapshot()
    put(box, "task/b", "later")
    (one,) = box.fork(1, name="one")
    put(one, "task/c", "one")
    box.snapshot("last")
    for _ in range(2):
        assert box.prune_snapshots() or _
        assert [one.parent for one in box.snapshots()] == [None, first.id]
        assert box.history().states[-1].forks == ("one",)
        box.snapshot()
        put(box, "task/d", "later")
        box.snapshot()
    box.merge([one])
    assert shown(box) == {"a": "later", "b": "later", "c": "one", "d": "later", "deep/c": "c"}
    check(box)


def test_states_are_pruned_while_a_fork_is_being_made(
    box: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.snapshot("base")
    put(box, "task/f", "1")
    state, make = box.snapshot(), forking.Origin.make

    def pruned(origin: forking.Origin, home: Home, name: str) -> None:
        assert [one.id for one in box.prune_snapshots()] == [state.id]
        make(origin, home, name)

    with monkeypatch.context() as patched:
        patched.setattr(forking.Origin, "make", pruned)
        [child] = state.fork()
    assert "left" not in child.record
    _, found = common_ancestor(box._home, child._home)
    assert found.name == "base"
    put(box, "task/f", "2")
    box.snapshot()
    box.prune_snapshots()
    assert common_ancestor(box._home, child._home)[1].name == "base"


def test_what_both_changed_is_named_and_decided(box: Container) -> None:
    one, two = box.fork(2, names=("one", "two"))
    put(one, "task/a", "one")
    put(two, "task/a", "two")
    put(two, "task/b", "two")
    delete(one, "task/deep/c")
    put(two, "task/deep/c", "two")
    with pytest.raises(Conflict) as refused:
        box.merge([one, two])
    assert "/task/a" in str(refused.value)
    assert "/task/deep/c" in str(refused.value)
    assert "/task/b" not in str(refused.value)
    start = {"a": "a", "b": "b", "deep/c": "c"}
    assert shown(box) == start
    dry = box.merge([one, two], prefer="one", dry_run=True)
    assert [(clash.path, clash.fork, clash.decided) for clash in dry.clashes] == [
        (b"/task/a", "two", "ours"), (b"/task/deep/c", "two", "ours"),
    ]  # fmt: skip
    before = box.snapshot("before")
    box.merge([one, two], prefer="theirs")
    assert shown(box) == {"a": "two", "b": "two", "deep/c": "two"}
    box.rewind(before)
    box.merge([one, two], prefer="one")
    assert shown(box) == {"a": "one", "b": "two"}
    box.rewind(before)
    put(box, "task/a", "mine")
    box.merge([two], prefer="ours")
    assert shown(box) == {"a": "mine", "b": "two", "deep/c": "two"}
    box.rewind(before)
    put(box, "task/a", "two")  # the same that two made of it
    assert box.merge([two]).clashes == ()
    check(box)


def test_directories_links_and_attributes(box: Container) -> None:
    put(box, "task/gone/x", "x")
    [fork] = box.fork(1)
    delete(fork, "task/gone")
    put(fork, "task/d/first", "linked")
    os.link(upper(fork) / "task/d/first", upper(fork) / "task/d/second")
    os.symlink("first", upper(fork) / "task/d/link")
    (upper(fork) / "task/d").chmod(0o2750)
    put(fork, "task/b", "b")
    os.utime(upper(fork) / "task/b", ns=(7, 9))
    (upper(fork) / "task/b").chmod(0o4711)
    os.setxattr(upper(fork) / "task/b", "user.a", b"1")
    box.merge([fork])
    with Overlay(box.overlays()[0][1]).open() as tree:
        task = tree / "task"
        assert not (task / "gone").exists()
        first, second = ((task / "d" / name).lstat() for name in ("first", "second"))
        assert first.st_ino == second.st_ino
        assert os.fspath((task / "d/link").readlink()) == "first"
        assert (task / "d").lstat().st_mode & 0o7777 == 0o2750
        b = (task / "b").lstat()
        assert (b.st_mode & 0o7777, b.st_mtime_ns) == (0o4711, 9)
        assert (task / "b").getxattr("user.a") == b"1"
    check(box)


def test_a_directory_that_one_removed_and_the_other_wrote_to(box: Container) -> None:
    [fork] = box.fork(1)
    delete(fork, "task/deep")
    put(box, "task/deep/mine", "m")
    with pytest.raises(Conflict, match="/task/deep/mine"):
        box.merge([fork])
    before = box.snapshot()
    box.merge([fork], prefer="ours")
    assert shown(box) == {"a": "a", "b": "b", "deep/mine": "m"}
    box.rewind(before)
    box.merge([fork], prefer="theirs")
    assert shown(box) == {"a": "a", "b": "b"}
    box.rewind(before)
    [other] = box.fork(1)
    put(other, "task/deep/theirs", "t")
    delete(box, "task/deep")
    box.merge([other], prefer="theirs")
    assert shown(box) == {"a": "a", "b": "b", "deep/theirs": "t"}
    check(box)


def test_a_directory_that_a_fork_made_a_file(box: Container) -> None:
    """Found by the state machine: what was in it went with it."""
    [fork] = box.fork()
    place = upper(fork) / "task"
    place.mkdir()
    (place / "deep").write_text("a file")
    box.merge([fork])
    assert shown(box) == {"a": "a", "b": "b", "deep": "a file"}
    check(box)


def test_forks_of_forks_and_what_has_nothing_in_common(box: Container, engine: Engine) -> None:
    [one] = box.fork(1)
    put(one, "task/one", "1")
    [two] = one.fork(1)
    put(two, "task/two", "2")
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
    put(one, "task/a", "one")
    put(two, "task/a", "two")
    delete(two, "task/b")
    put(box, "task/own", "z")
    state = box.promote(two, "best")
    assert (state.name, state.message, state.size) == ("best", f"promoted from {two.name}", 3)
    assert shown(box) == {"a": "two", "deep/c": "c"}
    put(box, "task/next", "n")
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

    said("sh", "-c", "mkdir /task; echo a >/task/a; echo b >/task/b")
    one, two = box.fork(2)
    put(one, "task/one", "1\n")
    delete(two, "task/b")
    pid = box.first_process
    said("sh", "-c", "echo mine >/task/own")
    box.merge([one, two])
    assert said("ls", "/task").split() == ["a", "one", "own"]
    assert box.first_process == pid
    said("sh", "-c", "echo more >>/task/own")
    box.promote(two)
    assert said("ls", "/task").split() == ["a"]
    said("sh", "-c", "echo c >/task/c")
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
