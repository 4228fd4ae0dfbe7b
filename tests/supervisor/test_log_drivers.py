"""The log drivers: docker's and the kubelet's lines to the byte, rotation, reading whatever becomes of the files."""

from __future__ import annotations

import json
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import InvalidInput
from lamina.supervisor.logs import (
    JSON_FILE,
    K8S_FILE,
    LOCAL,
    NONE,
    PASSTHROUGH,
    LogEntry,
    check_log,
    ending,
    following,
    open_log,
    size_of,
)
from lamina.supervisor.logs.following import Log, last_lines
from lamina.supervisor.logs.frames import LogWriter
from lamina.supervisor.logs.lines import moment, time_of

FILES = {LOCAL: "log", JSON_FILE: "abc-json.log", K8S_FILE: "ctr.log"}
everywhere = pytest.mark.parametrize("driver", list(FILES))


def writer(place: Path, driver: str, **more: Any) -> Any:
    options = more.pop("options", {})
    return open_log(os.fsencode(place), driver, options, identity="abc", **more)


def log(place: Path, driver: str) -> Log:
    return Log(os.fsencode(place), driver, "abc")


def whole(place: Path, driver: str, **more: Any) -> list[tuple[str, bytes]]:
    """What is read, of each stream together, since drivers cut it differently."""
    found = {"stdout": b"", "stderr": b""}
    for entry in log(place, driver).read(**more):
        found[entry.stream] += entry.data
    return [(stream, data) for stream, data in found.items() if data]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_769_860_800_120_000_000)


@pytest.mark.usefixtures("clock")
def test_json_lines_are_dockers(tmp_path: Path) -> None:
    """The field's order, its escapes, its replacement of what is no UTF-8: moby, jsonlogbytes.go."""
    made = writer(tmp_path, JSON_FILE)
    made.write(b"o", b'hello\n\nwith "quotes" and \\ and tab\t and <&>\n')
    made.write(b"e", b"problem\r\n")
    made.write(b"o", "ümläut \u2028 \U0001f600".encode() + b" \xff\xc3( \x1b[0m\x7f\n")
    made.write(b"o", b"no end")
    made.close()
    lines = (tmp_path / "abc-json.log").read_text().splitlines()
    end = ',"time":"2026-01-31T12:00:00.12Z"}'
    assert lines == [
        '{"log":"hello\\n","stream":"stdout"' + end,
        '{"log":"\\n","stream":"stdout"' + end,
        '{"log":"with \\"quotes\\" and \\\\ and tab\\u0009 and \\u003c\\u0026\\u003e\\n","stream":"stdout"'
        + end,
        '{"log":"problem\\r\\n","stream":"stderr"' + end,
        '{"log":"ümläut \\u2028 \U0001f600 \\ufffd\\ufffd( \\u001b[0m\x7f\\n","stream":"stdout"' + end,
        '{"log":"no end","stream":"stdout"' + end,
    ]


@pytest.mark.usefixtures("clock")
def test_attributes_are_noted_and_read(tmp_path: Path) -> None:
    options = {"labels": "team,nosuch", "env": "MODE"}
    made = writer(
        tmp_path, JSON_FILE, options=options, labels={"team": "a<b", "x": "y"}, env={"MODE": "1", "PATH": "/"}
    )
    made.write(b"o", b"x\n")
    made.close()
    (line,) = (tmp_path / "abc-json.log").read_text().splitlines()
    assert line.startswith('{"log":"x\\n","stream":"stdout","attrs":{"MODE":"1","team":"a\\u003cb"},"time":')
    (entry,) = log(tmp_path, JSON_FILE).read()
    assert entry.attributes == (("MODE", "1"), ("team", "a<b"))


def test_a_long_line_is_several_of_16_kib(tmp_path: Path) -> None:
    made = writer(tmp_path, JSON_FILE)
    made.write(b"o", b"a" * 40_000 + b"\nb\n")
    made.close()
    texts = [json.loads(line)["log"] for line in (tmp_path / "abc-json.log").read_text().splitlines()]
    assert [len(text) for text in texts] == [16384, 16384, 40_000 - 2 * 16384 + 1, 2]
    assert not texts[0].endswith("\n")


