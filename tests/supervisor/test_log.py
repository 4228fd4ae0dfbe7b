"""The log: what was written comes back, with its stream and time, after a crash and on a full disk too."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from errno import ENOSPC
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import Corrupt
from lamina.supervisor.logs import LogEntry
from lamina.supervisor.logs.following import Log
from lamina.supervisor.logs.frames import ERR, HEADER, OUT, LogWriter
from lamina.supervisor.logs.rotation import Rotated

pieces = st.lists(st.tuples(st.sampled_from([OUT, ERR]), st.binary(min_size=1, max_size=50)), max_size=12)


def write(path: Path, entries: list[tuple[bytes, bytes]]) -> None:
    log = LogWriter(os.fsencode(path))
    for stream, data in entries:
        log.write(stream, data)
    log.close()


def entries_of(path: Path) -> list[LogEntry]:
    return list(Log(os.fsencode(path.parent), "local", "").read())


def read(path: Path) -> list[tuple[bytes, bytes]]:
    return [(entry.stream.encode()[3:4], entry.data) for entry in entries_of(path)]


@given(pieces, st.integers(0, 600))
def test_cut_anywhere_all_that_is_whole_is_read(entries: list[tuple[bytes, bytes]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log")
        write(path, entries)
        size = path.stat().st_size - (HEADER.size if entries else 0)  # without the word that it was closed
        wanted = [(stream, data) for stream, data in entries]
        assert [data for _, data in read(path)] == [data for _, data in wanted]
        assert [e.stream for e in entries_of(path)] == [
            {OUT: "stdout", ERR: "stderr"}[stream] for stream, _ in wanted
        ]
        os.truncate(path, min(cut, size))
        left = [data for _, data in read(path)]
        assert left == [data for _, data in wanted][: len(left)]
        lost = sum(len(data) + HEADER.size for _, data in wanted[len(left) :])
        assert size - lost <= min(cut, size) or not left


def test_times_are_now(tmp_path: Path) -> None:
    before = time.time_ns()
    write(tmp_path / "log", [(OUT, b"x")])
    (entry,) = entries_of(tmp_path / "log")
    assert before <= entry.time_ns <= time.time_ns()


@given(pieces, pieces, st.integers(0, 600))
def test_cut_anywhere_a_log_is_gone_on_with(
    before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]], cut: int
) -> None:
    """What a crash left of the last frame goes, nothing else, and what is written then is whole."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log")
        write(path, before)
        if path.stat().st_size > cut:
            os.truncate(path, cut)
        left = read(path)
        write(path, after)
        found = read(path)
        assert [data for _, data in found] == [data for _, data in left] + [data for _, data in after]


def test_no_log_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "log") == []


def test_a_damaged_log_is_said_to_be(tmp_path: Path) -> None:
    write(tmp_path / "log", [(OUT, b"x")])
    with open(tmp_path / "log", "ab") as file:
        file.write(b"z" * 40)
    with pytest.raises(Corrupt, match="byte 33"):
        read(tmp_path / "log")


def test_a_log_that_cannot_grow_ends_and_stays_readable(tmp_path: Path) -> None:
    log = LogWriter(os.fsencode(tmp_path / "log"))
    log.write(OUT, b"kept")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        log.write(OUT, b"x" * 1000)
        log.write(OUT, b"later")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
        log.close()
    assert log.error is not None
    assert [data for _, data in read(tmp_path / "log")] == [b"kept"]


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "log", [])
    finally:
        os.umask(before)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("when", ["rotated", "removed"])
def test_a_log_that_cannot_be_begun_anew_closes_no_file_of_anybody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A disk has no room for another name: that ends the log, and not who writes it at the container's end."""
    path = os.fsencode(tmp_path) + b"/log"
    log = Rotated(path, 10, 2)
    log.append(b"12345678\n")
    if when == "removed":
        os.unlink(path)
    really = os.open

    def full(place: bytes, *how: int) -> int:
        if place == path:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        return really(place, *how)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        log.append(b"12345678\n")
    assert log.error is not None
    with open(os.devnull) as other:  # has the lowest number that is free
        log.close()
        os.fstat(other.fileno())
    assert log.fd == -1
