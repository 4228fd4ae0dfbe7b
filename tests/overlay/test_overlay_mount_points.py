"""What a start left in an upper only to mount something on it: found, and taken away, without walking."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lamina.overlay.layer import USER
from lamina.overlay.mount_points import clear, idle
from lamina.overlay.spec import MountSpec
from lamina.overlay.stack import Overlay
from support.grow import WHITEOUT, XWHITEOUT, To, grow, opaque

MADE = (
    b"/proc", b"/dev", b"/etc/hosts", b"/etc/hostname", b"/some/where/deep", b"/data", b"/work", b"/linked/in",
    b"/.", b"/../up", b"/gone/in", b"/whole",
)  # fmt: skip
T = 1_700_000_000_000_000_000


def stack(place: Path, upper: object, lower: object) -> MountSpec:
    top, low = (bytes(grow(place / name, tree, USER)) for name, tree in (("u", upper), ("l", lower)))  # type: ignore[arg-type]
    for path in (low, top):
        for directory, inner, others in os.walk(path):
            for name in inner + others:
                os.utime(os.path.join(directory, name), ns=(T, T), follow_symlinks=False)
        os.utime(path, ns=(T, T))
    return MountSpec((low,), top, userxattr=True)


def left(spec: MountSpec) -> list[str]:
    return sorted(os.fsdecode(path) for path in idle(spec, MADE))


LOWER = {"etc": {"hosts": "", "passwd": "x"}, "dev": {}, "work": {"a": "1"}, "gone": {}, "whole": {"b": "1"}}


def test_only_what_holds_and_changes_nothing(tmp_path: Path) -> None:
    upper = {
        "proc": {},
        "dev": {"pts": {}},  # which is none of the places
        "etc": {"hosts": "", "hostname": ""},  # the image has the first itself: somebody emptied or copied it
        "some": {"where": {"deep": {}, "other": "x"}},
        "data": {"mine": {}},
        "work": {},
        "linked": To("etc"),
        "gone": WHITEOUT,
        "whole": opaque(),
    }
    spec = stack(tmp_path, upper, LOWER)
    assert left(spec) == ["etc/hostname", "proc", "some/where/deep", "work"]


def test_directories_above_go_if_nothing_else_is_in_them(tmp_path: Path) -> None:
    spec = stack(tmp_path, {"etc": {"hostname": ""}, "some": {"where": {"deep": {}}}}, LOWER)
    assert left(spec) == ["etc", "etc/hostname", "some", "some/where", "some/where/deep"]
    os.chmod(os.fsdecode(spec.upperdir or b"") + "/etc", 0o700)  # by the command
    assert left(spec) == ["etc/hostname", "some", "some/where", "some/where/deep"]


def test_files_that_say_something_stay(tmp_path: Path) -> None:
    spec = stack(tmp_path, {"etc": {"hostname": "x", "hosts": XWHITEOUT}, "proc": To("x"), "data": ""}, LOWER)
    assert left(spec) == ["data"]
    os.link(os.fsdecode(spec.upperdir or b"") + "/data", os.fsdecode(spec.upperdir or b"") + "/etc/name")
    assert left(spec) == []


def test_cleared_the_rest_shows_as_before(tmp_path: Path) -> None:
    upper = {"etc": {"hostname": "", "new": "1"}, "proc": {}, "some": {"where": {"deep": {}}}, "x": "1"}
    spec = stack(tmp_path, upper, LOWER)
    gone = clear(spec, MADE)
    assert sorted(gone) == [b"etc/hostname", b"proc", b"some", b"some/where", b"some/where/deep"]
    assert [(os.fsdecode(one.path), one.kind, set(one.what)) for one in Overlay(spec).changes()] == [
        ("etc/new", "added", set()),
        ("x", "added", set()),
    ]
    assert clear(spec, MADE) == []


def test_without_an_upper_there_is_nothing(tmp_path: Path) -> None:
    assert idle(MountSpec((bytes(tmp_path),)), MADE) == []


@pytest.mark.parametrize(
    "place", [b"/link/in/here", b"/../../../../../../tmp", b"/a/../../b", b"//", b"/link"]
)
def test_nothing_is_followed_out_of_the_upper(tmp_path: Path, place: bytes) -> None:
    """The attack: a container puts links where its mount points were, so that files of this machine are removed."""
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    (outside / "in/here").touch()
    spec = stack(tmp_path, {"link": To(str(outside))}, {})
    assert clear(spec, [place]) == []
    assert (outside / "in/here").exists()
