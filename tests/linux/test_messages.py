"""Messages by sockets of this machine: the native extension's and the standard library's calls do the same."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from lamina.linux import _messages, messages
from lamina.linux.fd import Fd, owned
from lamina.linux.messages import MSG_DONTWAIT, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, socketpair
from support.held import held_descriptors

_native = pytest.importorskip("lamina.linux._native")
MOST = 64


@pytest.fixture(params=[_native, _messages], ids=["native", "standard library"])
def calls(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def pair() -> Iterator[tuple[Fd, Fd]]:
    ours, theirs = map(Fd, socketpair(SOCK_SEQPACKET))
    with ours, theirs:
        yield ours, theirs


def test_the_numbers_are_the_kernels() -> None:
    for name in ("SOCK_STREAM", "SOCK_DGRAM", "SOCK_SEQPACKET", "MSG_DONTWAIT", "SO_PASSCRED"):
        assert getattr(messages, name) == getattr(socket, name), name


def test_both_have_all_of_it() -> None:
    for name in _messages.__all__:
        assert callable(getattr(_native, name)) and getattr(messages, name) is getattr(_native, name)


def test_what_is_sent_is_received(calls: ModuleType, pair: tuple[Fd, Fd]) -> None:
    here, there = pair
    assert calls.send(here, b"one\0two") == 7
    assert calls.message(there, 64, 0) == (b"one\0two", None, None, None, False)
    assert calls.send(here, memoryview(b"longer than it takes")) == 20
    assert calls.message(there, 6, 0)[0] == b"longer"
    here.close()
    assert calls.message(there, 64, 4) == (b"", None, None, None, False)


@pytest.mark.parametrize("count", [1, 3, MOST])
def test_descriptors_come_closed_on_exec(calls: ModuleType, pair: tuple[Fd, Fd], count: int) -> None:
    here, there = pair
    reader, writer = map(Fd, os.pipe())
    with reader, writer:
        calls.send(here, b"x", (int(writer),) * count)
        _, rights, *_, missing = calls.message(there, 1, count)
        assert len(rights) == count and not missing
        for one in map(Fd, rights):
            assert os.path.sameopenfile(one, writer) and not os.get_inheritable(one)


@pytest.mark.parametrize("told", [False, True], ids=["from nobody", "from somebody"])
@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_more_descriptors_than_are_taken_are_missing_and_left_open_nowhere(
    calls: ModuleType, pair: tuple[Fd, Fd], most: int, told: bool
) -> None:
    """Also where they are few: there is room for who sent it, and the kernel fills it with descriptors."""
    here, there = pair
    if told:
        messages.have_told(there)
    before = held_descriptors()
    for sent in (most + 1, most + 2, 40):
        calls.send(here, b"x", (int(here),) * sent)
        data, rights, _, pidfd, missing = calls.message(there, 1, most)
        assert (data, missing) == (b"x", True)
        assert len(rights or ()) == most
        for one in (*(rights or ()), *(pidfd or ())):
            os.close(one)
    assert held_descriptors() == before


def test_who_sent_it_is_told(calls: ModuleType, pair: tuple[Fd, Fd]) -> None:
    here, there = pair
    calls.set_option(there, messages.SO_PASSCRED, 1)
    calls.send(here, b"x")
    _, _, credentials, pidfd, _ = calls.message(there, 1, 0)
    assert credentials == (os.getpid(), os.getuid(), os.getgid()) and pidfd is None


def test_a_sender_is_known_by_a_descriptor_too(pair: tuple[Fd, Fd]) -> None:
    here, there = pair
    messages.have_told(there)
    for calls in (_native, _messages):
        calls.send(here, b"x")
    for _ in range(2):
        one = messages.received(there, 1, 0)
        assert one.sender == (os.getpid(), os.getuid(), os.getgid())
        if one.pidfd is not None:  # since Linux 6.5
            signal.pidfd_send_signal(one.pidfd, 0)


def test_the_sender_of_what_comes_with_too_many_descriptors_is_not_known(pair: tuple[Fd, Fd]) -> None:
    here, there = pair
    messages.have_told(there)
    messages.send(here, b"x", (int(here),) * 40)
    found = messages.received(there, 1, 2)
    assert found.data == b"x" and found.sender is None


def test_flags_are_honoured(calls: ModuleType, pair: tuple[Fd, Fd]) -> None:
    with pytest.raises(BlockingIOError):
        calls.message(pair[1], 1, 0, MSG_DONTWAIT)


@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_DGRAM], ids=["stream", "datagrams"])
def test_places(calls: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    monkeypatch.chdir(tmp_path)
    with owned(calls.bound, kind, b"place") as there:
        assert not os.get_inheritable(there)
        if kind == SOCK_STREAM:
            with socket.socket(fileno=os.dup(there)) as end:
                end.listen()
        with owned(calls.connected, kind, b"place") as here:
            assert not os.get_inheritable(here)
            if kind == SOCK_DGRAM:
                calls.send(here, b"hello")
                assert calls.message(there, 64, 0)[0] == b"hello"
    with pytest.raises(OSError) as caught:
        calls.bound(kind, b"place")
    assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(FileNotFoundError):
        calls.connected(kind, b"elsewhere")


def test_what_fails_leaves_no_descriptor(calls: ModuleType, tmp_path: Path) -> None:
    before = held_descriptors()
    for attempt in (
        lambda: calls.connected(SOCK_DGRAM, os.fsencode(tmp_path / "nothing")),
        lambda: calls.bound(SOCK_DGRAM, os.fsencode(tmp_path / "no" / "place")),
        lambda: calls.bound(SOCK_DGRAM, b"/" + b"x" * 107),
        lambda: calls.connected(SOCK_DGRAM, b"in the\0middle"),
    ):
        with pytest.raises((OSError, ValueError)):
            attempt()
    assert held_descriptors() == before


@pytest.mark.parametrize(
    "attempt",
    [
        lambda calls, end: calls.bound(SOCK_DGRAM, b""),  # the name of a place that is none: anybody's
        lambda calls, end: calls.connected(SOCK_DGRAM, b""),
        lambda calls, end: calls.send(end, b"x", (int(end),) * (MOST + 1)),
        lambda calls, end: calls.message(end, 1, MOST + 1, MSG_DONTWAIT),
        lambda calls, end: calls.message(end, 1, -1, MSG_DONTWAIT),
        lambda calls, end: calls.message(end, -1, 0, MSG_DONTWAIT),
        lambda calls, end: calls.send(end, b"x", (1 << 32,)),  # not descriptor 0
        lambda calls, end: calls.send(end, b"x", (-(1 << 31) - 1,)),
        lambda calls, end: calls.send(end, b"x", (1 << 64,)),
        lambda calls, end: calls.send(end, b"x", ("1",)),
        lambda calls, end: calls.send(end, b"x", (1.0,)),
        lambda calls, end: calls.send(end, "x"),
    ],
)
def test_what_is_no_message_is_refused(
    attempt: Callable[[ModuleType, Fd], object], calls: ModuleType, pair: tuple[Fd, Fd]
) -> None:
    before = held_descriptors()
    with pytest.raises((ValueError, OverflowError, TypeError)):
        attempt(calls, pair[0])
    assert held_descriptors() == before
    with pytest.raises(BlockingIOError):  # nothing has gone
        calls.message(pair[1], 1, 0, MSG_DONTWAIT)


@pytest.mark.parametrize("blocks", [True, False])
def test_how_long_a_programs_own_sockets_wait_is_not_for_ours(
    calls: ModuleType, tmp_path: Path, blocks: bool
) -> None:
    here, there = map(Fd, socketpair(SOCK_STREAM))
    before = socket.getdefaulttimeout()
    place = os.fsencode(tmp_path / "place")
    with here, there:
        os.set_blocking(there, blocks)
        try:
            socket.setdefaulttimeout(0.01)
            made = [owned(calls.bound, SOCK_DGRAM, place), owned(calls.connected, SOCK_DGRAM, place)]
            calls.set_option(there, messages.SO_PASSCRED, 0)
            with pytest.raises(BlockingIOError):
                calls.message(there, 1, 0, MSG_DONTWAIT)
            speaker = threading.Timer(0.1, calls.send, (here, b"late"))
            speaker.start()
            if blocks:
                assert calls.message(there, 64, 0)[0] == b"late"
            speaker.join()
        finally:
            socket.setdefaulttimeout(before)
        assert [os.get_blocking(end) for end in (here, there, *made)] == [True, blocks, True, True]


def test_nobody_is_killed_who_speaks_to_nobody(calls: ModuleType) -> None:
    here, there = map(Fd, socketpair(SOCK_STREAM))
    there.close()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with here, pytest.raises(BrokenPipeError):
            calls.send(here, b"x")
    finally:
        signal.signal(signal.SIGPIPE, before)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda calls, end: calls.send(end, b"x", (-1,)),
        lambda calls, end: calls.message(end, 1, 0, MSG_DONTWAIT),
        lambda calls, end: calls.send(9_999, b"x"),
        lambda calls, end: calls.message(9_999, 1, 0),
        lambda calls, end: calls.set_option(9_999, messages.SO_PASSCRED, 1),
    ],
)
def test_failures_are_the_kernels(
    attempt: Callable[[ModuleType, Fd], object], calls: ModuleType, pair: tuple[Fd, Fd]
) -> None:
    with pytest.raises(OSError) as caught:
        attempt(calls, pair[0])
    assert caught.value.errno in (errno.EBADF, errno.EAGAIN)


def test_waiting_goes_on_after_a_signal(calls: ModuleType, pair: tuple[Fd, Fd]) -> None:
    here, there = pair
    seen: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))

    def later() -> None:
        while len(seen) < 3:
            pass
        calls.send(here, b"late")

    speaker = threading.Thread(target=later)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        speaker.start()
        assert calls.message(there, 64, 0)[0] == b"late"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        speaker.join()
    assert len(seen) >= 3


def test_a_signal_while_it_waits_to_be_heard_leaves_nobody_unconnected(
    calls: ModuleType, tmp_path: Path
) -> None:
    place = os.fsencode(tmp_path / "place")
    seen: list[int] = []
    accepted: list[socket.socket] = []
    with owned(calls.bound, SOCK_STREAM, place) as there, socket.socket(fileno=os.dup(there)) as listening:
        listening.listen(0)

        def later() -> None:
            while len(seen) < 3:
                time.sleep(0.001)
            with suppress(BlockingIOError):  # where it failed
                accepted.extend(listening.accept()[0] for _ in range(2))

        hearer = threading.Thread(target=later)
        before = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
        with owned(calls.connected, SOCK_STREAM, place):  # there is no room for another one
            try:
                hearer.start()
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                with owned(calls.connected, SOCK_STREAM, place) as here:
                    assert calls.send(here, b"x") == 1
            finally:
                seen.extend((0, 0, 0))
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
                listening.settimeout(0)
                hearer.join()
        assert [end.recv(1) for end in accepted] == [b"", b"x"]
        for end in accepted:
            end.close()
