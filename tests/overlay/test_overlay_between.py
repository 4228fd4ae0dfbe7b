"""What leads from one stack to another: forks, states one after the other, squashed layers, and what is read for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.errors import InvalidInput, KernelError
from lamina.overlay.changes import Change
from lamina.overlay.layer import USER
from lamina.overlay.lookup import OpenDir
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from support.grow import WHITEOUT, grow, opaque
from support.held import held_descriptors

T = 1_700_000_000_000_000_000


class Drawn:
    """Layers by name in one directory; `of("b", "a", "base")` is the stack with b on top."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def layer(self, name: str, entries: dict[str, object]) -> Path:
        return grow(self.place / name, entries, USER)

    def still(self) -> None:
        """Times differ nowhere."""
        for directory, inner, others in os.walk(self.place):
            for name in (".", *inner, *others):
                os.utime(os.path.join(directory, name), ns=(T, T), follow_symlinks=False)

    def of(self, *names: str, upper: str | None = None) -> Overlay:
        lowers = tuple(bytes(self.place / name) for name in names)
        upperdir = None if upper is None else bytes(self.place / upper)
        return Overlay(MountSpec(lowers, upperdir, userxattr=True))


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    return Drawn(tmp_path)


def said(before: Overlay, after: Overlay) -> dict[str, str]:
    return {os.fsdecode(change.path): words(change) for change in before.changes_to(after)}


def words(change: Change) -> str:
    return " ".join(
        filter(None, [change.kind, *sorted(change.what), "implied" if change.implied else "",
                      f"= {os.fsdecode(change.link_to)}" if change.link_to is not None else ""])
    )  # fmt: skip


def test_one_state_after_another(drawn: Drawn) -> None:
    drawn.layer("base", {"kept": "1", "gone": "1", "d": {"x": "1", "y": "1"}})
    drawn.layer("first", {"new": "1", "d": {"x": "2"}})
    drawn.layer("second", {"gone": WHITEOUT, "d": {"x": "3"}, "new": WHITEOUT, "newer": "1"})
    drawn.still()
    base, first, second = drawn.of("base"), drawn.of("first", "base"), drawn.of("second", "first", "base")
    assert said(base, first) == {"new": "added", "d/x": "changed content"}
    assert said(first, second) == {
        "gone": "deleted", "new": "deleted", "newer": "added", "d/x": "changed content"
    }  # fmt: skip
    assert said(base, second) == {"gone": "deleted", "newer": "added", "d/x": "changed content"}
    assert said(second, base) == {"gone": "added", "newer": "deleted", "d/x": "changed content"}
    assert said(second, second) == {}
    assert [c.path for c in second.changes(above=3)] == [c.path for c in base.changes_to(second)]


def test_a_state_that_was_written_on(drawn: Drawn) -> None:
    """A container and the snapshot that it stands on: nothing but the upper is between them."""
    drawn.layer("base", {"a": "1"})
    drawn.layer("frozen", {"b": "1"})
    drawn.layer("upper", {"c": "1", "b": WHITEOUT})
    drawn.still()
    state, container = drawn.of("frozen", "base"), drawn.of("frozen", "base", upper="upper")
    assert said(state, container) == {"b": "deleted", "c": "added"}
    assert said(container, state) == {"b": "added", "c": "deleted"}
    assert [change.path for change in container.changes(above=2)] == [b"c"]
    with container.open_below(2) as below:
        assert {entry.name for entry in below.iterdir()} == {"a"}


def test_what_the_other_fork_made_is_deleted_and_not_implied(drawn: Drawn) -> None:
    """That one never had it: nothing above it was deleted, and it must have a line of its own."""
    drawn.layer("base", {"d": {"a": "1"}})
    drawn.layer("ours", {"d": {"ours": "1", "same": "1"}, "made": {"x": "1"}})
    drawn.layer("theirs", {"d": {"theirs": "1", "same": "1"}})
    drawn.still()
    assert said(drawn.of("ours", "base"), drawn.of("theirs", "base")) == {
        "d/ours": "deleted",
        "d/theirs": "added",
        "made": "deleted",
        "made/x": "deleted implied",
    }


def test_a_directory_that_one_fork_made_again(drawn: Drawn) -> None:
    drawn.layer("base", {"d": {"a": "1", "b": {"c": "1"}}})
    drawn.layer("again", {"d": opaque(a="1", new="1")})
    drawn.layer("other", {"d": {"fresh": "1"}})
    drawn.still()
    again, other = drawn.of("again", "base"), drawn.of("other", "base")
    assert said(other, again) == {
        "d/b": "deleted implied", "d/b/c": "deleted implied", "d/fresh": "deleted implied", "d/new": "added",
    }  # fmt: skip
    assert said(again, other) == {"d/b": "added", "d/b/c": "added", "d/fresh": "added", "d/new": "deleted"}


