"""The journal's records: whatever a crash leaves of them can be read, and damage is told from a torn end."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.engine.apply.hands import Hands
from lamina.engine.apply.journal import FRAME, MAGIC, Log, parse, raw, text
from lamina.engine.apply.work import Journal
from lamina.errors import Corrupt
from support.process import child_with_copies


def filled(directory: Path, *, reserve: int = 0) -> bytes:
    with_fd = os.open(directory, os.O_RDONLY)
    try:
        log = Log.create(with_fd, Hands())
        log.append("begin", number=1)
        log.append("unit", path=text(b"/caf\xe9/\xff\n"))
        if reserve:
            log.reserve(reserve)
        log.append("applying", durable=True)
        log.append("intent", unit=1)
        log.append("done", unit=1)
        log.close()
    finally:
        os.close(with_fd)
    return (directory / "log").read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = filled(tmp_path, reserve=1000)
    records, end = parse(content, b"log")
    assert [r["is"] for r in records] == ["begin", "unit", "applying", "intent", "done"]
    assert raw(records[1]["path"]) == b"/caf\xe9/\xff\n"
    assert content[end:].strip(b"\0") == b""
    fd = os.open(tmp_path, os.O_RDONLY)
    log = Log.open(fd, b"log", Hands())
    assert log.state == "applying"
    log.append("applied")
    log.close()
    log = Log.open(fd, b"log", Hands())
    assert (log.state, len(log.records)) == ("applied", 6)
    log.close()
    os.close(fd)


def test_a_torn_end_is_cut_off_wherever_it_is(tmp_path: Path) -> None:
    content = filled(tmp_path)
    ends = []
    for cut in range(len(content) + 1):
        records, end = parse(content[:cut], b"log")
        assert end <= cut or end == 0
        ends.append(len(records))
        again, _ = parse(content[:cut] + bytes(50), b"log")  # followed by what was allocated
        assert again == records
    assert ends == sorted(ends)
    assert ends[-1] == 5


def test_appending_behind_a_torn_end(tmp_path: Path) -> None:
    content = filled(tmp_path)
    for cut in range(len(content)):
        (tmp_path / "log").write_bytes(content[:cut])
        fd = os.open(tmp_path, os.O_RDONLY)
        log = Log.open(fd, b"log", Hands())
        there = len(log.records)
        log.append("undone", durable=True)
        log.close()
        os.close(fd)
        records, _ = parse((tmp_path / "log").read_bytes(), b"log")
        assert (len(records), records[-1]["is"]) == (there + 1, "undone")


def test_lost_blocks_among_the_unsynced_records_are_a_torn_end(tmp_path: Path) -> None:
    """After a power cut a later block may be there and an earlier one not."""
    content = bytearray(filled(tmp_path))
    at = content.index(b'{"is":"intent"') - FRAME.size
    content[at : at + FRAME.size + 5] = bytes(FRAME.size + 5)
    records, _ = parse(bytes(content), b"log")
    assert [r["is"] for r in records] == ["begin", "unit", "applying"]


def test_damage_before_a_synced_record_is_told(tmp_path: Path) -> None:
    content = bytearray(filled(tmp_path))
    content[content.index(b'"unit"') + 2] ^= 1
    with pytest.raises(Corrupt, match="record 1 at byte"):
        parse(bytes(content), b"log")


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_anything_can_be_read(content: bytes) -> None:
    for prefix in (b"", MAGIC):
        try:
            parse(prefix + content, b"log")
        except Corrupt:
            pass


@given(st.binary())
def test_paths_survive(path: bytes) -> None:
    assert raw(text(path)) == path


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    """Another thread of the program forked it, and it has a copy of every descriptor (flock(2))."""
    place = os.fsencode(tmp_path / "apply")
    with ExitStack() as held:
        with Journal(place, Hands()):
            held.enter_context(child_with_copies())
        with Journal(place, Hands()) as again:
            assert again.numbers() == []
