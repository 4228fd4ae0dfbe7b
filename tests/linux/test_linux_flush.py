"""Many files put on the disk with one call, compiled and in Python."""

from __future__ import annotations

import os
import threading
from errno import EBADF, EINVAL, ESPIPE
from pathlib import Path

import pytest

from lamina.linux import flush as module
from lamina.linux.flush import flush
from support.held import held_descriptors
from support.lives import until


@pytest.fixture(params=["compiled", "python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "python":
        monkeypatch.setattr(module, "_flush", None)
    else:
        pytest.importorskip("lamina.linux._native", reason="the C extension is not built")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 16, 17, 50])
def test_files_and_directories(tmp_path: Path, count: int) -> None:
    before, tasks = held_descriptors(), os.listdir("/proc/self/task")
    opened = [os.open(tmp_path, os.O_RDONLY)] if count else []
    while len(opened) < count:
        opened.append(os.open(tmp_path / f"file{len(opened)}", os.O_WRONLY | os.O_CREAT))
        os.write(opened[-1], b"content")
    try:
        flush(opened)
    finally:
        for fd in opened:
            os.close(fd)
    assert held_descriptors() == before
    assert until(lambda: not {*os.listdir("/proc/self/task")} - {*tasks})  # one that came too late goes


def test_threads_that_come_too_late_find_nothing_left() -> None:
    """On one processor a thread runs when the one that began it waits, or not before that is done."""
    before, everywhere = os.listdir("/proc/self/task"), os.sched_getaffinity(0)
    opened = [os.memfd_create("file") for _ in range(20)]  # there is no disk to wait for
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        for count in (2, 3, 16, 20) * 25:
            flush(opened[:count])
            with pytest.raises(OSError, match="Bad file descriptor"):
                flush([*opened[: count - 1], 1 << 30])
    finally:
        os.sched_setaffinity(0, everywhere)
        for fd in opened:
            os.close(fd)
    assert until(lambda: not {*os.listdir("/proc/self/task")} - {*before})


@pytest.mark.parametrize("at", [0, 1, 4, 19])
def test_the_first_that_fails_is_said(tmp_path: Path, at: int) -> None:
    reader, writer = os.pipe()
    opened = [os.open(tmp_path, os.O_RDONLY) for _ in range(20)]
    try:
        with pytest.raises(OSError) as caught:
            flush([*opened[:at], reader, *opened[at:], 1 << 30])
        assert caught.value.errno == EINVAL  # fsync(2): bound to a special file
        with pytest.raises(OSError) as caught:
            flush([*opened[:at], 1 << 30, *opened[at:], reader])
        assert caught.value.errno == EBADF
        flush(opened)
    finally:
        for fd in (reader, writer, *opened):
            os.close(fd)


@pytest.mark.parametrize("count", [1, 2, 6, 16, 17, 40])
def test_files_in_one_commit(tmp_path: Path, count: int) -> None:
    before = held_descriptors()
    for number in range(count):
        (tmp_path / f"file{number}").write_bytes(b"content" * number)
    opened = [os.open(tmp_path / f"file{number}", os.O_RDONLY) for number in range(count)]
    try:
        flush(opened, in_one=True)
        for at in {0, count // 2, count - 1}:
            with pytest.raises(OSError, match="Bad file descriptor"):
                flush([*opened[:at], 1 << 30, *opened[at:]], in_one=True)
    finally:
        for fd in opened:
            os.close(fd)
    assert held_descriptors() == before
    assert [len((tmp_path / f"file{number}").read_bytes()) for number in range(count)] == [
        7 * number for number in range(count)
    ]


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    """Also where its time could not be changed."""
    reader, writer = os.pipe()
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        for fds in ([opened, reader], [reader, opened], [opened, writer, opened]):
            with pytest.raises(OSError) as caught:
                flush(fds, in_one=True)
            assert caught.value.errno in (EINVAL, ESPIPE)
    finally:
        for fd in (reader, writer, opened):
            os.close(fd)


@pytest.mark.root
def test_of_somebody_elses_file_it_is_done_the_long_way(tmp_path: Path) -> None:
    """Whoever may not change its time."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0o644)
    opened = [os.open(tmp_path / "file", os.O_RDONLY) for _ in range(3)]
    when = os.stat(opened[0]).st_mtime_ns
    child = os.fork()
    if not child:
        try:
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            flush(opened, in_one=True)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.stat(opened[0]).st_mtime_ns == when
    for fd in opened:
        os.close(fd)


def test_what_is_no_descriptor(tmp_path: Path) -> None:
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(TypeError):
            flush([opened, opened, "x"])  # type: ignore[list-item]
    finally:
        os.close(opened)


def test_from_several_threads(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        opened = [os.open(tmp_path / f"{number}-{at}", os.O_WRONLY | os.O_CREAT) for at in range(5)]
        try:
            for _ in range(20):
                flush(opened)
        except BaseException as error:
            failures.append(error)
        finally:
            for fd in opened:
                os.close(fd)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
