"""Extended attributes: bytes in and out, by descriptor and without following links."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lamina.errors import KernelError
from lamina.linux import constants as c
from lamina.linux.xattrs import (
    fgetxattr,
    flistxattr,
    fremovexattr,
    fsetxattr,
    lgetxattr,
    llistxattr,
    lremovexattr,
    lsetxattr,
)


@pytest.fixture(autouse=True)
def _attributes_here(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, "user.lamina", b"")
    except OSError as error:  # tmpfs has user attributes since 6.6
        pytest.skip(f"no user attributes in {tmp_path}: {error.strerror}")


def test_by_descriptor(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open(tmp_path / "file") as file:
        fd = file.fileno()
        assert flistxattr(fd) == []
        fsetxattr(fd, b"user.odd\xff", b"a\0b")
        fsetxattr(fd, "user.empty", b"")
        assert sorted(flistxattr(fd)) == [b"user.empty", b"user.odd\xff"]
        assert fgetxattr(fd, b"user.odd\xff") == b"a\0b"
        assert fgetxattr(fd, "user.empty") == b""
        fremovexattr(fd, "user.empty")
        assert flistxattr(fd) == [b"user.odd\xff"]
        with pytest.raises(KernelError, match=f"fgetxattr descriptor {fd} user.none") as caught:
            fgetxattr(fd, "user.none")
        assert caught.value.errno == errno.ENODATA


def test_by_path(door: str, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xfe"
    with open(name, "w"):
        pass
    lsetxattr(name, b"user.a", b"1", c.XATTR_CREATE)
    assert llistxattr(name) == [b"user.a"]
    assert lgetxattr(name, "user.a") == b"1" == os.getxattr(name, "user.a")
    with pytest.raises(KernelError) as caught:
        lsetxattr(name, b"user.a", b"2", c.XATTR_CREATE)
    assert caught.value.errno == errno.EEXIST
    lsetxattr(name, b"user.a", b"2", c.XATTR_REPLACE)
    lremovexattr(name, b"user.a")
    with pytest.raises(KernelError) as caught:
        lremovexattr(name, b"user.a")
    assert caught.value.errno == errno.ENODATA


def test_values_that_do_not_fit_at_first(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = bytes(range(256)) * 8
    lsetxattr(tmp_path / "file", "user.long", long)
    assert lgetxattr(tmp_path / "file", "user.long") == long
    names = [b"user." + b"%03d" % i + b"x" * 100 for i in range(12)]  # together longer than the first try
    for name in names:
        lsetxattr(tmp_path / "file", name, b"")
    assert sorted(llistxattr(tmp_path / "file")) == sorted([b"user.long", *names])


def test_links_are_not_followed(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lsetxattr(tmp_path / "file", "user.a", b"1")
    (tmp_path / "link").symlink_to("file")
    assert llistxattr(tmp_path / "link") == []
    with pytest.raises(KernelError) as caught:  # links cannot have user attributes (xattr(7))
        lsetxattr(tmp_path / "link", "user.a", b"1")
    assert caught.value.errno == errno.EPERM


def test_descriptors_that_are_only_places(door: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lsetxattr(tmp_path / "file", "user.a", b"1")
    fd = os.open(tmp_path / "file", os.O_PATH)
    try:
        with pytest.raises(KernelError) as caught:
            fgetxattr(fd, "user.a")
        assert caught.value.errno == errno.EBADF
    finally:
        os.close(fd)


@pytest.mark.root
def test_attributes_of_the_system(door: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    lsetxattr(tmp_path / "link", b"trusted.overlay.opaque", b"y")
    assert lgetxattr(tmp_path / "link", b"trusted.overlay.opaque") == b"y"
