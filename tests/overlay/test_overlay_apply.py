"""Changes put onto a plain directory: whole or not at all, every attribute, nothing but where it belongs."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Conflict, KernelError
from lamina.linux import files
from lamina.linux.constants import RENAME_EXCHANGE
from lamina.linux.mount import mount
from lamina.overlay.apply import Target, remove
from lamina.overlay.changes import Change
from lamina.overlay.copying import copy_content
from lamina.overlay.layer import USER as USER_MARKS
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from support.grow import WHITEOUT, To, grow, opaque
from support.namespaces import in_mount_namespace
from support.stacks import ACL, CAPABILITY

T = 1_600_000_000_123_456_789


class Scene:
    """An upper over a lower, and a plain directory that is like the lower."""

    def __init__(self, place: Path, upper: object, lower: object) -> None:
        self.upper = grow(place / "upper", upper, USER_MARKS)  # type: ignore[arg-type]
        self.lower = grow(place / "lower", lower, USER_MARKS)  # type: ignore[arg-type]
        self.copy = grow(place / "copy", lower, USER_MARKS)  # type: ignore[arg-type]
        self.overlay = Overlay(MountSpec((bytes(self.lower),), bytes(self.upper), userxattr=True))
        self.tree = self.overlay.open()

    def target(self, **options: object) -> Target:
        return Target(os.open(self.copy, os.O_RDONLY | os.O_DIRECTORY), **options)  # type: ignore[arg-type]

    def change(self, path: str) -> Change:
        return next(change for change in self.overlay.changes() if change.path == os.fsencode(path))

    def apply(self, **options: object) -> None:
        with self.target(**options) as target:
            for change in self.overlay.changes():
                target.apply(change, self.tree)
            target.finish()

    def names(self) -> set[str]:
        return {str(path.relative_to(self.copy)) for path in self.copy.rglob("*")}


def test_everything_at_once(tmp_path: Path) -> None:
    scene = Scene(
        tmp_path,
        {
            "new": {"d": {"f": "1"}},
            "edited": "after",
            "gone": WHITEOUT,
            "again": opaque(x="new"),
            "kind": {"x": "1"},
        },
        {
            "edited": "before",
            "gone": {"a": {"b": "1"}},
            "again": {"x": "old", "y": "old"},
            "kind": "file",
            "kept": "1",
        },
    )
    os.utime(scene.upper / "new/d", ns=(T, T))
    (scene.upper / "new").chmod(0o555)
    scene.apply()
    assert scene.names() == {
        "new",
        "new/d",
        "new/d/f",
        "edited",
        "again",
        "again/x",
        "kind",
        "kind/x",
        "kept",
    }
    assert (scene.copy / "edited").read_text() == "after"
    assert (scene.copy / "again/x").read_text() == "new"
    assert os.stat(scene.copy / "new/d").st_mtime_ns == T
    assert stat.S_IMODE(os.stat(scene.copy / "new").st_mode) == 0o555
    assert os.stat(scene.copy).st_mtime_ns == os.stat(scene.upper).st_mtime_ns


def test_attributes_of_a_file(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"f": "content"}, {})
    path = scene.upper / "f"
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "system.posix_acl_access", ACL)
    path.chmod(0o6754)
    os.utime(path, ns=(5, T))
    scene.apply()
    made, wanted = os.stat(scene.copy / "f"), os.stat(path)
    assert (made.st_mode, made.st_uid, made.st_gid, made.st_mtime_ns) == (
        wanted.st_mode,
        wanted.st_uid,
        wanted.st_gid,
        T,
    )
    assert sorted(os.listxattr(scene.copy / "f")) == sorted(os.listxattr(path))
    assert os.getxattr(scene.copy / "f", "system.posix_acl_access") == os.getxattr(
        path, "system.posix_acl_access"
    )


@pytest.mark.root
def test_owner_capability_and_setuid_survive_each_other(tmp_path: Path) -> None:
    """chown(2) takes setuid and capabilities away, so it has to come first."""
    scene = Scene(tmp_path, {"f": "content", "g": "content"}, {"g": "content"})
    for name in ("f", "g"):
        os.chown(scene.upper / name, 1000, 33)
        (scene.upper / name).chmod(0o6711)
        os.setxattr(scene.upper / name, "security.capability", CAPABILITY)
        os.setxattr(scene.upper / name, "trusted.mine", b"x")
    scene.apply()
    for name in ("f", "g"):
        made = os.stat(scene.copy / name)
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (1000, 33, 0o6711)
        assert os.getxattr(scene.copy / name, "security.capability") == CAPABILITY
        assert os.getxattr(scene.copy / name, "trusted.mine") == b"x"


def test_an_acl_that_directories_pass_on_does_not_reach_what_is_applied(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"d": {"f": "1"}}, {"d": {}})
    for layer in (scene.upper, scene.lower, scene.copy):
        os.setxattr(layer / "d", "system.posix_acl_default", ACL)
    os.removexattr(scene.upper / "d", "system.posix_acl_default")
    os.setxattr(scene.upper / "d", "system.posix_acl_default", ACL)
    scene.apply()
    assert "system.posix_acl_access" not in os.listxattr(scene.copy / "d/f")


@pytest.mark.root
def test_special_files(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"l": To("../no//where")}, {})
    for name, kind in (
        ("fifo", stat.S_IFIFO),
        ("sock", stat.S_IFSOCK),
        ("chr", stat.S_IFCHR),
        ("blk", stat.S_IFBLK),
    ):
        os.mknod(scene.upper / name, kind | 0o640, os.makedev(1, 7))
    os.utime(scene.upper / "l", ns=(T, T), follow_symlinks=False)
    os.lchown(scene.upper / "l", 7, 8)
    scene.apply()
    for name in ("fifo", "sock", "chr", "blk", "l"):
        made, wanted = os.lstat(scene.copy / name), os.lstat(scene.upper / name)
        assert (made.st_mode, made.st_rdev, made.st_uid, made.st_gid, made.st_mtime_ns) == (
            wanted.st_mode, wanted.st_rdev, wanted.st_uid, wanted.st_gid, wanted.st_mtime_ns,
        )  # fmt: skip
    assert os.readlink(scene.copy / "l") == "../no//where"


def test_holes_stay_holes(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"sparse": "", "end": ""}, {})
    with open(scene.upper / "sparse", "r+b") as file:
        for offset in (1 << 20, 300 << 20):
            file.seek(offset)
            file.write(b"data")
        file.truncate(1 << 30)
    scene.apply()
    made, wanted = os.stat(scene.copy / "sparse"), os.stat(scene.upper / "sparse")
    assert made.st_size == 1 << 30
    assert made.st_blocks <= wanted.st_blocks + 64
    with open(scene.copy / "sparse", "rb") as file:
        file.seek(300 << 20)
        assert file.read(4) == b"data"


def test_content_between_file_systems(tmp_path: Path) -> None:
    """Neither clones nor copies in the kernel work between every two file systems."""
    source = os.open("/proc/self/status", os.O_RDONLY)
    made = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    copy_content(source, made)  # /proc says its files are empty; nothing is made up
    assert os.fstat(made).st_size == 0
    for fd in (source, made):
        os.close(fd)


def test_hard_links(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"old": "1", "new": "2", "d": {}}, {"old": "1", "d": {}})
    os.utime(scene.upper / "old", ns=(T, T))
    os.utime(scene.lower / "old", ns=(T, T))
    os.link(scene.upper / "old", scene.upper / "d/name")
    os.link(scene.upper / "new", scene.upper / "d/other")
    before = os.stat(scene.copy / "old").st_ino
    scene.apply()
    assert os.stat(scene.copy / "d/name").st_ino == os.stat(scene.copy / "old").st_ino == before
    assert os.stat(scene.copy / "d/other").st_ino == os.stat(scene.copy / "new").st_ino


def test_new_metadata_does_not_touch_the_other_names_of_a_file(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"a": "1"}, {"a": "1", "alone": "1"})
    for layer in (scene.lower, scene.copy):
        os.link(layer / "a", layer / "b")
    (scene.upper / "a").chmod(0o600)
    scene.apply()
    assert stat.S_IMODE(os.stat(scene.copy / "a").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(scene.copy / "b").st_mode) == 0o644


def test_new_metadata_alone_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"a": "1"}, {"a": "1"})
    (scene.upper / "a").chmod(0o600)
    inode = os.stat(scene.copy / "a").st_ino
    scene.apply()
    assert os.stat(scene.copy / "a").st_ino == inode
    assert stat.S_IMODE(os.stat(scene.copy / "a").st_mode) == 0o600


def test_directories_without_a_change_keep_their_times(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"d": {"f": "1", "g": WHITEOUT}}, {"d": {"g": "1"}})
    for layer in (scene.upper, scene.lower, scene.copy):
        os.utime(layer / "d", ns=(T, T))
    scene.apply()
    assert os.stat(scene.copy / "d").st_mtime_ns == T


# -- staged and committed --------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    yield Scene(
        tmp_path,
        {"f": "after", "d": "file now", "gone": WHITEOUT},
        {"f": "before", "d": {"x": {}}, "gone": "1"},
    )


def test_nothing_shows_before_it_is_committed(scene: Scene) -> None:
    with scene.target() as target:
        staged = target.stage(scene.change("f"), scene.tree)
        assert (scene.copy / "f").read_text() == "before"
        assert len(scene.names()) == 5
        target.commit(staged)
        assert (scene.copy / "f").read_text() == "after"
        assert len(scene.names()) == 4


def test_what_is_discarded_leaves_nothing(scene: Scene) -> None:
    with scene.target() as target:
        staged = target.stage(scene.change("f"), scene.tree)
        target.discard(staged)
        target.discard(staged)
    assert scene.names() == {"f", "d", "d/x", "gone"}
    assert (scene.copy / "f").read_text() == "before"


@pytest.mark.parametrize(("path", "below"), [("f", set()), ("d", {"x"}), ("gone", set())])
def test_what_was_there_is_handed_over(scene: Scene, path: str, below: set[str]) -> None:
    with scene.target() as target:
        inode = os.lstat(scene.copy / path).st_ino
        displaced = target.commit(target.stage(scene.change(path), scene.tree), keep=True)
        assert displaced is not None
        assert os.stat(displaced.name, dir_fd=displaced.dir_fd).st_ino == inode
        kept = scene.copy / os.fsdecode(displaced.name)
        assert {entry.name for entry in kept.iterdir()} == below if below else kept.is_file()
        remove(displaced.dir_fd, displaced.name)
    assert not kept.exists()


def test_a_stage_elsewhere(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    fd = os.open(tmp_path / "stage", os.O_RDONLY)
    with scene.target(stage_fd=fd, durable=True) as target:
        for change in scene.overlay.changes():
            staged = target.stage(change, scene.tree)
            assert len(scene.names()) <= 4, "nothing is made in the target"
            target.commit(staged)
        target.finish()
    assert scene.names() == {"f", "d"}
    assert os.listdir(fd) == []
    os.close(fd)


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_system_that_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    scene = Scene(tmp_path, {"a": "after", "b": "after" if linked else "too"}, {"a": "before", "b": "before"})
    if linked:
        (scene.upper / "b").unlink()
        os.link(scene.upper / "a", scene.upper / "b")

    def renameat2(a: int, old: bytes, b: int, new: bytes, flags: int = 0) -> None:
        if flags == RENAME_EXCHANGE:
            raise KernelError("renameat2", errno.EINVAL)
        files.renameat2(a, old, b, new, flags)

    monkeypatch.setattr("lamina.overlay.apply.renameat2", renameat2)
    scene.apply()
    assert scene.names() == {"a", "b"}
    assert (scene.copy / "b").read_text() == ("after" if linked else "too")
    assert (os.stat(scene.copy / "a").st_ino == os.stat(scene.copy / "b").st_ino) == linked


def test_a_failure_leaves_nothing_behind(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lamina.overlay.apply.copy_content", full)
    with scene.target() as target, pytest.raises(OSError) as caught:
        target.apply(scene.change("f"), scene.tree)
    assert caught.value.errno == errno.ENOSPC
    assert scene.names() == {"f", "d", "d/x", "gone"}


@pytest.mark.root
def test_a_full_disk_leaves_nothing_behind(scene: Scene) -> None:
    def check() -> set[str]:
        mount(b"tmpfs", scene.copy, b"tmpfs", 0, b"size=64k,nr_inodes=100")
        grow(scene.copy, {"f": "before", "d": {"x": {}}, "gone": "1"})
        (scene.upper / "f").write_bytes(b"x" * 200_000)
        with scene.target() as target, pytest.raises(OSError) as caught:
            target.apply(scene.change("f"), scene.tree)
        assert caught.value.errno == errno.ENOSPC
        assert (scene.copy / "f").read_text() == "before"
        return scene.names()

    assert in_mount_namespace(check) == {"f", "d", "d/x", "gone"}


# -- a target that is not as expected --------------------------------------------------------------------------


def test_an_entry_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"new": "container"}, {})
    (scene.copy / "new").write_text("host")
    with scene.target() as target, pytest.raises(Conflict, match="new"):
        target.apply(scene.change("new"), scene.tree)
    assert (scene.copy / "new").read_text() == "host"
    assert scene.names() == {"new"}


def test_another_type_than_expected_is_a_conflict(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"f": "1"}, {"f": "1"})
    (scene.upper / "f").chmod(0o600)
    (scene.copy / "f").unlink()
    (scene.copy / "f").mkdir()
    with scene.target() as target, pytest.raises(Conflict, match="no file"):
        target.apply(scene.change("f"), scene.tree)


def test_links_in_the_target_are_not_followed(tmp_path: Path) -> None:
    """A directory of the target that somebody replaced by a link to elsewhere."""
    scene = Scene(tmp_path, {"d": {"f": "1", "g": WHITEOUT}}, {"d": {"g": "1"}})
    outside = grow(tmp_path / "outside", {"g": "precious"})
    (scene.copy / "d/g").unlink()
    (scene.copy / "d").rmdir()
    (scene.copy / "d").symlink_to(outside)
    with scene.target() as target:
        for change in scene.overlay.changes():
            if change.path.startswith(b"d/"):
                with pytest.raises(KernelError) as caught:
                    target.apply(change, scene.tree)
                assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert [path.name for path in outside.iterdir()] == ["g"]


def test_a_link_is_replaced_not_written_through(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"f": "new content"}, {"f": "1"})
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (scene.copy / "f").unlink()
    (scene.copy / "f").symlink_to(precious)
    scene.apply()
    assert (scene.copy / "f").read_text() == "new content"
    assert not (scene.copy / "f").is_symlink()
    assert precious.read_text() == "precious"


@pytest.mark.root
def test_what_is_mounted_in_the_target_is_not_entered(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"d": {"f": "1"}, "gone": WHITEOUT}, {"d": {}, "gone": {"inner": {}}})

    def check() -> None:
        for place in ("d", "gone/inner"):
            mount(b"tmpfs", scene.copy / place, b"tmpfs", 0, b"")
            (scene.copy / place / "precious").write_text("1")
        with scene.target() as target:
            with pytest.raises(KernelError) as caught:
                target.apply(scene.change("d/f"), scene.tree)
            assert caught.value.errno == errno.EXDEV
            with pytest.raises(OSError):
                target.apply(scene.change("gone"), scene.tree)
        assert (scene.copy / "d/precious").exists()
        assert list(scene.copy.rglob("inner/precious"))

    in_mount_namespace(check)


def test_a_deletion_of_what_is_gone_is_an_error_unless_implied(tmp_path: Path) -> None:
    scene = Scene(tmp_path, {"gone": WHITEOUT}, {"gone": {"x": "1"}})
    (scene.copy / "gone/x").unlink()
    (scene.copy / "gone").rmdir()
    with scene.target() as target:
        target.apply(scene.change("gone/x"), scene.tree)
        with pytest.raises(KernelError) as caught:
            target.apply(scene.change("gone"), scene.tree)
        assert caught.value.errno == errno.ENOENT


# -- removing --------------------------------------------------------------------------------------------------


def test_remove_takes_deep_trees_and_leaves_what_links_lead_to(tmp_path: Path) -> None:
    outside = grow(tmp_path / "outside", {"x": "1"})
    here = os.open(grow(tmp_path / "root/top", {"link": To(str(outside)), "f": "1"}), os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deep", dir_fd=here)
        here, above = os.open("deep", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    remove(fd, b"top")
    remove(fd, b"top")
    assert os.listdir(fd) == []
    os.close(fd)
    assert (outside / "x").exists()
