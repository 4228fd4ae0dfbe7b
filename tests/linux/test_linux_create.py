"""Many files made with one call: what becomes of them, and how failures are told, compiled and in Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EBADF, EEXIST, EFBIG, ENOENT
from pathlib import Path

import pytest

from lamina.linux import create
from lamina.linux.create import create_files
from support.held import held_descriptors


@pytest.fixture(params=["compiled", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(create, "_create_files", None)
    else:
        pytest.importorskip("lamina.linux._native", reason="the C extension is not built")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_files_are_made_as_said(tmp_path: Path, place: int) -> None:
    before = held_descriptors()
    many = bytes(range(256)) * 1000
    made, error = create_files(
        [
            (place, b"a", 0o640, -1, -1, 5, 6, b"content"),
            (place, b"b", 0o4711, os.geteuid(), os.getegid(), -3, 999_999_999, memoryview(many)[100:]),
            (place, b"c", 0o600, -1, -1, 1 << 33, 0, bytearray()),
            (place, b"\xff\n", 0, -1, -1, 0, 0, b""),
        ]
    )
    assert (made, error) == (4, None)
    assert (tmp_path / "a").read_bytes() == b"content" and (tmp_path / "b").read_bytes() == many[100:]
    seen = {os.fsencode(p.name): (p.stat().st_mode, p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    assert seen == {
        b"a": (0o100640, 5_000_000_006), b"b": (0o104711, -2_000_000_001), b"c": (0o100600, (1 << 33) * 10**9),
        b"\xff\n": (0o100000, 0),
    }  # fmt: skip
    assert held_descriptors() == before


def test_none_at_all() -> None:
    assert create_files([]) == (0, None)


@pytest.mark.root
def test_owners_take_nothing_away(tmp_path: Path, place: int) -> None:
    assert create_files([(place, b"s", 0o6755, 1000, 33, 0, 0, b"x")]) == (1, None)
    status = (tmp_path / "s").stat()
    assert (status.st_mode, status.st_uid, status.st_gid) == (0o106755, 1000, 33)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_a_name_that_is_taken(tmp_path: Path, place: int, kind: str) -> None:
    if kind == "file":
        (tmp_path / "b").write_bytes(b"mine")
    elif kind == "directory":
        (tmp_path / "b").mkdir()
    else:
        (tmp_path / "b").symlink_to(tmp_path / "through")
    made, error = create_files([(place, name, 0o644, -1, -1, 0, 0, b"x") for name in (b"a", b"b", b"c")])
    assert made == 1 and error is not None
    assert (error.errno, error.call, error.target) == (EEXIST, "openat", "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_other_failures_are_told_by_their_call(tmp_path: Path, place: int) -> None:
    import resource

    def fails(*file: object) -> tuple[str, int | None]:
        made, error = create_files([file])  # type: ignore[list-item]
        assert made == 0 and error is not None
        return error.call, error.errno

    assert fails(-1, b"a", 0o644, -1, -1, 0, 0, b"") == ("openat", EBADF)
    assert fails(place, b"no/a", 0o644, -1, -1, 0, 0, b"") == ("openat", ENOENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert fails(place, b"w", 0o644, -1, -1, 0, 0, b"x" * 5000) == ("write", EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("file", [5, (), (1, b"a"), ("x",) * 8])
def test_what_is_no_file(file: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        create_files([file])  # type: ignore[list-item]
