"""A volume is filled with what an image has while somebody else has it mounted, who exchanges what names in it mean.

Two containers of one hostile image that share a volume are enough: the first one empties it, the second one is started.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.engine.filling import fill
from support.namespaces import in_mount_namespace

pytestmark = pytest.mark.root


def filled(volume: Path, layer: Path, events: tuple[str, ...], attack: Callable[[], None]) -> None:
    """`fill`, with the *attack* once just before a system call that Python announces as one of *events*."""
    done: list[bool] = []

    def hook(name: str, args: tuple[object, ...]) -> None:
        if name in events and not done:
            done.append(True)
            attack()

    def inner() -> bool:
        sys.addaudithook(hook)
        fill(os.fsencode(volume), (os.fsencode(layer),), False, "/data")
        return bool(done)

    assert in_mount_namespace(inner), f"nobody was asked for {events}"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The volume, the layer's /data, a directory of this machine."""
    volume, data, host = tmp_path / "volume", tmp_path / "layer/data", tmp_path / "host"
    for place in (volume, data, host):
        place.mkdir(parents=True)
    (host / "shadow").write_text("secret")
    (host / "shadow").chmod(0o600)
    return volume, data, host


def test_another_name_of_a_file_is_no_file_of_this_machine(places: tuple[Path, Path, Path]) -> None:
    """link(2) with a path follows a directory that was exchanged for a link: /etc/shadow would be in the volume."""
    volume, data, host = places
    (data / "a").mkdir()
    (data / "a/shadow").write_text("image's")
    (data / "b").mkdir()
    os.link(data / "a/shadow", data / "b/again")

    def exchange() -> None:
        # whichever of both names was copied first
        first = volume / ("a" if (volume / "a/shadow").exists() else "b")
        first.rename(volume / "taken-away")
        first.symlink_to(host)
        (host / "again").unlink(missing_ok=True)
        os.link(host / "shadow", host / "again")

    filled(volume, data.parent, ("os.link",), exchange)
    inodes = {path.lstat().st_ino for path in volume.rglob("*")}
    assert (host / "shadow").stat().st_ino not in inodes
    assert (host / "shadow").stat().st_nlink == 2


def test_the_mode_of_a_fifo_is_given_to_nothing_of_this_machine(places: tuple[Path, Path, Path]) -> None:
    """chmod(2) follows links (CVE-2021-32760)."""
    volume, data, host = places
    os.mkfifo(data / "fifo")
    (data / "fifo").chmod(0o666)

    def exchange() -> None:
        (volume / "fifo").unlink()
        (volume / "fifo").symlink_to(host / "shadow")

    filled(volume, data.parent, ("os.chown", "os.chmod"), exchange)
    assert stat.S_IMODE((host / "shadow").stat().st_mode) == 0o600


def test_names_of_one_file_are_names_of_one_file(places: tuple[Path, Path, Path]) -> None:
    volume, data, _ = places
    (data / "sub").mkdir()
    (data / "file").write_text("image's")
    (data / "link").symlink_to("file")
    os.mkfifo(data / "fifo")
    for name in ("file", "link", "fifo"):
        os.link(data / name, data / f"sub/{name}", follow_symlinks=False)
    fill(os.fsencode(volume), (os.fsencode(data.parent),), False, "/data")
    for name in ("file", "link", "fifo"):
        one, other = (volume / name).lstat(), (volume / "sub" / name).lstat()
        assert (one.st_ino, one.st_nlink) == (other.st_ino, 2), name
