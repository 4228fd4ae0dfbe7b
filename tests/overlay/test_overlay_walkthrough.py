"""The classic walk-through of an overlay, name by name: docs/overlay.md tells the same story for the shell."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lamina.overlay.mount import mount, umount
from lamina.overlay.options import parse_options
from support.apis import both_apis
from support.namespaces import in_mount_namespace, in_user_namespace

OPTIONS = "lowerdir=A:B,upperdir=C,workdir=worker"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A (a, b, c), B (a, d) and C (b, e); each file says where it is from; something lies in worker already."""
    for directory, names in {"A": "abc", "B": "ad", "C": "be"}.items():
        (tmp_path / directory).mkdir()
        for name in names:
            (tmp_path / directory / name).write_text(f"{name} of {directory}\n")
    for directory in ("A/dir", "worker/work/rest", "merged"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "A/dir/old").touch()
    (tmp_path / "worker/work/rest/file").touch()
    return tmp_path


@pytest.mark.root
@both_apis
def test_walk_through(here: Path, api: str) -> None:
    in_mount_namespace(walk, here, OPTIONS, api, "trusted")


@pytest.mark.userns
@both_apis
def test_walk_through_in_a_user_namespace(here: Path, api: str) -> None:
    in_user_namespace(walk, here, f"{OPTIONS},userxattr", api, "user")


def walk(here: Path, options: str, api: str, family: str) -> None:
    os.chdir(here)
    merged = Path("merged")
    mount(parse_options(options), merged, api=api)

    # each name comes from the topmost layer that has it
    assert sorted(os.listdir(merged)) == ["a", "b", "c", "d", "dir", "e"]
    assert (merged / "a").read_text() == "a of A\n", "A lies above B"
    assert (merged / "b").read_text() == "b of C\n", "the upper lies above all"
    assert (merged / "c").read_text() == "c of A\n"
    assert (merged / "d").read_text() == "d of B\n"
    assert (merged / "e").read_text() == "e of C\n"

    # the mount has emptied the directory `work` in worker, where files are prepared; none of it is visible
    assert os.listdir("worker") == ["work"]
    assert os.listdir("worker/work") == []

    # a change lands in C, and in C only
    (merged / "a").write_text("a changed\n")
    (merged / "new").write_text("new\n")
    assert Path("C/a").read_text() == "a changed\n"
    assert Path("A/a").read_text() == "a of A\n"
    assert Path("B/a").read_text() == "a of B\n"
    assert Path("C/new").read_text() == "new\n"
    assert sorted(os.listdir("A")) == ["a", "b", "c", "dir"]
    assert sorted(os.listdir("B")) == ["a", "d"]

    # an edit from outside of what lies below is seen (though the kernel calls changes of a mounted layer undefined)
    Path("B/d").write_text("d edited\n")
    Path("C/e").write_text("e edited\n")
    assert (merged / "d").read_text() == "d edited\n"
    assert (merged / "e").read_text() == "e edited\n"

    # what is deleted stays below, hidden by a whiteout in C
    (merged / "d").unlink()
    assert not (merged / "d").exists()
    assert Path("B/d").read_text() == "d edited\n"
    whiteout = os.lstat("C/d")
    assert stat.S_ISCHR(whiteout.st_mode) and whiteout.st_rdev == os.makedev(0, 0)

    # what only C had is simply gone
    (merged / "e").unlink()
    assert not os.path.lexists("C/e")

    # a directory that is deleted and made again does not show what it had below: it is opaque
    (merged / "dir/old").unlink()
    (merged / "dir").rmdir()
    (merged / "dir").mkdir()
    assert os.listdir(merged / "dir") == []
    assert os.listdir("A/dir") == ["old"]
    assert os.getxattr("C/dir", f"{family}.overlay.opaque") == b"y"

    # the same stack, mounted again, is the same
    umount(merged)
    assert os.listdir(merged) == []
    mount(parse_options(options), merged, api=api)
    assert sorted(os.listdir(merged)) == ["a", "b", "c", "dir", "new"]
    assert os.listdir(merged / "dir") == []
    umount(merged)