@pytest.mark.usefixtures("clock")
def test_lines_for_the_kubelet(tmp_path: Path) -> None:
    made = writer(tmp_path, K8S_FILE)
    made.write(b"o", b"hello\npart")
    made.write(b"e", b"other\n")
    made.write(b"o", b" and rest\n\n")
    made.close()
    head = "2026-01-31T12:00:00.120000000Z"
    assert (tmp_path / "ctr.log").read_text().splitlines() == [
        f"{head} stdout F hello",
        f"{head} stdout P part",
        f"{head} stderr F other",
        f"{head} stdout F  and rest",
        f"{head} stdout F ",
    ]
    assert whole(tmp_path, K8S_FILE) == [("stdout", b"hello\npart and rest\n\n"), ("stderr", b"other\n")]


TEXTS = st.lists(st.tuples(st.sampled_from([b"o", b"e"]), st.text(max_size=30).map(str.encode)), max_size=15)


@everywhere
@given(pieces=TEXTS, most=st.sampled_from([0, 1024, 1500]))
def test_what_was_written_is_read(
    driver: str, pieces: list[tuple[bytes, bytes]], most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("logs")
    options = {"max-size": str(most), "max-file": "100"} if most else {}
    made = writer(place, driver, options=options)
    for stream, data in pieces:
        made.write(stream, data)
    made.close()
    wanted = {"stdout": b"", "stderr": b""}
    for stream, data in pieces:
        wanted[{b"o": "stdout", b"e": "stderr"}[stream]] += data
    assert whole(place, driver) == [(stream, data) for stream, data in wanted.items() if data]


@everywhere
def test_a_file_that_is_full_is_rotated(driver: str, tmp_path: Path) -> None:
    made = writer(tmp_path, driver, options={"max-size": "2k", "max-file": "3"})
    for number in range(200):
        made.write(b"o", b"%032d\n" % number)
    made.close()
    name = FILES[driver]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.1", f"{name}.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    ((_, found),) = whole(tmp_path, driver)
    numbers = [int(line) for line in found.split()]
    assert numbers == list(range(numbers[0], 200))
    assert len(numbers) > 40


@everywhere
def test_a_single_file_is_begun_anew(driver: str, tmp_path: Path) -> None:
    made = writer(tmp_path, driver, options={"max-size": "2k"})
    for number in range(200):
        made.write(b"o", b"%032d\n" % number)
    made.close()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size <= 2000
    ((_, found),) = whole(tmp_path, driver)
    assert int(found.split()[-1]) == 199


@everywhere
def test_going_on_after_a_crash(driver: str, tmp_path: Path) -> None:
    """Half a record is the end of no other one."""
    made = writer(tmp_path, driver)
    made.write(b"o", b"first\nsecond\n")
    path = tmp_path / FILES[driver]
    os.truncate(path, path.stat().st_size - 5)
    again = writer(tmp_path, driver)
    again.write(b"o", b"third\n")
    again.close()
    ((_, found),) = whole(tmp_path, driver)
    assert found.endswith(b"third\n")


@everywhere
def test_another_one_goes_on_where_one_rests(driver: str, tmp_path: Path) -> None:
    made = writer(tmp_path, driver)
    made.write(b"o", b"first\n")
    assert made.rest()
    made.write(b"o", b"sec")
    assert made.rest() is (driver != JSON_FILE)  # which waits for the end of the line
    made.write(b"o", b"ond\n")
    assert made.rest()
    assert made.rest()
    again = writer(tmp_path, driver)
    again.write(b"o", b"third\n")
    again.close()
    assert whole(tmp_path, driver) == [("stdout", b"first\nsecond\nthird\n")]


@everywhere
def test_a_file_that_is_removed_underneath_is_begun_anew(driver: str, tmp_path: Path) -> None:
    made = writer(tmp_path, driver)
    made.write(b"o", b"lost\n")
    (tmp_path / FILES[driver]).unlink()
    assert whole(tmp_path, driver) == []
    made.write(b"o", b"kept\n")
    made.close()
    assert whole(tmp_path, driver) == [("stdout", b"kept\n")]


class Follower:
    """Reads a log in a thread while a test writes it."""

    def __init__(self, found: Log, **more: Any) -> None:
        self.goes_on, self.read, self.looks = True, b"", 0
        self._thread = threading.Thread(target=self._follow, args=(found, more))
        self._thread.start()

    def _follow(self, found: Log, more: Any) -> None:
        for entry in found.read(self._asked, **more):
            self.read += entry.data

    def _asked(self) -> bool:
        self.looks += 1  # which are before what is read
        return self.goes_on

    def wait_for_a_look(self) -> None:
        """Until it has read what there is."""
        end, before = time.monotonic() + 100, self.looks
        while self.looks < before + 2:
            assert time.monotonic() < end
            time.sleep(0.005)

    def wait_for(self, data: bytes) -> None:
        end = time.monotonic() + 100
        while data not in self.read:
            assert time.monotonic() < end, self.read[-100:]
            time.sleep(0.005)

    def end(self) -> bytes:
        self.goes_on = False
        self._thread.join(100)
        assert not self._thread.is_alive()
        return self.read


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    made: list[Follower] = []

    def begin(found: Log, **more: Any) -> Follower:
        made.append(Follower(found, **more))
        return made[-1]

    yield begin
    for follower in made:
        follower.end()


@everywhere
def test_following_through_rotation_loses_nothing(
    driver: str, tmp_path: Path, follow: Callable[..., Follower]
) -> None:
    made = writer(tmp_path, driver, options={"max-size": "4k", "max-file": "200"})
    follower = follow(log(tmp_path, driver))
    for number in range(4000):
        made.write(b"o", b"%032d\n" % number)
        if number % 400 == 0:
            time.sleep(0.03)  # so that some of it is read meanwhile, and some is rotated unread
    made.close()
    assert list(map(int, follower.end().split())) == list(range(4000))


@everywhere
def test_following_through_removal_and_cutting(
    driver: str, tmp_path: Path, follow: Callable[..., Follower]
) -> None:
    made = writer(tmp_path, driver)
    follower = follow(log(tmp_path, driver))
    made.write(b"o", b"one\n")
    follower.wait_for(b"one\n")
    (tmp_path / FILES[driver]).unlink()
    long = b"two" * 99 + b"\n"  # a cut that is followed by as many bytes cannot be told from none
    made.write(b"o", long)
    follower.wait_for(long)
    os.truncate(tmp_path / FILES[driver], 0)
    made.write(b"o", b"three\n")
    follower.wait_for(b"three\n")
    made.close()
    assert follower.end() == b"one\n" + long + b"three\n"


@everywhere
def test_following_begins_where_there_is_nothing_yet(
    driver: str, tmp_path: Path, follow: Callable[..., Follower]
) -> None:
    follower = follow(log(tmp_path, driver), tail=5)
    follower.wait_for_a_look()
    made = writer(tmp_path, driver)
    made.write(b"o", b"".join(b"%d\n" % n for n in range(9)))
    made.close()
    assert follower.end() == b"".join(b"%d\n" % n for n in range(9))


def test_until_ends_the_waiting(tmp_path: Path) -> None:
    made = writer(tmp_path, LOCAL)
    made.write(b"o", b"now\n")
    made.close()
    found = list(log(tmp_path, LOCAL).read(lambda: True, until=time.time() + 0.3))
    assert [entry.data for entry in found] == [b"now\n"]


@everywhere
def test_a_part_of_the_time(driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = writer(tmp_path, driver)
    for second in range(10):
        monkeypatch.setattr(time, "time_ns", lambda second=second: (1000 + second) * 10**9)
        made.write(b"o", b"%d\n" % second)
    made.close()
    assert whole(tmp_path, driver, since=1003, until=1005) == [("stdout", b"3\n4\n5\n")]
    assert whole(tmp_path, driver, since=1003, until=1005, tail=2) == [("stdout", b"4\n5\n")]


@given(
    st.lists(st.binary(max_size=6).map(lambda data: bytes(b"ab\n"[c % 3] for c in data))), st.integers(0, 8)
)
def test_the_last_lines(pieces: list[bytes], most: int) -> None:
    entries = [LogEntry("stdout", 0, piece) for piece in pieces if piece]
    found = b"".join(entry.data for entry in last_lines(iter(entries), most))
    lines = b"".join(pieces).splitlines(keepends=True)
    assert found == b"".join(lines[len(lines) - min(most, len(lines)) :])


@given(st.integers(0, 2**62))
def test_times_come_back(time_ns: int) -> None:
    assert time_of(moment(time_ns).decode()) == time_of(moment(time_ns, fixed=True).decode()) == time_ns


def test_times_with_an_offset() -> None:
    assert time_of("2026-01-31T13:00:00.12+01:00") == time_of("2026-01-31T12:00:00.12Z")
    for wrong in ("2026-01-31", "", "2026-01-31T12:00:00", "x2026-01-31T12:00:00Z"):
        with pytest.raises(ValueError, match="not a time"):
            time_of(wrong)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("10m", 10_000_000), ("1.5k", 1500), ("2GB", 2 * 10**9)]
)
def test_sizes_are_decimal_as_in_docker(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("syslog", {}),
        ("", {}),
        (LOCAL, {"max-size": "0"}),
        (LOCAL, {"max-size": "-1"}),
        (LOCAL, {"max-size": "ten"}),
        (LOCAL, {"max-size": "1.k"}),
        (JSON_FILE, {"max-file": "0"}),
        (JSON_FILE, {"max-file": "x"}),
        (JSON_FILE, {"compress": "true"}),
        (K8S_FILE, {"labels": "a"}),
        (NONE, {"max-size": "1m"}),
        (PASSTHROUGH, {"max-file": "1"}),
    ],
)
def test_what_cannot_be_meant_is_refused(driver: str, options: dict[str, str]) -> None:
    with pytest.raises(InvalidInput, match=r"log (driver|option)"):
        check_log(driver, options)


