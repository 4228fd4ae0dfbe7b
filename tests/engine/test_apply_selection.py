"""Which changes a selection means: globs, exclusions, and what has to come along."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.engine.apply.gather import without_idle_roots, without_mount_points
from lamina.engine.apply.selection import ancestors, matcher, select, tree_order
from lamina.engine.apply.values import HostChange
from lamina.errors import InvalidInput, LaminaError, NotFound
from lamina.overlay.changes import Change, Entry
from lamina.overlay.spec import MountSpec

SPEC = MountSpec(lowerdirs=(b"/",), upperdir=b"/u", workdir=b"/w")


def entry(kind: str = "file", size: int = 1) -> Entry:
    return Entry(kind, 0o644, 0, 0, size, 0, None, 0, 1, 1, 1, 1)


def change(kind: str, path: str, type_: str = "file", before: str = "", size: int = 1) -> HostChange:
    """*before* is the old type of what was there, by default the same."""
    old = None if kind == "added" else entry(before or type_)
    new = None if kind == "deleted" else entry(type_, size)
    what = frozenset({"times"} if kind == "times" else {"content"} if kind == "changed" else ())
    real = Change(path.encode().lstrip(b"/"), "changed" if kind == "times" else kind, what, old, new)  # type: ignore[arg-type]
    return HostChange(path.encode(), b"/", real, SPEC)


CHANGES = [
    change("times", "/etc", "directory"),
    change("changed", "/etc/a.conf"),
    change("added", "/etc/b.conf"),
    change("deleted", "/etc/old"),
    change("added", "/opt/new", "directory"),
    change("added", "/opt/new/deep", "directory"),
    change("added", "/opt/new/deep/f"),
    change("added", "/opt/new/.hidden"),
    change("added", "/opt/[x]*"),
    change("deleted", "/usr/d", "directory"),
    change("deleted", "/usr/d/e", "directory"),
    change("deleted", "/usr/d/e/f"),
    change("deleted", "/usr/d/g"),
]


def selected(*paths: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return sorted(c.path.decode() for c in select(CHANGES, paths, exclude).changes)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("/", [c.path.decode() for c in CHANGES]),
        ("/etc", ["/etc", "/etc/a.conf", "/etc/b.conf", "/etc/old"]),
        ("//etc/./", ["/etc", "/etc/a.conf", "/etc/b.conf", "/etc/old"]),
        ("/etc/*.conf", ["/etc/a.conf", "/etc/b.conf"]),
        ("/etc/[!a].conf", ["/etc/b.conf"]),
        ("/etc/?.conf", ["/etc/a.conf", "/etc/b.conf"]),
        ("/**/*.conf", ["/etc/a.conf", "/etc/b.conf"]),
        ("/*/new/deep/f", ["/opt/new", "/opt/new/deep", "/opt/new/deep/f"]),
        ("/opt/new/*", ["/opt/new", "/opt/new/.hidden", "/opt/new/deep", "/opt/new/deep/f"]),
        ("/opt/new/**", ["/opt/new", "/opt/new/.hidden", "/opt/new/deep", "/opt/new/deep/f"]),
        ("/opt/[x]*", ["/opt/[x]*"]),  # a change of exactly that name
        (r"/opt/\[*", ["/opt/[x]*"]),
        ("/usr/d", ["/usr/d", "/usr/d/e", "/usr/d/e/f", "/usr/d/g"]),
        ("/usr/d/e/f", ["/usr/d/e/f"]),
        ("/**/f", ["/opt/new", "/opt/new/deep", "/opt/new/deep/f", "/usr/d/e/f"]),
    ],
)
def test_patterns(pattern: str, wanted: list[str]) -> None:
    assert selected(pattern) == sorted(wanted)


def test_parents_come_along_and_are_told() -> None:
    found = select(CHANGES, ["/opt/new/deep/f"])
    assert found.parents == (b"/opt/new", b"/opt/new/deep")
    assert select(CHANGES, ["/opt/new"]).parents == ()


def test_what_is_excluded_stays_and_keeps_its_directories() -> None:
    found = select(CHANGES, exclude=["/usr/d/e/f"])
    assert found.kept == (b"/usr/d", b"/usr/d/e")
    assert {c.path for c in found.changes if c.path.startswith(b"/usr")} == {b"/usr/d/g"}
    assert selected("/opt", exclude=("/opt/new/deep",)) == ["/opt/[x]*", "/opt/new", "/opt/new/.hidden"]


@pytest.mark.parametrize("bad", ["etc", "", "../etc", "/etc/../opt", "/a\0b", "/[z-a]"])
def test_a_pattern_must_be_an_absolute_path(bad: str) -> None:
    with pytest.raises(InvalidInput, match=r"^select "):
        select(CHANGES, [bad])


@pytest.mark.parametrize("missing", ["/nothing", "/etc/*.txt", "/ETC", "/etc/a.conf/below"])
def test_a_pattern_that_selects_nothing_is_named(missing: str) -> None:
    with pytest.raises(NotFound, match=re.escape(f"select {missing}")):
        select(CHANGES, ["/etc", missing])
    with pytest.raises(NotFound, match=re.escape(f"exclude {missing}")):
        select(CHANGES, exclude=[missing])


def test_nothing_may_be_left() -> None:
    with pytest.raises(NotFound, match="--exclude leaves none"):
        select(CHANGES, ["/etc"], ["/etc"])
    assert select([], [], []).changes == ()


def test_another_type_takes_all_or_nothing() -> None:
    replaced = [
        change("replaced", "/p", "file", before="directory"),
        change("deleted", "/p/a"),
        change("replaced", "/q", "directory", before="file"),
        change("added", "/q/b"),
    ]
    assert len(select(replaced).changes) == 4
    with pytest.raises(InvalidInput, match="/p: not possible without /p/a"):
        select(replaced, exclude=["/p/a"])
    with pytest.raises(InvalidInput, match="/q/b: not possible without /q"):
        select(replaced, ["/q/b"])
    assert [c.path for c in select(replaced, ["/p/a"]).changes] == [b"/p/a"]
    assert [c.path for c in select(replaced, exclude=["/q/b", "/p"]).changes] == [b"/q"]


words = st.text(alphabet="ab*?[]!.\\", min_size=1, max_size=6).filter(lambda w: w not in (".", "..", "**"))


@given(words, st.text(alphabet="ab*?[]!.\\", min_size=1, max_size=5).filter(lambda w: w not in (".", "..")))
def test_one_name_matches_as_in_a_shell(pattern: str, name: str) -> None:
    if "\\" in pattern:
        return  # fnmatch has no escape
    try:
        found = matcher("/" + pattern)(b"/" + name.encode())
    except LaminaError:
        return
    assert bool(found) == fnmatch.fnmatchcase(name, pattern)


@given(
    st.binary(min_size=1, max_size=8).filter(
        lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b"..")
    )
)
def test_any_name_can_be_escaped(name: bytes) -> None:
    pattern = b"/" + b"".join(b"\\" + name[i : i + 1] for i in range(len(name)))
    assert matcher(pattern)(b"/" + name)
    assert matcher(pattern)(b"/" + name + b"/below")
    assert not matcher(pattern)(b"/x" + name)
    assert matcher(b"/" + name, {b"/" + name})(b"/" + name)


def test_order_and_ancestors() -> None:
    assert sorted([b"/a-b", b"/a/c", b"/a", b"/"], key=tree_order) == [b"/", b"/a", b"/a/c", b"/a-b"]
    assert ancestors(b"/a/b/c") == [b"/a/b", b"/a", b"/"]
    assert ancestors(b"/") == []


def test_mount_points_of_the_engine_are_no_changes() -> None:
    changes = [
        change("times", "/", "directory"),
        change("added", "/data", "directory"),
        change("added", "/data/vol", "directory"),
        change("added", "/mnt", "directory"),
        change("added", "/mnt/point", "directory"),
        change("added", "/mnt/real"),
        change("times", "/srv", "directory"),
        change("added", "/srv/file", size=0),
        change("added", "/srv/full", size=5),
    ]
    made = [b"/data/vol", b"/mnt/point", b"/srv/file", b"/srv/full"]
    left = [c.path for c in without_mount_points(changes, made)]
    assert left == [b"/", b"/mnt", b"/mnt/real", b"/srv", b"/srv/full"]
    left = [c.path for c in without_mount_points(changes[:3], made)]
    assert left == []
    assert without_idle_roots(changes[:1]) == []
    assert len(without_idle_roots(changes)) == len(changes)
