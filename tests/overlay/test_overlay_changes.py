"""What the upper directory did to the layers below, one kind at a time; what was found by the property tests."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.mount import mount, umount2
from lamina.overlay.changes import Change, changes
from lamina.overlay.layer import TRUSTED
from lamina.overlay.layer import USER as USER_MARKS
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from support.grow import WHITEOUT, XWHITEOUT, Metacopy, To, grow, moved, opaque
from support.namespaces import in_mount_namespace
from support.stacks import mounted

FOLLOW = (("redirect_dir", "on"), ("metacopy", "on"))
T = 1_700_000_000_000_000_000


def stack(place: Path, upper: object, *lowers: object, user: bool = True) -> Overlay:
    marks = USER_MARKS if user else TRUSTED
    paths = [bytes(grow(place / f"layer{n}", layer, marks)) for n, layer in enumerate((upper, *lowers))]  # type: ignore[arg-type]
    for path in paths:  # so that nothing differs but what a test is about
        for directory, inner, others in os.walk(path):
            for name in inner + others:
                os.utime(os.path.join(directory, name), ns=(T, T), follow_symlinks=False)
        os.utime(path, ns=(T, T))
    return Overlay(MountSpec(tuple(paths[1:]), paths[0], userxattr=user, options=() if user else FOLLOW))


def words(found: Change) -> str:
    """A change in one line."""
    text = [found.kind, *sorted(found.what)]
    if found.implied:
        text.append("implied")
    if found.vanished:
        text.append(f"vanished={found.vanished}")
    if found.link_to is not None:
        text.append(f"link={os.fsdecode(found.link_to)}")
    if found.moved_from is not None:
        text.append(f"from={os.fsdecode(found.moved_from)}")
    return " ".join(text)


def said(overlay: Overlay, **options: str) -> dict[str, str]:
    return {os.fsdecode(change.path): words(change) for change in overlay.changes(**options)}  # type: ignore[arg-type]


# -- kinds -----------------------------------------------------------------------------------------------------


def test_added_changed_deleted_replaced(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {
            "new": "1",
            "same": "1",
            "edited": "other",
            "gone": WHITEOUT,
            "link": "was a link",
            "d": {"in": "1"},
        },
        {"same": "1", "edited": "words", "gone": "x", "link": To("same"), "d": "was a file"},
    )
    assert said(overlay) == {
        "d": "replaced",
        "d/in": "added",
        "edited": "changed content",
        "gone": "deleted",
        "link": "replaced",
        "new": "added",
    }


def test_entries_say_what_was_and_what_is(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path, {"a": "longer", "l": To("b"), "g": WHITEOUT}, {"a": "one", "l": To("a"), "g": "x"}
    )
    (tmp_path / "layer0/a").chmod(0o4711)
    found = {change.path: change for change in overlay.changes()}
    a = found[b"a"]
    assert a.what == {"content", "mode"}
    assert a.before is not None
    assert a.after is not None
    assert (a.before.type, a.before.size, a.before.mode) == ("file", 3, 0o644)
    assert (a.after.type, a.after.size, a.after.mode) == ("file", 6, 0o4711)
    assert (a.after.uid, a.after.gid, a.after.mtime_ns, a.after.nlink) == (os.getuid(), os.getgid(), T, 1)
    assert (a.after.ino, a.after.dev) == os.stat(tmp_path / "layer0/a")[1:3]
    link = found[b"l"]
    assert link.what == {"target"}
    assert link.before is not None
    assert link.after is not None
    assert (link.before.target, link.after.target) == (b"a", b"b")
    assert found[b"g"].after is None


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda path: os.chmod(path, 0o600), "mode"),
        (lambda path: os.utime(path, ns=(T, T + 1)), "times"),
        (lambda path: os.utime(path, ns=(T + 1, T)), ""),  # the time of last access is nobody's change
        (lambda path: os.setxattr(path, "user.new", b"1"), "xattrs"),
        (lambda path: os.setxattr(path, "user.old", b"2"), "xattrs"),
        (lambda path: os.removexattr(path, "user.old"), "xattrs"),
        (lambda path: os.setxattr(path, "user.overlay.origin", b"x"), ""),
        (lambda path: None, ""),
    ],
)
@pytest.mark.parametrize("name", ["file", "dir"])
def test_metadata_alone(tmp_path: Path, edit: Callable[[Path], None], what: str, name: str) -> None:
    overlay = stack(tmp_path, {"file": "same", "dir": {}}, {"file": "same", "dir": {}})
    for layer in ("layer0", "layer1"):
        os.setxattr(tmp_path / layer / name, "user.old", b"1")
    edit(tmp_path / "layer0" / name)
    assert said(overlay) == ({name: f"changed {what}"} if what else {})


@pytest.mark.root
def test_owner_and_device_number(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"f": "x"}, {"f": "x"})
    os.chown(tmp_path / "layer0/f", 1, 2)
    for layer, minor in (("layer0", 5), ("layer1", 3)):
        os.mknod(tmp_path / layer / "dev", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        os.utime(tmp_path / layer / "dev", ns=(T, T))
        os.utime(tmp_path / layer, ns=(T, T))
    assert said(overlay) == {"dev": "changed rdev", "f": "changed owner"}


def test_a_copy_of_the_same_size_and_time_is_compared(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"f": "b" * 3_000_000 + "x"}, {"f": "b" * 3_000_000 + "y"})
    assert said(overlay) == {"f": "changed content"}


def test_the_root_itself(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {}, {})
    assert said(overlay) == {}
    (tmp_path / "layer0").chmod(0o700)
    assert said(overlay) == {"": "changed mode"}


def test_a_directory_whose_times_alone_differ_is_incidental(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"d": {"new": "1"}, "e": {}}, {"d": {}, "e": {}})
    os.utime(tmp_path / "layer0/d", ns=(T, T + 5))
    os.utime(tmp_path / "layer0/e", ns=(T, T + 5))
    (tmp_path / "layer0/e").chmod(0o711)
    found = {change.path: change.incidental for change in overlay.changes()}
    assert found == {b"d": True, b"d/new": False, b"e": False}


# -- what vanished ---------------------------------------------------------------------------------------------

BELOW = {"d": {"a": "1", "sub": {"b": "2", "c": {}}}, "d-": "x", "d0": "x"}


def test_a_deleted_directory_says_what_vanished(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path, {"d": WHITEOUT}, {"d": {"sub": {"c": {}}}}, {**BELOW, "d": {"a": "1", "sub": {"b": "2"}}}
    )
    assert said(overlay) == {
        "d": "deleted",
        "d/a": "deleted implied",
        "d/sub": "deleted implied",
        "d/sub/b": "deleted implied",
        "d/sub/c": "deleted implied",
    }
    assert said(overlay, vanished="count") == {"d": "deleted vanished=4"}
    assert said(overlay, vanished="none") == {"d": "deleted"}
    assert [change.vanished for change in overlay.changes(vanished="none")] == [None]


def test_a_replaced_directory_says_what_vanished(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"d": "a file now"}, BELOW)
    assert list(said(overlay)) == ["d", "d/a", "d/sub", "d/sub/b", "d/sub/c"]
    assert said(overlay, vanished="count") == {"d": "replaced vanished=4"}


def test_a_created_again_directory_says_what_vanished(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"d": opaque(a="1", new="2", sub=opaque())}, BELOW)
    assert said(overlay) == {
        "d/new": "added",
        "d/sub/b": "deleted implied",
        "d/sub/c": "deleted implied",
    }
    overlay = stack(tmp_path / "2", {"d": opaque(a="1", new="2")}, BELOW)
    assert said(overlay, vanished="count") == {"d/new": "added", "d/sub": "deleted implied vanished=2"}


def test_what_never_was_does_not_vanish(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {"w": WHITEOUT, "d": {"w": WHITEOUT}, "o": opaque(x="1")},
        {"d": {"w": WHITEOUT}},
        {"d": {"w": "old"}},
    )
    assert said(overlay) == {"o": "added", "o/x": "added"}


def test_whiteouts_of_the_xattr_form_in_the_upper(tmp_path: Path) -> None:
    assert said(stack(tmp_path, {"d": {"a": XWHITEOUT}}, {"d": {"a": "1"}})) == {"d/a": "deleted"}


def test_only_known_answers_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="vanished"):
        stack(tmp_path, {}, {}).changes(vanished="all")  # type: ignore[arg-type]


# -- order -----------------------------------------------------------------------------------------------------


def test_paths_come_sorted_as_bytes(tmp_path: Path) -> None:
    tree = {
        "a": {"x": "", "b": {"y": ""}},
        "a-b": {"z": ""},
        "a.c": "",
        "a0": "",
        "\udcff": {"q": ""},
        "new\nline": "",
    }
    paths = [change.path for change in stack(tmp_path, tree, {}).changes()]
    assert paths == sorted(paths)
    assert paths[:4] == [b"a", b"a-b", b"a-b/z", b"a.c"]
    assert len(paths) == 11


# -- moved, linked ---------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_renamed_directory(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {"old": WHITEOUT, "new": moved("/old", more="2")},
        {"old": {"x": "1", "d": {"y": "1"}}},
        user=False,
    )
    assert said(overlay) == {
        "new": "added from=old",
        "new/d": "added",
        "new/d/y": "added",
        "new/more": "added",
        "new/x": "added",
        "old": "deleted",
        "old/d": "deleted implied",
        "old/d/y": "deleted implied",
        "old/x": "deleted implied",
    }


@pytest.mark.root
def test_a_directory_renamed_onto_another(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path,
        {"old": WHITEOUT, "new": moved("/old")},
        {"old": {"x": "1"}, "new": {"x": "1", "z": "2"}},
        user=False,
    )
    assert said(overlay) == {"new/z": "deleted implied", "old": "deleted", "old/x": "deleted implied"}
    (tmp_path / "layer0/new").chmod(0o700)
    assert said(overlay)["new"] == "changed mode from=old"


@pytest.mark.root
def test_a_metacopy_changed_no_content(tmp_path: Path) -> None:
    overlay = stack(
        tmp_path, {"f": Metacopy(4, mode=0o600), "g": Metacopy(4)}, {"f": "1234", "g": "1234"}, user=False
    )
    assert said(overlay) == {"f": "changed mode"}


def test_names_of_one_new_file(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"b": "1", "d": {}}, {"d": {}})
    os.link(tmp_path / "layer0/b", tmp_path / "layer0/a")
    os.link(tmp_path / "layer0/b", tmp_path / "layer0/d/c")
    os.utime(tmp_path / "layer0", ns=(T, T))
    os.utime(tmp_path / "layer0/d", ns=(T, T))
    assert said(overlay) == {"a": "added", "b": "added link=a", "d/c": "added link=a"}


def test_a_new_name_of_an_old_file_is_a_link_to_it(tmp_path: Path) -> None:
    """`ln old another`: the copy of `old` is not a change, whichever comes first."""
    overlay = stack(tmp_path, {"old": "1"}, {"old": "1"})
    os.link(tmp_path / "layer0/old", tmp_path / "layer0/another")
    os.utime(tmp_path / "layer0", ns=(T, T))
    assert said(overlay) == {"another": "added link=old"}


def test_two_equal_files_that_became_one(tmp_path: Path) -> None:
    """`ln -f x y` with the same in both: nothing differs but that they are one file now."""
    overlay = stack(tmp_path, {"x": "1"}, {"x": "1", "y": "1"})
    os.link(tmp_path / "layer0/x", tmp_path / "layer0/y")
    os.utime(tmp_path / "layer0", ns=(T, T))
    assert said(overlay) == {"y": "changed link=x"}


def test_links_that_were_links_are_no_change(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"x": "1"}, {"x": "1"})
    for layer in ("layer0", "layer1"):
        os.link(tmp_path / layer / "x", tmp_path / layer / "y")
        os.utime(tmp_path / layer, ns=(T, T))
    assert said(overlay) == {}


def test_links_that_changed_together(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"x": "22"}, {"x": "1"})
    for layer in ("layer0", "layer1"):
        os.link(tmp_path / layer / "x", tmp_path / layer / "y")
        os.utime(tmp_path / layer, ns=(T, T))
    assert said(overlay) == {"x": "changed content", "y": "changed content link=x"}


def test_whiteouts_that_are_linked_to_each_other_are_whiteouts(tmp_path: Path) -> None:
    """The kernel makes one whiteout and links it."""
    overlay = stack(tmp_path, {"a": WHITEOUT}, {"a": "1", "b": "1"})
    os.link(tmp_path / "layer0/a", tmp_path / "layer0/b")
    os.utime(tmp_path / "layer0", ns=(T, T))
    assert said(overlay) == {"a": "deleted", "b": "deleted"}


@pytest.mark.root
def test_links_in_a_renamed_directory(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"new": moved("/old"), "old": WHITEOUT}, {"old": {"x": "1"}}, user=False)
    os.link(tmp_path / "layer1/old/x", tmp_path / "layer1/old/y")
    found = said(overlay)
    assert (found["new/x"], found["new/y"]) == ("added", "added link=new/x")


# -- cost ------------------------------------------------------------------------------------------------------


def test_the_lower_layers_are_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = {f"d{n}": {f"f{m}": "x" for m in range(20)} for n in range(20)}
    overlay = stack(tmp_path, {"d3": {"f4": "changed"}}, big, big)
    here = threading.get_ident()  # what another thread of this process looks at is not counted

    def counted(function: Any, calls: list[object]) -> Any:
        def counting(*args: Any, **options: Any) -> Any:
            if threading.get_ident() == here:
                calls.append(args)
            return function(*args, **options)

        return counting

    looked: list[object] = []
    listed: list[object] = []
    monkeypatch.setattr(os, "stat", counted(os.stat, looked))
    monkeypatch.setattr(os, "listdir", counted(os.listdir, listed))
    assert len(list(overlay.changes())) == 1
    assert len(looked) < 20, "the upper has three entries"
    assert len(listed) == 2, "nothing but the upper's directories is listed"


def test_the_first_changes_come_before_the_last_directory_was_read(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"a": "1", "z": {"b": "2"}}, {})
    found = overlay.changes()
    assert next(found).path == b"a"
    (tmp_path / "layer0/z/c").write_text("3")
    assert [change.path for change in found] == [b"z", b"z/b", b"z/c"]
    found = overlay.changes()
    next(found)
    found.close()  # type: ignore[attr-defined]


# -- what goes wrong -------------------------------------------------------------------------------------------


def test_without_an_upper_there_are_no_changes(tmp_path: Path) -> None:
    assert list(changes(MountSpec((bytes(tmp_path),)))) == []


def test_a_missing_layer_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="none"):
        changes(MountSpec((bytes(tmp_path / "none"),), bytes(tmp_path)))


@pytest.mark.root
def test_an_entry_a_mount_could_not_show_is_an_error_that_names_it(tmp_path: Path) -> None:
    overlay = stack(tmp_path, {"d": {"broken": Metacopy(4)}}, {"d": {}}, user=False)
    with pytest.raises(OSError) as caught:
        list(overlay.changes())
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "/d/broken")


@pytest.mark.root
def test_hard_links_that_only_the_kernels_index_joins_are_refused(tmp_path: Path) -> None:
    """With `index=on` a write to one name is seen under all, but the upper has one: better none than half of it."""
    grow(tmp_path / "low", {"a": "1", "alone": "1"})
    os.link(tmp_path / "low/a", tmp_path / "low/b")
    grow(tmp_path, {"up": {}, "merged": {}})
    spec = MountSpec((b"low",), b"up", b"work", options=(("index", "on"),))

    def check() -> list[tuple[str, ...]]:
        os.chdir(tmp_path)
        said = []
        for name in (None, "alone", "a", "b"):
            (tmp_path / "work").mkdir(exist_ok=True)
            mount(b"o", b"merged", b"overlay", 0, b"lowerdir=low,upperdir=up,workdir=work,index=on")
            try:
                if name is not None:
                    (tmp_path / "merged" / name).write_text("new")
            finally:
                umount2(b"merged", 0)
            try:
                said.append(tuple(os.fsdecode(change.path) for change in changes(spec) if change.path))
            except Unsupported as error:
                assert "index=on" in str(error)
                said.append(("refused",))
        return said

    assert in_mount_namespace(check) == [(), ("alone",), ("refused",), ("a", "alone", "b")]


@pytest.mark.root
def test_the_changes_of_a_stack_that_is_mounted(tmp_path: Path) -> None:
    """As `diff` of a running container asks for them."""
    overlay = stack(tmp_path, {}, {"a": "1", "d": {"x": "1"}}, user=False)

    def check() -> dict[str, str]:
        os.chdir(tmp_path)
        os.mkdir("merged")
        spec = MountSpec((b"layer1",), b"layer0", b"work", options=FOLLOW)
        with mounted(spec, b"merged") as merged:
            place = Path(os.fsdecode(merged))
            (place / "b").write_text("2")
            os.rename(place / "d", place / "e")
            (place / "a").chmod(0o600)
            return said(overlay)

    found = in_mount_namespace(check)
    assert found.pop("") == "changed times"
    assert found == {
        "a": "changed mode",
        "b": "added",
        "d": "deleted",
        "d/x": "deleted implied",
        "e": "added from=d",
        "e/x": "added",
    }
