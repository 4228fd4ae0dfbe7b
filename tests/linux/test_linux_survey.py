"""The same files of many directories looked at with one call, compiled and in Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EBADF, ENAMETOOLONG, ENOTDIR
from pathlib import Path

import pytest

from lamina.linux import survey as module
from lamina.linux.constants import AT_FDCWD
from lamina.linux.survey import changed, survey
from support.held import held_descriptors


@pytest.fixture(params=["compiled", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(module, "_survey", None)
    else:
        pytest.importorskip("lamina.linux._native", reason="the C extension is not built")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def look(path: Path) -> str:
    found = os.lstat(path)
    numbers = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return " ".join(f"{number:x}" for number in numbers)


def test_each_is_looked_at_and_nothing_is_followed(tmp_path: Path, place: int) -> None:
    before = held_descriptors()
    for name in ("a", "b", "\udcff\n"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "one").write_bytes(b"12345")
    os.utime(tmp_path / "a" / "one", ns=(1, -2_000_000_001))
    (tmp_path / "b" / "two").touch()
    os.truncate(tmp_path / "b" / "two", 1 << 40)
    (tmp_path / "\udcff\n" / "one").symlink_to("/nowhere")
    assert survey(place, [b"a", b"b", b"c", b"\xff\n"], (b"one", b"two")) == [
        (look(tmp_path / "a" / "one"), None),
        (None, look(tmp_path / "b" / "two")),
        (None, None),
        (look(tmp_path / "\udcff\n" / "one"), None),
    ]
    assert look(tmp_path / "a" / "one").split()[1:3] == ["5", "-77359401"]
    [[found]] = survey(AT_FDCWD, [os.fsencode(tmp_path)], (b"a",))
    assert found == look(tmp_path / "a")
    assert held_descriptors() == before


@pytest.mark.parametrize("moment", [-1, 0, 1, 15, 16, 1 << 60, (1 << 34) * 10**9 - 10**10])
def test_every_moment_is_told(tmp_path: Path, place: int, moment: int) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "one"
    path.touch()
    os.utime(path, ns=(moment, moment))
    [[found]] = survey(place, [b"a"], (b"one",))
    assert found == look(path)
    about = os.stat(path)
    assert changed(found) == max(about.st_mtime_ns, about.st_ctime_ns)


def test_where_one_is_there_that_is_enough_nothing_after_it_is_looked_at(tmp_path: Path, place: int) -> None:
    for name, files in (("a", "123"), ("b", "13"), ("c", "")):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    first, second, third = (look(tmp_path / "a" / file) for file in "123")
    names, asked = [b"a", b"b", b"c"], (b"1", b"2", b"3")
    assert survey(place, names, asked, 1)[0] == (first, second)
    assert [len(found) for found in survey(place, names, asked, 1)] == [2, 3, 3]
    assert [len(found) for found in survey(place, names, asked, 0)] == [1, 1, 3]
    assert survey(place, names, asked, 2)[0] == survey(place, names, asked)[0] == (first, second, third)


def test_of_hundreds_each_is_what_it_is(tmp_path: Path, place: int) -> None:
    """So many that two threads look."""
    names, expected = [], []
    for number in range(700):
        directory = tmp_path / f"{number:04x}"
        directory.mkdir()
        names.append(os.fsencode(directory.name))
        (directory / "one").write_bytes(bytes(number))
        if number % 3 == 0:
            (directory / "two").touch()
        expected.append(
            (look(directory / "one"), look(directory / "two"))
            if number % 3 == 0
            else (look(directory / "one"), None)
        )
    for count in (127, 128, 129, 160, 161, 700):
        assert survey(place, names[:count], (b"one", b"two")) == expected[:count]
    assert [*map(len, survey(place, names, (b"two", b"one"), 0))] == [1, 2, 2] * 233 + [1]


def test_of_hundreds_the_first_that_failed_is_named(tmp_path: Path, place: int) -> None:
    names = []
    for number in range(600):
        directory = tmp_path / f"{number:04x}"
        directory.touch() if number in (350, 550) else directory.mkdir()
        names.append(os.fsencode(directory.name))
    with pytest.raises(NotADirectoryError) as caught:
        survey(place, names, (b"one", b"two"))
    assert os.fsencode(caught.value.filename) == b"%04x/one" % 350


def test_none_at_all(place: int) -> None:
    assert survey(place, [], (b"one",)) == []
    assert survey(place, [b"a", b"b"], ()) == [(), ()]


@pytest.mark.parametrize(
    ("names", "errno"),
    [([b"file"], ENOTDIR), ([b"ok", b"n" * 300], ENAMETOOLONG), ([b"d/" * 3000], ENAMETOOLONG)],
)
def test_what_cannot_be_looked_at_is_said(tmp_path: Path, place: int, names: list[bytes], errno: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        survey(place, names, (b"one",))
    assert caught.value.errno == errno and os.fsencode(caught.value.filename).startswith(names[-1][:100])
    with pytest.raises(OSError) as caught:
        survey(-1, [b"a"], (b"one",))
    assert caught.value.errno == EBADF


def test_other_things_are_refused(place: int) -> None:
    for names, files in ((["a"], (b"b",)), ([b"a"], ("b",)), (None, ())):
        with pytest.raises(TypeError):
            survey(place, names, files)  # type: ignore[arg-type]
