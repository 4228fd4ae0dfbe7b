"""Two sides of one tree: what one takes over of the other, and where they contradict each other. Pure."""

from __future__ import annotations

import pytest

from lamina.overlay.changes import Change, Entry
from lamina.overlay.merging import Collision, merge, resolved


def entry(kind: str) -> Entry:
    return Entry(kind, 0o644, 0, 0, 1, 0, None, 0, 1, 1, 1, 0)


def change(path: str, kind: str, before: str | None, after: str | None, *what: str) -> Change:
    return Change(
        path.encode(),
        kind,  # type: ignore[arg-type]
        frozenset(what),
        None if before is None else entry(before),
        None if after is None else entry(after),
    )


def added(path: str, kind: str = "file") -> Change:
    return change(path, "added", None, kind)


def changed(path: str, *what: str, kind: str = "file") -> Change:
    return change(path, "changed", kind, kind, *(what or ("content", "times")))


def deleted(path: str, kind: str = "file") -> Change:
    return change(path, "deleted", kind, None)


def replaced(path: str, before: str, after: str) -> Change:
    return change(path, "replaced", before, after)


def merged(
    ours: list[Change], theirs: list[Change], same: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """The paths that are taken, and those that clash."""
    found = merge(
        {one.path: one for one in ours}, {one.path: one for one in theirs}, lambda path: path.decode() in same
    )
    return [path.decode() for path in found.taken], [one.path.decode() for one in found.collisions]


D = changed("d", "times", kind="directory")  # something happened in it


@pytest.mark.parametrize(
    ("ours", "theirs", "taken", "clashes"),
    [
        ([], [changed("a")], ["a"], []),
        ([changed("a")], [], [], []),
        ([D, changed("d/a")], [D, changed("d/b"), added("d/c"), deleted("d/e")], ["d/b", "d/c", "d/e"], []),
        ([changed("a")], [changed("a")], [], ["a"]),
        ([changed("a", "mode")], [changed("a")], [], ["a"]),
        ([deleted("a")], [changed("a")], [], ["a"]),
        ([changed("a")], [deleted("a")], [], ["a"]),
        ([deleted("a")], [deleted("a")], [], []),
        ([added("a")], [added("a")], [], ["a"]),
        # a directory that one side removed, and in which the other did something
        ([D, added("d/new")], [deleted("d", "directory"), deleted("d/a")], ["d/a"], ["d/new"]),
        ([D, deleted("d/a")], [deleted("d", "directory"), deleted("d/a")], ["d"], []),
        ([deleted("d", "directory"), deleted("d/a")], [D, changed("d/a"), added("d/b")], [], ["d/a", "d/b"]),
        ([deleted("d", "directory"), deleted("d/a")], [D, deleted("d/a")], [], []),
        ([replaced("d", "directory", "file")], [D, added("d/b")], [], ["d/b"]),
        ([D, added("d/b")], [replaced("d", "directory", "file")], [], ["d/b"]),
        ([added("e", "directory"), added("e/a")], [added("e"),], [], ["e"]),
        # names that only look as if they were below
        ([changed("d-a")], [deleted("d", "directory")], ["d"], []),
    ],
)  # fmt: skip
def test_what_is_taken_and_what_clashes(
    ours: list[Change], theirs: list[Change], taken: list[str], clashes: list[str]
) -> None:
    assert merged(ours, theirs) == (taken, clashes)


def test_what_both_made_the_same_is_no_clash() -> None:
    assert merged([added("a"), changed("b")], [added("a"), changed("b")], same=("a",)) == ([], ["b"])


def test_who_is_followed() -> None:
    ours = [D, added("d/new"), added("d/newer"), changed("a")]
    theirs = [deleted("d", "directory"), deleted("d/old"), changed("a"), changed("z")]
    found = merge({one.path: one for one in ours}, {one.path: one for one in theirs}, lambda _: False)

    def paths(prefer: bool | bytes) -> list[bytes]:
        def decide(collision: Collision) -> bool:
            return prefer if isinstance(prefer, bool) else collision.path == prefer

        return list(resolved(found, decide))

    assert paths(False) == [b"d/old", b"z"]
    assert paths(True) == [b"a", b"d", b"d/old", b"z"]
    # one of ours in the directory stays, so that it does
    assert paths(b"d/new") == [b"d/old", b"z"]
