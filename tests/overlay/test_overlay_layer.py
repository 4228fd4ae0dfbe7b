"""The marks of one layer: what they mean, and that writing and reading them are inverses."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.overlay.layer import NAME_MAX, TRUSTED, USER, LayerFormat

FORMATS = pytest.mark.parametrize("marks", [TRUSTED, USER], ids=["trusted", "user"])

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
attributes = st.one_of(
    words.map(lambda word: f"user.{word}"),
    words.map(lambda word: f"trusted.overlay.{word}"),
    words.map(lambda word: f"user.overlay.{word}"),
    words.map(lambda word: f"user.overlay.overlay.{word}"),
    words.map(lambda word: f"trusted.overlay.overlay.overlay.{word}"),
)


@FORMATS
@given(name=attributes)
def test_what_users_set_is_what_they_see(marks: LayerFormat, name: str) -> None:
    stored = marks.to_disk(name)
    assert marks.to_visible(stored) == name
    assert not marks.is_private(stored)


@FORMATS
@given(name=attributes)
def test_what_is_stored_is_private_or_was_set_by_somebody(marks: LayerFormat, name: str) -> None:
    shown = marks.to_visible(name)
    assert (shown is None) == marks.is_private(name)
    if shown is not None:
        assert marks.to_disk(shown) == name


def test_the_two_families_do_not_touch_each_other() -> None:
    assert TRUSTED.to_visible("user.overlay.opaque") == "user.overlay.opaque"
    assert USER.to_visible("trusted.overlay.opaque") == "trusted.overlay.opaque"
    assert TRUSTED.to_visible(TRUSTED.opaque) is None


def test_a_name_that_cannot_be_escaped_is_refused_as_by_the_kernel() -> None:
    name = "user.overlay." + "x" * (NAME_MAX - 20)
    with pytest.raises(OSError) as caught:
        USER.to_disk(name)
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("redirect", [b"/a", b"/a/b", b"a", b"\xff", b"new\nline", b"/..", b"."])
def test_redirects_are_a_name_or_an_absolute_path(redirect: bytes) -> None:
    assert LayerFormat.parse_redirect(redirect) == redirect


@pytest.mark.parametrize("redirect", [b"", b"/", b"//a", b"/a/", b"/a//b", b"a/b", b"a/", b"\0a"])
def test_other_redirects_are_refused(redirect: bytes) -> None:
    with pytest.raises(OSError) as caught:
        LayerFormat.parse_redirect(redirect)
    assert caught.value.errno == errno.EINVAL


def test_a_redirect_ends_where_the_kernel_stops_reading() -> None:
    assert LayerFormat.parse_redirect(b"/a\0/../../etc") == b"/a"


@pytest.mark.parametrize("by_xattr", [False, True], ids=["device", "xattr"])
def test_a_whiteout_is_recognised(tmp_path: Path, by_xattr: bool) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    USER.make_whiteout(fd, b"gone", by_xattr=by_xattr)
    os.close(fd)
    status, names = os.lstat(tmp_path / "gone"), os.listxattr(tmp_path / "gone")
    assert USER.is_whiteout(status, names)
    assert TRUSTED.is_whiteout(status, names) == (not by_xattr), "the other family's mark says nothing"
    assert stat.S_ISCHR(status.st_mode) == (not by_xattr)


def test_a_file_with_content_is_no_whiteout(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    os.setxattr(tmp_path / "file", USER.whiteout, b"y")
    assert not USER.is_whiteout(os.lstat(tmp_path / "file"), [USER.whiteout])


def test_other_devices_are_no_whiteouts() -> None:
    assert not TRUSTED.is_whiteout(os.stat("/dev/null"), [])