def test_a_squashed_layer_is_what_it_was_made_of(drawn: Drawn) -> None:
    drawn.layer("base", {"d": {"a": "1"}, "gone": "1"})
    one = drawn.layer("one", {"d": {"b": "b" * 5000}, "e": {"f": "1", "g": "1"}})
    two = drawn.layer("two", {"d": {"c": "1"}, "e": {"g": WHITEOUT}, "gone": WHITEOUT})
    squashed = drawn.layer("squashed", {"d": {}, "e": {}, "gone": WHITEOUT})
    for name, source in (("d/b", one), ("d/c", two), ("e/f", one)):
        os.link(source / name, squashed / name)
    drawn.layer("after", {"d": {"b": WHITEOUT}})
    drawn.still()
    apart = drawn.of("two", "one", "base")
    assert said(apart, drawn.of("squashed", "base")) == {}
    assert said(drawn.of("squashed", "base"), apart) == {}
    assert said(apart, drawn.of("after", "squashed", "base")) == {"d/b": "deleted"}
    assert said(drawn.of("one", "base"), drawn.of("after", "squashed", "base")) == {
        "d/b": "deleted", "d/c": "added", "e/g": "deleted", "gone": "deleted"
    }  # fmt: skip


def test_names_of_one_file_in_a_frozen_layer(drawn: Drawn) -> None:
    drawn.layer("base", {"old": "1"})
    frozen = drawn.layer("frozen", {"old": "1", "d": {}})
    os.link(frozen / "old", frozen / "d/name")
    os.link(frozen / "old", frozen / "another")
    drawn.layer("upper", {"another": WHITEOUT, "e": "1"})
    drawn.still()
    found = said(drawn.of("base"), drawn.of("frozen", "base", upper="upper"))
    assert found == {"d": "added", "d/name": "added = old", "e": "added"}
    # the name that is the same on both sides is hidden: then the first one is a file, the others are its links
    drawn.layer("top", {"old": "2"})
    found = said(drawn.of("base"), drawn.of("top", "frozen", "base"))
    assert {path: found[path] for path in ("another", "d/name")} == {
        "another": "added", "d/name": "added = another"
    }  # fmt: skip


def test_nothing_below_is_read(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layers hold that both have: neither listed nor compared."""
    drawn.layer("base", {"d": {"sub": {str(n): "1" for n in range(50)}}, "e": {"x": "1"}, "f": "1"})
    drawn.layer("shared", {"d": {"more": "1"}})
    drawn.layer("left", {"d": {"sub": {"1": "2"}}})
    drawn.layer("right", {"d": {"sub": {"2": "2", "3": WHITEOUT}}, "f": WHITEOUT})
    drawn.still()
    listed: set[bytes] = set()
    listing = OpenDir.listing

    def noted(self: OpenDir, index: int) -> frozenset[bytes]:
        listed.add(os.path.basename(self.layers.directories[self.hits[index].layer]))
        return listing(self, index)

    monkeypatch.setattr(OpenDir, "listing", noted)
    left, right = drawn.of("left", "shared", "base"), drawn.of("right", "shared", "base")
    assert said(left, right) == {
        "d/sub/1": "changed content",
        "d/sub/2": "changed content",
        "d/sub/3": "deleted",
        "f": "deleted",
    }
    assert listed == {b"left", b"right"}


def test_other_marks_make_other_layers(drawn: Drawn) -> None:
    """The same directories, read as those of a user namespace and not: nothing is taken to be equal unread."""
    drawn.layer("base", {"d": {"a": "1"}})
    drawn.layer("top", {"d": opaque(b="1")})
    drawn.still()
    user = drawn.of("top", "base")
    other = Overlay(MountSpec(user.spec.lowerdirs))
    assert said(user, other) == {"d": "changed xattrs", "d/a": "added"}


def test_nothing_stays_open(drawn: Drawn) -> None:
    drawn.layer("base", {"d": {"a": "1"}})
    drawn.layer("top", {"d": {"b": "1", "c": "1"}})
    before = held_descriptors()
    running = drawn.of("base").changes_to(drawn.of("top", "base"))
    next(running)
    running.close()  # type: ignore[attr-defined]
    with pytest.raises(KernelError):
        list(drawn.of("base").changes_to(drawn.of("nowhere", "base")))
    assert held_descriptors() == before


def test_what_cannot_be_compared_is_said(drawn: Drawn) -> None:
    drawn.layer("base", {})
    with pytest.raises(InvalidInput, match="above 2"):
        drawn.of("base").changes(above=2)
    with pytest.raises(InvalidInput, match="vanished"):
        drawn.of("base").changes_to(drawn.of("base"), vanished="some")  # type: ignore[arg-type]
