"""Which file systems keep the order of changes of names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.store import order_of_names
from lamina.store.order_of_names import commits_in_one, keeps_order
from support.power_cuts import make_disk, mounted
from support.stores import in_memory


def is_said_of(place: Path, options: tuple[str, ...], keeps: bool) -> None:
    """Of a new ext4 made with these *options*, where a file has been synced; and of what lies around it."""
    point = place / "mounted"
    point.mkdir()
    with mounted(make_disk(place / "disk", 24, *options), point):
        with open(point / "file", "xb") as file:
            file.write(b"content")
            file.flush()
            os.fsync(file.fileno())
        assert keeps_order(bytes(point), bytes(point / "lost+found")) == keeps
        assert not keeps_order(bytes(point), bytes(place))  # not from one to the other
    assert not keeps_order(bytes(place))  # which is in memory
    assert not keeps_order()


@pytest.mark.root
@pytest.mark.peer("mkfs.ext4")
@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        (("-O", "has_journal"), True),
        (("-O", "has_journal", "-b", "1024"), True),
        (("-O", "^has_journal"), False),
        (("-O", "has_journal,fast_commit"), False),
    ],
)
def test_ext4(tmp_path: Path, options: tuple[str, ...], keeps: bool) -> None:
    in_memory(is_said_of, tmp_path, options, keeps)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a kernel shows, to be written: the directory of these tests lies on the device `sd!b-1`."""
    device = os.stat(tmp_path).st_dev
    link = tmp_path / f"sys/dev/block/{os.major(device)}:{os.minor(device)}"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../devices/somewhere/sd!b-1")
    shown = tmp_path / "proc/fs/ext4/sd!b-1"
    shown.mkdir(parents=True)
    (shown / "options").write_text("rw\nbarrier\ndata=ordered\n")
    (tmp_path / "proc/fs/jbd2/sd!b-1-8").mkdir(parents=True)
    monkeypatch.setattr(order_of_names, "PROC", bytes(tmp_path / "proc"))
    monkeypatch.setattr(order_of_names, "SYS", bytes(tmp_path / "sys"))
    monkeypatch.setattr(order_of_names, "_known", {})
    return tmp_path / "proc/fs"


def test_a_kernel_before_fast_commits(kernel: Path) -> None:
    assert not commits_in_one(bytes(kernel))  # as far as is known
    assert keeps_order(bytes(kernel))
    assert commits_in_one(bytes(kernel), bytes(kernel))
    assert not commits_in_one(bytes(kernel), b"/proc")
    assert not commits_in_one(bytes(kernel / "nowhere"))


@pytest.mark.parametrize(
    "counted",
    ["5 commits\n0 ineligible\n", "0 commits\n1 ineligible\n", "", "commits\n", "0 commits\n"],
)
def test_fast_commits_or_something_else(kernel: Path, counted: str) -> None:
    (kernel / "ext4/sd!b-1/fc_info").write_text(f"fc stats:\n{counted}")
    assert not keeps_order(bytes(kernel))
    assert not commits_in_one(bytes(kernel))


def test_fast_commits_that_are_asked_for(kernel: Path) -> None:
    (kernel / "ext4/sd!b-1/options").write_text("rw\nbarrier\nfc_debug_force\n")
    assert not keeps_order(bytes(kernel))


@pytest.mark.parametrize("journal", ["sd!b-11-8", "sd!b-8", "sd!b-1", "xsd!b-1-8", "sd!b-1-x"])
def test_the_journal_of_another(kernel: Path, journal: str) -> None:
    """An external one is called as its own device is."""
    (kernel / "jbd2/sd!b-1-8").rename(kernel / "jbd2" / journal)
    assert not keeps_order(bytes(kernel))


def test_xfs(kernel: Path) -> None:
    (kernel / "jbd2/sd!b-1-8").rmdir()
    assert not keeps_order(bytes(kernel))
    order_of_names._known.clear()
    (kernel.parent.parent / "sys/fs/xfs/sd!b-1").mkdir(parents=True)
    assert keeps_order(bytes(kernel))
    assert not commits_in_one(bytes(kernel))  # that is of ext4


def test_nothing_is_shown(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_of_names, "SYS", b"/nowhere")
    assert not keeps_order(bytes(kernel))
    assert not keeps_order(bytes(kernel / "nowhere"))


def test_what_was_found_out_is_kept(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keeps_order(bytes(kernel))
    monkeypatch.setattr(order_of_names, "SYS", b"/nowhere")
    assert keeps_order(bytes(kernel))
