"""/etc/passwd of an image, read from its layers without a mount: every rule of overlayfs, and nothing hostile."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine import accounts
from lamina.engine.accounts import read_in_stack, reader
from lamina.runtime.users import LARGEST

Change = Callable[[Path], object]


def etc(layer: Path) -> Path:
    (layer / "etc").mkdir(exist_ok=True)
    return layer / "etc"


def text(said: str) -> Change:
    return lambda layer: (etc(layer) / "passwd").write_text(said)


def nothing(layer: Path) -> None: ...


def empty_etc(layer: Path) -> None:
    etc(layer)


def opaque(layer: Path) -> None:
    os.setxattr(etc(layer), "trusted.overlay.opaque", b"y")


def whiteout(layer: Path) -> None:
    os.mknod(etc(layer) / "passwd", stat.S_IFCHR)


def no_etc(layer: Path) -> None:
    os.mknod(layer / "etc", stat.S_IFCHR)


def link(target: str) -> Change:
    return lambda layer: (etc(layer) / "passwd").symlink_to(target)


def etc_link(layer: Path) -> None:
    (layer / "etc").symlink_to("usr")
    (layer / "usr").mkdir()
    (layer / "usr/passwd").write_text("by way of usr")


def fifo(layer: Path) -> None:
    os.mkfifo(etc(layer) / "passwd")


def zero(layer: Path) -> None:
    os.mknod(etc(layer) / "passwd", stat.S_IFCHR | 0o666, os.makedev(1, 5))


def zero_through_link(layer: Path) -> None:
    (layer / "dev").mkdir()
    os.mknod(layer / "dev/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    link("/dev/zero")(layer)


def directory(layer: Path) -> None:
    (etc(layer) / "passwd").mkdir()


def endless(layer: Path) -> None:
    with (etc(layer) / "passwd").open("wb") as file:
        file.write(b"first")
        file.truncate(10 << 30)


LOOKS = [
    ([text("one")], b"one"),
    ([text("top"), text("below")], b"top"),
    ([nothing, empty_etc, text("below")], b"below"),
    ([nothing], b""),
    ([whiteout, text("below")], b""),
    ([opaque, text("below")], b""),
    ([no_etc, text("below")], b""),
    ([text("")], b""),
    ([text(""), text("below")], b""),
    ([link("group"), lambda layer: (etc(layer) / "group").write_text("the other")], b"the other"),
    ([link("/nowhere"), text("below")], b""),
    ([link("passwd")], b""),
    ([link("/etc/hostname")], b""),  # the host has one
    ([link("../../../../../../../../etc/hostname")], b""),
    ([etc_link], b"by way of usr"),
    ([fifo], b""),
    ([zero], b""),
    ([zero_through_link], b""),
    ([directory], b""),
]


@pytest.mark.root
@pytest.mark.parametrize(("changes", "wanted"), LOOKS)
def test_cve_2024_9676_what_is_read_of_an_image(changes: list[Change], wanted: bytes, tmp_path: Path) -> None:
    lowers = []
    for number, change in enumerate(changes):
        layer = tmp_path / str(number)
        layer.mkdir()
        change(layer)
        lowers.append(os.fsencode(layer))
    assert reader(tuple(lowers), False, lambda: None)("/etc/passwd") == wanted
    assert read_in_stack(tuple(lowers), False, "/etc/passwd") == wanted


@pytest.mark.root
def test_cve_2024_9676_a_file_without_end_is_read_to_a_limit(tmp_path: Path) -> None:
    endless(tmp_path)
    found = reader((os.fsencode(tmp_path),), False, lambda: None)("/etc/passwd")
    assert len(found) == LARGEST and found.startswith(b"first")


def test_a_usual_image_needs_no_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walked(*_: object) -> bytes:
        raise AssertionError

    monkeypatch.setattr(accounts, "read_in_stack", walked)
    (tmp_path / "top").mkdir()
    (tmp_path / "base").mkdir()
    text("usual")(tmp_path / "base")
    lowers = (os.fsencode(tmp_path / "top"), os.fsencode(tmp_path / "base"))
    assert reader(lowers, True, lambda: None)("/etc/passwd") == b"usual"
    assert reader(lowers, True, lambda: None)("/etc/group") == b""