def test_nothing_is_kept_by_those_that_keep_nothing(tmp_path: Path) -> None:
    assert writer(tmp_path, NONE) is None
    assert writer(tmp_path, PASSTHROUGH) is None
    assert list(tmp_path.iterdir()) == []


@everywhere
@given(
    pieces=TEXTS, most=st.sampled_from([0, 1024, 1500]), lines=st.integers(0, 12), block=st.integers(16, 300)
)
def test_the_last_lines_are_those_of_all(
    driver: str,
    pieces: list[tuple[bytes, bytes]],
    most: int,
    lines: int,
    block: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("logs")
    made = writer(place, driver, options={"max-size": str(most), "max-file": "100"} if most else {})
    for stream, data in pieces:
        made.write(stream, data)
    made.close()
    found = log(place, driver)
    wanted = list(last_lines(found.read(), lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ending, "BLOCK", block)
        assert list(found.read(tail=lines)) == wanted
        patch.setattr(following, "HELD", block)
        assert list(found.read(tail=lines)) == wanted


@everywhere
def test_a_line_without_an_end_is_not_held(driver: str, tmp_path: Path) -> None:
    made = writer(tmp_path, driver)
    piece = b"x" * (1 << 20)
    made.write(b"o", b"first\n")
    for _ in range(128):
        made.write(b"o", piece)
    made.close()
    tracemalloc.start()
    try:
        size = sum(len(entry.data) for entry in log(tmp_path, driver).read(tail=1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 128 << 20
    assert peak < 100 << 20


@pytest.mark.parametrize("lost", range(1, 40))
def test_what_a_crash_cut_short_is_cut_off(tmp_path: Path, lost: int) -> None:
    """A frame of 20 bytes behind its header of 16, and of one before."""
    made = LogWriter(os.fsencode(tmp_path / "log"))
    for data in (b"first\n", b"the second, in which it is cut", b"x" * 20):
        made.write(b"o", data)
    made._wrote = False  # it was not closed in good order
    made.close()
    os.truncate(tmp_path / "log", (tmp_path / "log").stat().st_size - lost)
    LogWriter(os.fsencode(tmp_path / "log")).close()
    left = [b"first\n", b"the second, in which it is cut"][: 1 if lost > 36 else 2]
    assert [entry.data for entry in log(tmp_path, LOCAL).read()] == left
