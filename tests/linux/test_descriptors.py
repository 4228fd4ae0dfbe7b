"""Calls on descriptors: the native extension's and the standard library's do the same, and go on after a signal."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lamina.linux import _descriptors, descriptors
from lamina.linux.descriptors import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, POLLERR, POLLHUP, POLLIN, POLLOUT
from support.held import held_descriptors

_native = pytest.importorskip("lamina.linux._native")


@pytest.fixture(params=[_native, _descriptors], ids=["native", "standard library"])
def calls(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.fixture
def interrupts() -> Iterator[list[int]]:
    """SIGALRM again and again, from `begin` on: the handler notes it, or raises when it has seen three."""
    seen: list[int] = []

    def handler(number: int, frame: object) -> None:
        seen.append(number)
        if len(seen) == 3:
            raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def begin() -> None:
    """Have them come: not before somebody expects what the handler raises."""
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)


def test_the_numbers_are_the_kernels() -> None:
    for name in ("LOCK_SH", "LOCK_EX", "LOCK_NB", "LOCK_UN", "F_DUPFD_CLOEXEC", "F_ADD_SEALS", "F_SEAL_SEAL",
                 "F_SEAL_SHRINK", "F_SEAL_GROW", "F_SEAL_WRITE"):  # fmt: skip
        assert getattr(descriptors, name) == getattr(fcntl, name), name
    for name in ("POLLIN", "POLLOUT", "POLLERR", "POLLHUP"):
        assert getattr(descriptors, name) == getattr(select, name), name
    assert descriptors.SOCK_STREAM == socket.SOCK_STREAM


def test_both_have_all_of_it() -> None:
    for name in _descriptors.__all__:
        assert callable(getattr(_native, name)) and getattr(descriptors, name) is getattr(_native, name)


def test_a_copy_is_above_and_closed_on_exec(calls: ModuleType, tmp_path: Path) -> None:
    with open(tmp_path / "f", "w") as file:
        copy = calls.fcntl(file.fileno(), descriptors.F_DUPFD_CLOEXEC, 200)
        assert copy >= 200 and not os.get_inheritable(copy) and os.path.sameopenfile(copy, file.fileno())
        assert calls.fcntl(copy, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
        os.close(copy)
        with pytest.raises(OSError) as caught:
            calls.fcntl(copy, fcntl.F_GETFD)
        assert caught.value.errno == errno.EBADF
    with pytest.raises(TypeError):
        calls.fcntl("0", fcntl.F_GETFD)


def test_two_files_change_their_names(calls: ModuleType, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("1")
    with pytest.raises(OSError) as caught:
        calls.exchange(bytes(one), bytes(other))
    assert caught.value.errno == errno.ENOENT
    other.write_text("2")
    calls.exchange(bytes(one), bytes(other))
    assert (one.read_text(), other.read_text()) == ("2", "1")
    with pytest.raises((TypeError, ValueError)):
        calls.exchange(bytes(one), b"a\0b")


def test_a_lock_keeps_others_out_until_it_is_given_up(calls: ModuleType, tmp_path: Path) -> None:
    with open(tmp_path / "f", "w") as one, open(tmp_path / "f") as other:
        calls.flock(one.fileno(), LOCK_EX)
        with pytest.raises(BlockingIOError):
            calls.flock(other.fileno(), LOCK_SH | LOCK_NB)
        calls.flock(one.fileno(), LOCK_SH)
        calls.flock(other.fileno(), LOCK_SH | LOCK_NB)
        calls.flock(one.fileno(), LOCK_UN)
        assert calls.flock(other.fileno(), LOCK_EX | LOCK_NB) is None


def test_waiting_for_a_lock_outlasts_signals_and_ends_when_a_handler_raises(
    calls: ModuleType, tmp_path: Path, interrupts: list[int]
) -> None:
    with open(tmp_path / "f", "w") as one, open(tmp_path / "f") as other:
        calls.flock(one.fileno(), LOCK_EX)
        with pytest.raises(Interrupted):
            begin()
            calls.flock(other.fileno(), LOCK_EX)
        assert len(interrupts) >= 3


def test_another_thread_runs_while_one_waits_for_a_lock(calls: ModuleType, tmp_path: Path) -> None:
    with open(tmp_path / "f", "w") as one, open(tmp_path / "f") as other:
        calls.flock(one.fileno(), LOCK_EX)
        thread = threading.Thread(target=calls.flock, args=(other.fileno(), LOCK_EX))
        thread.start()
        calls.flock(one.fileno(), LOCK_UN)
        thread.join(100)
        assert not thread.is_alive()


def test_poll_tells_what_can_be_read_and_written_and_what_has_ended(calls: ModuleType) -> None:
    reader, writer = os.pipe()
    try:
        wanted = [(reader, POLLIN), (writer, POLLOUT)]
        assert calls.poll(wanted, -1) == [(writer, POLLOUT)]
        assert calls.poll([(reader, POLLIN)], 0) == calls.poll([], 1) == []
        os.write(writer, b"x")
        assert sorted(calls.poll(wanted, 1000)) == [(reader, POLLIN), (writer, POLLOUT)]
        assert calls.poll([(reader, 0)], 0) == []
    finally:
        os.close(writer)
    assert calls.poll([(reader, 0)], -1) == [(reader, POLLHUP)]
    os.close(reader)
    reader, writer = os.pipe()
    os.close(reader)
    assert calls.poll([(writer, 0)], -1) == [(writer, POLLERR)]
    os.close(writer)
    assert calls.poll([(writer, POLLIN)], -1) == [(writer, select.POLLNVAL)]


def test_poll_of_many_and_of_large_numbers(calls: ModuleType) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    copies = [fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 900) for _ in range(100)]
    assert calls.poll([(copy, POLLIN) for copy in copies], -1) == [(copy, POLLHUP) for copy in copies]
    for copy in (reader, *copies):
        os.close(copy)


def test_waiting_outlasts_signals_and_ends_when_a_handler_raises(
    calls: ModuleType, interrupts: list[int]
) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(Interrupted):
            begin()
            calls.poll([(reader, POLLIN)], -1)
        assert len(interrupts) >= 3
    finally:
        os.close(reader)
        os.close(writer)


def test_signals_do_not_make_the_wait_longer(calls: ModuleType) -> None:
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    reader, writer = os.pipe()
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        begin = time.monotonic()
        # each signal would begin it anew, and so it would never end
        assert calls.poll([(reader, POLLIN)], 100) == []
        assert time.monotonic() - begin >= 0.1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(reader)
        os.close(writer)


def test_what_is_no_list_of_pairs_is_refused() -> None:
    for wrong in ([1], [("a", 1)], [(0,)], ((0, 1),), [(1 << 40, 1)]):
        with pytest.raises((TypeError, OverflowError)):
            _native.poll(wrong, 0)


def pair(calls: ModuleType, kind: int = socket.SOCK_STREAM) -> tuple[int, int]:
    ours, theirs = calls.socketpair(kind)
    return ours, theirs


def test_how_long_a_programs_own_sockets_wait_is_not_for_ours(calls: ModuleType) -> None:
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(0.01)
        ends = calls.socketpair(socket.SOCK_SEQPACKET)
        late = threading.Timer(0.1, os.write, (ends[0], b"x"))
        late.start()
        assert calls.receive(ends[1], 1) == ([], False)
        late.join()
    finally:
        socket.setdefaulttimeout(before)
    assert [os.get_blocking(end) for end in ends] == [True, True]
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_both_ends_of_a_pair_are_closed_on_exec_and_hear_each_other(calls: ModuleType, kind: int) -> None:
    ours, theirs = pair(calls, kind)
    assert not os.get_inheritable(ours) and not os.get_inheritable(theirs)
    os.write(ours, b"word")
    assert os.read(theirs, 10) == b"word"
    os.close(ours)
    assert os.read(theirs, 10) == b""
    os.close(theirs)
    with pytest.raises(OSError):
        calls.socketpair(99)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_descriptors_that_are_handed_over_arrive_closed_on_exec(calls: ModuleType, count: int) -> None:
    ours, theirs = pair(calls)
    null = os.open(os.devnull, os.O_RDONLY)
    opened = len(held_descriptors())
    with socket.socket(fileno=os.dup(theirs)) as sender:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null] * count))] if count else []
        sender.sendmsg([b"x"], rights)
    received, more = calls.receive(ours, 4)
    assert len(received) == min(count, 4) and more == (count > 4)
    assert all(os.path.sameopenfile(fd, null) and not os.get_inheritable(fd) for fd in received)
    assert len(held_descriptors()) == opened + len(received)
    for fd in (ours, theirs, null, *received):
        os.close(fd)


def test_at_the_end_of_a_channel_nothing_is_received(calls: ModuleType) -> None:
    ours, theirs = pair(calls)
    os.close(theirs)
    assert calls.receive(ours, 4) == ([], False)
    os.close(ours)
    with pytest.raises(OSError):
        calls.receive(ours, 4)


def test_room_for_none_or_for_very_many_is_refused() -> None:
    for most in (0, -1, 65):
        with pytest.raises(ValueError):
            _native.receive(0, most)


def test_locks_of_many_files_are_asked_for_at_once(calls: ModuleType, tmp_path: Path) -> None:
    names = ("free", "shared", "exclusive", "a directory without one", "nothing")
    held = []
    for name, how in (("free", 0), ("shared", LOCK_SH), ("exclusive", LOCK_EX)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        if how:
            held.append(os.open(tmp_path / name / "lock", os.O_RDWR))
            fcntl.flock(held[-1], how)
    (tmp_path / "a directory without one").mkdir()
    place = os.open(tmp_path, os.O_PATH)
    before = held_descriptors()
    asked = [name.encode() for name in names]
    for _ in range(2):  # nothing is held by having been asked for
        assert calls.locked(place, asked, b"lock") == [False, False, True, None, None]
    fcntl.flock(held[0], LOCK_EX | LOCK_NB)
    assert calls.locked(place, asked, b"lock") == [False, True, True, None, None]
    assert calls.locked(place, [], b"lock") == []
    assert held_descriptors() == before
    for descriptor in (place, *held):
        os.close(descriptor)


def test_locks_of_hundreds_are_asked_for(calls: ModuleType, tmp_path: Path) -> None:
    """So many that two threads ask."""
    names, held = [], []
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        names.append(str(number).encode())
        if number % 3:
            (tmp_path / str(number) / "lock").touch()
        if number % 3 == 1:
            held.append(os.open(tmp_path / str(number) / "lock", os.O_RDWR | os.O_CLOEXEC))
            fcntl.flock(held[-1], LOCK_EX)
    place = os.open(tmp_path, os.O_PATH)
    before = held_descriptors()
    for _ in range(2):
        assert calls.locked(place, names, b"lock") == [None, True, False] * 100
    assert held_descriptors() == before
    for descriptor in (place, *held):
        os.close(descriptor)


def test_a_lock_that_cannot_be_asked_for_is_an_error(calls: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lock").symlink_to("elsewhere")
    (tmp_path / "file").touch()
    place = os.open(tmp_path, os.O_PATH)
    before = held_descriptors()
    for name, why in ((b"a", errno.ELOOP), (b"file", errno.ENOTDIR), (b"n" * 300, errno.ENAMETOOLONG)):
        with pytest.raises(OSError) as caught:
            calls.locked(place, [name], b"lock")
        assert caught.value.errno == why and os.fsencode(caught.value.filename).startswith(name[:99])
    assert held_descriptors() == before
    os.close(place)
    for wrong in (["a"], [None]):
        with pytest.raises(TypeError):
            calls.locked(place, wrong, b"lock")
