"""Removing what a container wrote."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lamina.store.tree import remove_tree
from support.held import held_descriptors


def remove(path: Path | bytes) -> None:
    remove_tree(os.fsencode(path))


def test_everything_of_a_tree_goes_and_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("x")
    tree = tmp_path / "tree"
    for name in ("a/b/c", "a/empty", "d"):
        (tree / name).mkdir(parents=True)
    (tree / "a" / "f").write_text("x")
    (tree / "a" / "out").symlink_to(tmp_path / "outside")
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "fifo")
    remove(tree)
    assert not tree.exists()
    assert (tmp_path / "outside" / "kept").read_text() == "x"


def test_missing_files_and_single_files(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    remove(tmp_path / "nothing" / "at" / "all")
    (tmp_path / "f").write_text("")
    (tmp_path / "link").symlink_to("/etc")
    remove(tmp_path / "f")
    remove(tmp_path / "link")
    assert list(tmp_path.iterdir()) == []


def test_directories_that_were_locked_are_opened(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "locked" / "deeper").mkdir(parents=True)
    (tree / "locked" / "f").write_text("")
    (tree / "locked" / "deeper").chmod(0)
    (tree / "locked").chmod(0)
    tree.chmod(0o500)
    remove(tree)
    assert not tree.exists()


def test_names_of_any_bytes(tmp_path: Path) -> None:
    tree = os.fsencode(tmp_path) + b"/t"
    os.mkdir(tree)
    for name in (b"\xff\xfe", b"new\nline", b" ", b"-rf", b"a" * 255, bytes(range(1, 47)) + b"x"):
        os.mkdir(tree + b"/" + name)
        os.close(os.open(tree + b"/" + name + b"/\xff", os.O_CREAT | os.O_WRONLY))
    remove(tree)
    assert not os.path.exists(tree)


def test_deeper_than_any_path_and_with_few_descriptors(tmp_path: Path) -> None:
    """A chain of directories whose path no call would take."""
    (tmp_path / "tree").mkdir()
    here = os.open(tmp_path / "tree", os.O_RDONLY)
    name = "d" * 200
    for _ in range(300):
        os.mkdir(name, dir_fd=here)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir("/proc/self/fd"))) + 50  # whatever else this process has open
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(few, hard), hard))
    try:
        remove(tmp_path / "tree")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_anothers_file_is_an_error_that_says_so() -> None:
    """As an ordinary user meets files of subordinate ids."""
    with tempfile.TemporaryDirectory(prefix="lamina-test-") as place:
        tree = Path(place, "tree")
        (tree / "theirs").mkdir(parents=True)
        (tree / "theirs" / "f").write_text("")
        Path(place).chmod(0o755)
        os.chown(tree, 12345, 12345)
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresuid(12345, 12345, 12345)
            try:
                remove(tree)
            except PermissionError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0


_LINGERING = """
import os, sys
from lamina.store import tree

place = os.fsencode(sys.argv[1])
descriptors = tree.linger()
assert tree.linger() is descriptors
os.makedirs(place + b"/a/b")
inodes = {os.stat(path).st_ino for path in (place, place + b"/a", place + b"/a/b")}
tree.remove_tree(place)
assert not os.path.lexists(place)
assert inodes == {os.fstat(descriptor).st_ino for descriptor in descriptors}
assert all(os.get_inheritable(descriptor) is False for descriptor in descriptors)

child = os.fork()
if not child:  # it may live on: it holds nothing, and what it removes goes at once
    still = [number for number in descriptors if os.path.lexists(f"/proc/self/fd/{number}")]
    os.mkdir(place)
    tree.remove_tree(place)
    os._exit(0 if not still and not os.path.lexists(place) else 1)
assert os.waitpid(child, 0)[1] == 0

for number in range(2 * tree.MOST_LINGERING):
    os.makedirs(place + b"/%d" % number)
tree.remove_tree(place)
assert not os.path.lexists(place)
assert len(descriptors) <= tree.MOST_LINGERING
"""


def test_of_what_is_removed_descriptors_linger_where_that_is_asked_for(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _LINGERING, str(tmp_path / "tree")], check=True, timeout=200)


def test_nothing_lingers_otherwise(tmp_path: Path) -> None:
    before = held_descriptors()
    (tmp_path / "tree/below").mkdir(parents=True)
    remove_tree(os.fsencode(tmp_path / "tree"))
    assert held_descriptors() == before
