"""The image `host` is composed anew when the mounts change, and only then."""

from __future__ import annotations

import os
import threading
from errno import EACCES, ENOENT
from pathlib import Path
from typing import Any

import pytest

from lamina.engine import host, picture
from lamina.engine.places import CLOSED, DIRECTORY, HostImage
from lamina.errors import CommandNotFound, KernelError, StepFailed
from lamina.store.root import Store

TABLE = b"""\
20 1 8:1 / / rw - ext4 /dev/a rw
21 20 0:5 / /proc rw - proc proc rw
22 20 8:2 / /home rw - ext4 /dev/b rw
23 20 0:9 / /mnt/fat rw - vfat /dev/c rw
"""
OTHER = TABLE.replace(b"/home", b"/srv")


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How often it was composed; nothing is in memory, and every place is a directory."""
    asked: list[Any] = []
    real = host.compose

    def counted(mounts: Any, **more: Any) -> HostImage:
        asked.append(mounts)
        return real(mounts, **more)

    monkeypatch.setattr(host, "compose", counted)
    monkeypatch.setattr(host, "kind_of", lambda path: DIRECTORY)
    monkeypatch.setattr(picture, "_latest", None)
    return asked


def look(store: Store, monkeypatch: pytest.MonkeyPatch, table: bytes, **more: Any) -> HostImage:
    monkeypatch.setattr(picture, "_read_mountinfo", lambda: table)
    return picture.picture(store, rootless=False, **more)


def test_it_is_composed_once_for_the_same_mounts(
    tmp_path: Path, composed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    first = look(store, monkeypatch, TABLE)
    assert [place.at for place in first.places] == [b"/", b"/home"]
    assert first.readonly == (b"/mnt/fat",) and "vfat" in first.warnings[0]
    assert look(store, monkeypatch, TABLE) is first
    monkeypatch.setattr(picture, "_latest", None)  # another process
    assert look(store, monkeypatch, TABLE) == first
    assert len(composed) == 1


def test_other_mounts_and_another_store_are_another_image(
    tmp_path: Path, composed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    for table, at in ((TABLE, b"/home"), (OTHER, b"/srv"), (TABLE, b"/home")):
        assert look(store, monkeypatch, table).places[1].at == at
    assert len(composed) == 2
    other = Store(tmp_path / "other")
    assert os.fsencode(tmp_path / "other") in look(other, monkeypatch, TABLE).hide
    assert len(composed) == 3


def test_a_refusal_of_the_kernel_counts_for_one_start(
    tmp_path: Path, composed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    refused = look(store, monkeypatch, TABLE, refused={b"/home": "no"})
    assert [place.at for place in refused.places] == [b"/"]
    assert len(look(store, monkeypatch, TABLE).places) == 2


def test_what_could_not_be_looked_at_is_looked_at_again(
    tmp_path: Path, composed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    monkeypatch.setattr(host, "kind_of", lambda path: CLOSED if path == b"/home" else DIRECTORY)
    assert [place.at for place in look(store, monkeypatch, TABLE).places] == [b"/"]
    monkeypatch.setattr(host, "kind_of", lambda path: DIRECTORY)
    assert [place.at for place in look(store, monkeypatch, TABLE).places] == [b"/", b"/home"]
    assert len(composed) == 2


def test_a_damaged_file_is_composed_again(
    tmp_path: Path, composed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    first = look(store, monkeypatch, TABLE)
    (file,) = (tmp_path / "store/cache/host").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    monkeypatch.setattr(picture, "_latest", None)
    assert look(store, monkeypatch, TABLE) == first
    assert len(composed) == 2


def test_what_another_thread_looked_at_is_not_what_this_one_did(
    tmp_path: Path, composed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    look(store, monkeypatch, TABLE)
    thread = threading.Thread(target=look, args=(store, monkeypatch, OTHER))
    thread.start()
    thread.join()
    assert picture.mounts_changed()
    look(store, monkeypatch, OTHER)
    assert not picture.mounts_changed()


def test_what_was_there_a_moment_ago_is_looked_for_again_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user namespace neighbours of mounts are made anew, and anybody's directory may go meanwhile."""
    monkeypatch.setattr(picture, "mounts_changed", lambda: False)
    for gone in (
        KernelError("run", ENOENT, "/tmp/neighbour"),
        StepFailed('open_tree(AT_FDCWD, "/tmp/file", OPEN_TREE_CLONE) -> @host1', ENOENT),
    ):
        lessons = picture.Lessons(over_host=True)
        assert [lessons.learn(gone) for _ in range(4)] == [True, True, True, False]
        assert not picture.Lessons(over_host=False).learn(gone)
    for other in (
        KernelError("run", EACCES, "/tmp/neighbour"),
        StepFailed('chdir("/nowhere")', ENOENT),
        CommandNotFound('execve("/open_tree(")', ENOENT),
    ):
        assert not picture.Lessons(over_host=True).learn(other)
