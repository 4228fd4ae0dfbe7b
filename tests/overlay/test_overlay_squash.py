"""Adjacent layers made one: the stack reads as before, whatever is above and below; kind by kind, and drawn at
random.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import Unsupported
from lamina.overlay.layer import TRUSTED
from lamina.overlay.layer import USER as USER_MARKS
from lamina.overlay.spec import MountSpec
from lamina.overlay.squash import squash
from lamina.overlay.stack import Overlay
from support.grow import WHITEOUT, Metacopy, grow, moved, opaque
from support.namespaces import in_mount_namespace, in_user_namespace
from support.snapshots import FIELDS, Record, Snapshot, snapshot, snapshot_tree
from support.stacks import Kit, Node, layers, mounted, scratch, write_layer

# what no layer of Lamina's has: see `refused`
PLAIN = Kit(redirects=False, metacopies=False)
PLAIN_USER = Kit(root=False, redirects=False, metacopies=False)
DENSE = Kit(redirects=False, metacopies=False, dense=True)
STEADY = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))

pytestmark = pytest.mark.timeout(0 if settings().max_examples > 1000 else 300)


def squashed(place: Path, *run: object, user: bool = True, bottom: bool = False) -> tuple[Path, list[str]]:
    """The layers *run* (top first) as one; and what was noted: "NUMBER PATH"."""
    marks = USER_MARKS if user else TRUSTED
    trees = [bytes(grow(place / f"run{number}", layer, marks)) for number, layer in enumerate(run)]  # type: ignore[arg-type]
    into = place / "squashed"
    into.mkdir()
    squash(trees, bytes(into), userxattr=user, bottom=bottom, record=bytes(place / "met"))
    return into, sorted(os.fsdecode((place / "met").read_bytes()).split("\0")[:-1])


def marks_of(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path, follow_symlinks=False)}


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_the_topmost_wins_and_directories_merge(tmp_path: Path) -> None:
    made, met = squashed(tmp_path, {"d": {"a": "new"}}, {"d": {"a": "old", "b": "kept"}, "f": "x"})
    assert (made / "d/a").read_text() == "new"
    assert (made / "d/b").read_text() == "kept"
    assert (made / "f").read_text() == "x"
    assert met == ["0 d", "0 d/a", "1 d/b", "1 f"]


def test_a_whiteout_stays_for_the_layers_below_the_run(tmp_path: Path) -> None:
    made, met = squashed(tmp_path, {"d": {"gone": WHITEOUT}}, {"d": {"gone": "x", "stays": "y"}})
    assert is_whiteout(made / "d/gone")
    # where the layers below have no d, a mount lists no whiteout only of what says that it was copied up
    assert marks_of(made / "d") == {USER_MARKS.origin: b""}
    assert met == ["0 d", "0 d/gone", "1 d/stays"]


def test_below_the_run_nothing_is_left_to_hide(tmp_path: Path) -> None:
    made, _ = squashed(tmp_path, {"d": {"gone": WHITEOUT}}, {"d": {"gone": "x"}}, bottom=True)
    assert os.listdir(made / "d") == []
    assert marks_of(made / "d") == {}


def test_a_directory_over_a_file_hides_what_lies_below(tmp_path: Path) -> None:
    made, _ = squashed(tmp_path, {"e": {"new": "x"}}, {"e": "a file"}, {"e": {"old": "y"}})
    assert os.listdir(made / "e") == ["new"]
    assert os.getxattr(made / "e", USER_MARKS.opaque) == b"y"


def test_a_directory_made_anew_hides_what_lies_below(tmp_path: Path) -> None:
    made, _ = squashed(tmp_path, {"e": {"f": "x"}}, {"e": WHITEOUT}, {"e": {"old": "y"}})
    assert os.listdir(made / "e") == ["f"]
    assert os.getxattr(made / "e", USER_MARKS.opaque) == b"y"


def test_what_is_in_an_opaque_directory_needs_no_whiteouts(tmp_path: Path) -> None:
    made, _ = squashed(tmp_path, {"e": {"f": WHITEOUT}}, {"e": opaque(f="x", g={"h": "y"})})
    assert os.listdir(made / "e") == ["g"]
    assert os.getxattr(made / "e", USER_MARKS.opaque) == b"y"
    assert marks_of(made / "e/g") == {}  # there is nothing that it could hide


def test_a_file_over_a_directory(tmp_path: Path) -> None:
    made, met = squashed(tmp_path, {"e": "now a file"}, {"e": {"old": "y"}})
    assert (made / "e").read_text() == "now a file"
    assert met == ["0 e"]


def test_hard_links_within_a_layer_are_kept_and_no_others_made(tmp_path: Path) -> None:
    run = [grow(tmp_path / f"l{number}", {"a": text}, USER_MARKS) for number, text in enumerate("xy")]
    os.link(run[1] / "a", run[1] / "b")
    os.link(run[1] / "a", run[1] / "c")
    before = (run[0] / "a").stat()
    into = tmp_path / "into"
    into.mkdir()
    squash([bytes(layer) for layer in run], bytes(into), userxattr=True)
    assert (into / "b").stat().st_ino == (into / "c").stat().st_ino
    assert (into / "a").stat().st_nlink == 1  # as a mount showed it, and shows it
    assert (into / "b").stat().st_nlink == 2  # "a" of that layer is hidden
    after = (run[0] / "a").stat()
    assert (after.st_ino, after.st_nlink, after.st_ctime_ns) == (before.st_ino, 1, before.st_ctime_ns)


def test_attributes_times_and_holes(tmp_path: Path) -> None:
    run = [
        grow(tmp_path / f"l{number}", layer, USER_MARKS)
        for number, layer in enumerate(({}, {"d": {"f": "x"}}))
    ]
    place = run[1] / "d/f"
    with open(place, "wb") as file:
        file.truncate(1 << 20)
    os.setxattr(place, "user.a", b"1")
    os.setxattr(place, USER_MARKS.prefix + "overlay.opaque", b"y")  # a layer within a layer
    os.setxattr(place, USER_MARKS.origin, b"somewhere")
    place.chmod(0o4711)
    os.symlink("nowhere", run[1] / "d/link")
    for path in (place, run[1] / "d/link", run[1] / "d", run[0]):
        os.utime(path, ns=(5, 7), follow_symlinks=False)
    into = tmp_path / "into"
    into.mkdir()
    done = squash([bytes(layer) for layer in run], bytes(into), userxattr=True)
    assert (done.size, done.inodes) == (1 << 20, 3)
    made = into / "d/f"
    assert marks_of(made) == {"user.a": b"1", USER_MARKS.prefix + "overlay.opaque": b"y"}
    assert stat.S_IMODE(made.stat().st_mode) == 0o4711
    assert made.stat().st_blocks == 0
    assert [path.lstat().st_mtime_ns for path in (made, into / "d/link", into / "d", into)] == [7, 7, 7, 7]


@pytest.mark.parametrize(
    ("layer", "why"),
    [({"d": moved("/elsewhere")}, "moved"), ({"f": Metacopy()}, "metadata")],
    ids=["redirect", "metacopy"],
)
@pytest.mark.root
def test_what_depends_on_where_it_is_looked_up_from_is_refused(
    tmp_path: Path, layer: object, why: str
) -> None:
    with pytest.raises(Unsupported, match=why):
        squashed(tmp_path, layer, {"x": "y"}, user=False)


@pytest.mark.root
def test_a_mount_lists_no_whiteout_of_a_squashed_layer(tmp_path: Path) -> None:
    def mount_and_look() -> None:
        made, _ = squashed(tmp_path, {"d": {"gone": WHITEOUT}}, {"d": {"gone": "x", "b": "y"}}, user=False)
        base = grow(tmp_path / "base", {"other": "z"}, TRUSTED)
        (tmp_path / "merged").mkdir()
        spec = MountSpec((bytes(made), bytes(base)), options=STEADY)
        with mounted(spec, bytes(tmp_path / "merged")) as merged:
            assert os.listdir(merged + b"/d") == [b"b"]

    in_mount_namespace(mount_and_look)


# -- drawn stacks ----------------------------------------------------------------------------------------------


def write(stack: list[Node], kit: Kit) -> list[bytes]:
    names = [b"l%d" % number for number in range(len(stack))]
    for name, layer in zip(names, stack, strict=True):
        write_layer(name, layer, kit)
    return names


def reads_as_before(stack: list[Node], first: int, count: int, kit: Kit) -> None:
    names = write(stack, kit)
    run = names[first : first + count]
    bottom = first + count == len(names)
    os.mkdir(b"squashed")
    squash(run, b"squashed", userxattr=not kit.root, bottom=bottom)
    options = STEADY if kit.root else ()
    lowers = (*names[:first], b"squashed", *names[first + count :])
    if bottom and len(lowers) == 1:
        os.mkdir(b"empty")
        lowers = (*lowers, b"empty")
    before = MountSpec(tuple(names), userxattr=not kit.root, options=options)
    after = MountSpec(lowers, userxattr=not kit.root, options=options)
    os.mkdir(b"merged")
    seen = []
    for spec in (before, after):
        with mounted(spec, b"merged"):
            kernel = snapshot(b"merged")
        with Overlay(spec).open() as tree:
            seen.append((kernel, snapshot_tree(tree)))
    for old, new in zip(*seen, strict=True):
        assert comparable(new) == comparable(old)
    (old, _), (new, _) = seen
    for path, record in old.items():
        check_links(record, new[path])


def comparable(found: Snapshot) -> dict[bytes, object]:
    """Without what a squash may change: the number of links, and when an inode was last touched."""
    return {
        path: record if record[0] == "errno" else _without(record, "nlink", "ctime")
        for path, record in found.items()
    }


def _without(record: Record, *fields: str) -> tuple[object, ...]:
    return tuple(one for name, one in zip(FIELDS, record, strict=True) if name not in fields)


def check_links(old: Record, new: Record) -> None:
    """No file has names that it had not; what had one has one."""
    if old[0] != "errno" and not stat.S_ISDIR(int(old[0], 8)):
        before, after = old[FIELDS.index("nlink")], new[FIELDS.index("nlink")]
        assert 1 <= after <= before


def runs(least: int = 2) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, 3), st.integers(least, 4))


@pytest.mark.root
def test_a_drawn_stack_reads_as_before(tmp_path: Path) -> None:
    @settings(max_examples=max(settings().max_examples // 4, 10))
    @given(st.one_of(layers(PLAIN, 3, 5), layers(DENSE, 3, 5)), runs())
    def check(stack: list[Node], run: tuple[int, int]) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            try:
                first = run[0] % (len(stack) - 1)
                reads_as_before(stack, first, min(run[1], len(stack) - first), PLAIN)
            finally:
                os.chdir("/")

    in_mount_namespace(lambda: check(), timeout=100_000)


@pytest.mark.userns
def test_a_drawn_stack_in_a_user_namespace_reads_as_before(tmp_path: Path) -> None:
    @settings(max_examples=max(settings().max_examples // 8, 10))
    @given(layers(PLAIN_USER, 3, 5), runs())
    def check(stack: list[Node], run: tuple[int, int]) -> None:
        with scratch(os.fsencode(tmp_path)) as place:
            os.chdir(place)
            try:
                first = run[0] % (len(stack) - 1)
                reads_as_before(stack, first, min(run[1], len(stack) - first), PLAIN_USER)
            finally:
                os.chdir("/")

    in_user_namespace(lambda: check(), timeout=100_000)
