"""Events: each once and whole, whoever writes, whatever is turned over, torn or full meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.store import events
from lamina.store.events import Event, Reader, event, note
from lamina.store.root import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def everything(store: Store) -> list[Event]:
    reader = Reader(store)
    try:
        return list(reader.read())
    finally:
        reader.close()


def test_nothing_has_happened_in_a_new_store(store: Store) -> None:
    assert everything(store) == []
    assert not os.path.lexists(store.events)


@given(name=st.text(max_size=30), said=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_what_is_noted_is_read(
    tmp_path_factory: pytest.TempPathFactory, name: str, said: dict[str, str]
) -> None:
    store = Store(tmp_path_factory.mktemp("events") / "store")
    one = Event(1, "container", "start", name, said)
    note(store, one)
    assert everything(store) == [one]


def test_bytes_that_are_no_text_come_back(store: Store) -> None:
    note(store, event("container", "start", "x", name=os.fsdecode(b"caf\xe9")))
    assert os.fsencode(everything(store)[0].attributes["name"]) == b"caf\xe9"


def test_attributes_are_texts_and_none_is_left_out(store: Store) -> None:
    made = event("container", "die", "x", {"a-b": 1}, exitCode=137, gone=None)
    assert made.attributes == {"a-b": "1", "exitCode": "137"}


def test_the_file_is_private_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        note(store, event("image", "pull", "x"))
    finally:
        os.umask(before)
    assert os.stat(store.events).st_mode & 0o777 == 0o700
    assert os.stat(store.events + b"/log").st_mode & 0o777 == 0o600


def test_a_reader_reads_each_once(store: Store) -> None:
    reader = Reader(store)
    assert list(reader.read()) == []
    for number in range(3):
        note(store, event("container", "start", str(number)))
        assert [one.id for one in reader.read()] == [str(number)]
    assert list(reader.read()) == []
    reader.close()
    reader.close()


def test_what_was_before_can_be_skipped(store: Store) -> None:
    note(store, event("container", "start", "old"))
    reader = Reader(store)
    reader.skip()
    note(store, event("container", "start", "new"))
    assert [one.id for one in reader.read()] == ["new"]
    reader.close()


def test_two_files_are_kept_and_a_follower_misses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LARGEST", 2000)
    reader, seen = Reader(store), []
    for number in range(100):
        note(store, event("container", "start", str(number)))
        seen += [one.id for one in reader.read()]
    reader.close()
    assert seen == [str(number) for number in range(100)]
    assert sorted(os.listdir(store.events)) == [b"log", b"log.1"]
    kept = [int(one.id) for one in everything(store)]
    assert kept == list(range(kept[0], 100))
    assert os.stat(store.events + b"/log.1").st_size < 2500


def test_who_had_the_old_file_open_is_read_as_well(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    note(store, event("container", "start", "1"))
    late = os.open(store.events + b"/log", os.O_WRONLY | os.O_APPEND)
    reader = Reader(store)
    assert [one.id for one in reader.read()] == ["1"]
    monkeypatch.setattr(events, "LARGEST", 1)
    note(store, event("container", "start", "2"))  # turns the files over
    monkeypatch.undo()
    note(store, event("container", "start", "3"))
    assert [one.id for one in reader.read()] == ["2", "3"]
    os.write(late, b'{"time_ns":1,"type":"container","action":"die","id":"1","attributes":{}}\n')
    os.close(late)
    assert [one.action for one in reader.read()] == ["die"]
    reader.close()


@pytest.mark.parametrize(
    "torn",
    [
        b'{"time_ns":12,"type":"cont',
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"time_ns":"x","type":1,"action":1,"id":1,"attributes":3}',
    ],
)
def test_a_line_cut_short_by_a_crash_costs_no_other(store: Store, torn: bytes) -> None:
    note(store, event("container", "start", "1"))
    with open(store.events + b"/log", "ab") as file:
        file.write(torn + b"\n")
    note(store, event("container", "start", "2"))
    assert [one.id for one in everything(store)] == ["1", "2"]


def test_half_a_line_is_read_when_it_is_whole(store: Store) -> None:
    reader = Reader(store)
    note(store, event("container", "start", "1"))
    line = Path(os.fsdecode(store.events), "log").read_bytes().replace(b'"1"', b'"2"')
    with open(store.events + b"/log", "ab", buffering=0) as file:
        file.write(line[:20])
        assert [one.id for one in reader.read()] == ["1"]
        file.write(line[20:])
        assert [one.id for one in reader.read()] == ["2"]
    reader.close()


def test_what_cannot_be_written_is_lost_and_nothing_else(store: Store) -> None:
    os.mkdir(store.events)
    os.symlink("/dev/full", store.events + b"/log")  # not followed
    note(store, event("container", "start", "1"))
    os.unlink(store.events + b"/log")
    os.rmdir(store.events)
    with open(store.events, "w"):
        pass
    note(store, event("container", "start", "2"))


WRITER = """
import sys
from lamina.store import events
from lamina.store.root import Store
events.LARGEST = 60_000  # turned over once: who reads now and then misses nothing
store = Store(sys.argv[1])
for number in range(200):
    events.note(store, events.event("container", "start", f"{sys.argv[2]}:{number}"))
"""


def test_lines_of_many_writers_never_mix(store: Store) -> None:
    argv = [sys.executable, "-c", WRITER, os.fsdecode(store.path)]
    writers = [subprocess.Popen([*argv, str(who)]) for who in range(4)]
    reader, seen = Reader(store), []
    while any(writer.poll() is None for writer in writers):
        seen += [one.id for one in reader.read()]
    seen += [one.id for one in reader.read()]
    reader.close()
    assert [writer.returncode for writer in writers] == [0] * 4
    for who in range(4):
        mine = [one for one in seen if one.startswith(f"{who}:")]
        assert mine == [f"{who}:{number}" for number in range(200)]
