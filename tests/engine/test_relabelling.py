"""SELinux labels of volumes. The attributes are real; a policy that reads them is not needed to write them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina import Engine
from lamina.engine import mounted, relabelling
from lamina.engine.options import Volume
from lamina.engine.relabelling import ATTRIBUTE, file_label, level_of, relabel
from lamina.errors import InvalidInput, Unsupported
from support.leaks import Leaks
from support.small_images import small_image

PROCESS = "system_u:system_r:container_t:s0:c3,c700"
PRIVATE, SHARED = "system_u:object_r:container_file_t:s0:c3,c700", "system_u:object_r:container_file_t:s0"


def test_a_file_s_label_follows_from_the_process_s() -> None:
    assert file_label(PROCESS, shared=False) == PRIVATE
    assert file_label(PROCESS, shared=True) == SHARED


@given(st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_container_has_two_categories_in_order(identity: str) -> None:
    sensitivity, first, second = level_of(identity).replace(",", ":").split(":")
    assert sensitivity == "s0"
    assert 0 <= int(first[1:]) < int(second[1:]) < 1024
    assert level_of(identity) == level_of(identity)


def label_of(path: Path) -> str:
    return os.getxattr(path, ATTRIBUTE, follow_symlinks=False).decode().rstrip("\0")


@pytest.mark.root
def test_everything_in_it_is_labelled_and_nothing_that_links_lead_to(tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "a/b").mkdir(parents=True)
    outside.mkdir()
    (outside / "file").write_text("")
    (tree / "a/file").write_text("")
    (tree / "to").symlink_to(outside)
    (tree / "a/to").symlink_to(outside / "file")
    os.mkfifo(tree / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "socket"))
    assert relabel(os.fsencode(tree), PRIVATE)
    for path in (tree, *tree.rglob("*")):
        assert label_of(path) == PRIVATE, path
    for path in (outside, outside / "file"):
        with pytest.raises(OSError):
            label_of(path)
    before = (tree / "a").stat().st_ctime_ns
    assert relabel(os.fsencode(tree), PRIVATE)
    assert (tree / "a").stat().st_ctime_ns == before, "what is so labelled is left alone"
    assert relabel(os.fsencode(tree / "a/file"), SHARED)
    assert label_of(tree / "a/file") == SHARED


@pytest.mark.root
@pytest.mark.peer("unshare", "mount")
def test_what_is_mounted_in_it_keeps_its_labels(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(relabelling.__file__).parents[2])!r})
from lamina.engine.relabelling import relabel
assert relabel(os.fsencode(sys.argv[1]), {SHARED!r})
assert "security.selinux" not in os.listxattr(sys.argv[1] + "/mounted")
"""
    mount = 'mount -t tmpfs none "$0/mounted" && exec "$1" -c "$2" "$0"'
    words = ["unshare", "-m", "sh", "-ec", mount, tmp_path, sys.executable, script]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_labels_are_for_a_process_that_has_one(
    tmp_path: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    engine = Engine(store_root)
    volume = Volume(os.fsencode(tmp_path), b"/b", (), relabel="Z")
    (tmp_path / "file").write_text("")
    mounted._relabel(engine.store, volume, PROCESS, lambda: None, told.append)
    assert ATTRIBUTE not in os.listxattr(tmp_path), "SELinux does not run here"
    monkeypatch.setattr(relabelling, "is_there", lambda: True)
    mounted._relabel(engine.store, volume, PROCESS, lambda: None, told.append)
    assert label_of(tmp_path / "file") == PRIVATE
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    monkeypatch.setenv("SUDO_USER", "nobody-of-that-name")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    (tmp_path / "home/inside").mkdir(parents=True)
    for place in (
        "/etc",
        "/usr",
        "/",
        str(tmp_path / "home"),
        str(tmp_path / "link/"),
        os.path.expanduser("~root"),
    ):
        with pytest.raises(InvalidInput, match="not labelled by Z"):
            mounted._relabel(
                engine.store,
                Volume(place.encode(), b"/b", (), relabel="Z"),
                PROCESS,
                lambda: None,
                told.append,
            )
    inside = Volume(os.fsencode(tmp_path / "link/inside"), b"/b", (), relabel="Z")
    mounted._relabel(engine.store, inside, PROCESS, lambda: None, told.append)
    assert label_of(tmp_path / "home/inside") == PRIVATE, "what is in a home may be shared"
    monkeypatch.setattr(relabelling, "relabel", lambda path, label: False)
    mounted._relabel(engine.store, volume, PROCESS, lambda: None, told.append)
    assert told == [f"{tmp_path} is on a file system without SELinux labels: it has its own"]


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_without_selinux_z_means_nothing_and_a_label_is_refused(
    tmp_path: Path, store_root: Path, untouched_host: Leaks
) -> None:
    engine = Engine(store_root)
    small_image(engine.store)
    shown = tmp_path / "shown"
    shown.mkdir()
    for mode in ("z", "Z"):
        done = engine.run("tiny", ["true"], volumes=[f"{shown}:/b:{mode}"], rm=True)
        assert done.returncode == 0
    if not relabelling.is_there():
        with pytest.raises(Unsupported, match="SELinux does not run on this host"):
            engine.run("tiny", ["true"], volumes=[f"{shown}:/b:Z"], security_opt=["label=type:t"], rm=True)
    assert ATTRIBUTE not in os.listxattr(shown)
