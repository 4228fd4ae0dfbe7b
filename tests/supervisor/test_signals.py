"""Signals reach the container, and do there what they would do to an ordinary process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lamina.errors import InvalidInput
from lamina.supervisor.foreground import Ended, attend
from lamina.supervisor.signals import (
    BLOCKED,
    DEFAULT,
    FORWARDED,
    HANDLED,
    PENDING,
    Catcher,
    Deliverer,
    Undisturbed,
    standing,
)
from lamina.supervisor.stdio import DEVNULL, PIPE, Stdio
from support.lives import until
from support.process import FakeContainer

READY = "import os, signal, time\n{}\nos.write(1, b'r')\nwhile True: time.sleep(60)\n"


@pytest.fixture
def ready() -> Iterator[Callable[..., FakeContainer]]:
    """A process that has said that it is set up."""
    started: list[FakeContainer] = []

    def start(setup: str = "pass") -> FakeContainer:
        reader, writer = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        container = FakeContainer(
            [sys.executable, "-I", "-S", "-c", READY.format(setup)], (null, writer, null)
        )
        started.append(container)
        assert os.read(reader, 1) == b"r"
        for fd in (reader, writer, null):
            os.close(fd)
        return container

    yield start
    for container in started:
        container.close()


SETUPS = {
    "handled": "signal.signal(signal.SIGTERM, lambda *a: os._exit(42))",
    "ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
}


@pytest.mark.parametrize("how", SETUPS)
def test_what_a_process_does_about_a_signal_is_seen(ready: Callable[..., FakeContainer], how: str) -> None:
    container = ready(SETUPS[how])
    assert standing(container.pid, signal.SIGTERM) == (BLOCKED if how == "blocked" else HANDLED)
    assert standing(container.pid, signal.SIGUSR1) == DEFAULT
    deliverer = Deliverer(container)
    deliverer.send(signal.SIGTERM)
    if how == "handled":
        assert container.wait() == 42
    else:
        assert container.process.poll() is None
    assert deliverer.carried_out is None
    assert deliverer.unsure == ({signal.SIGTERM} if how == "blocked" else set())


@pytest.mark.root
def test_a_process_with_many_groups_is_asked_to_end_and_not_killed(
    ready: Callable[..., FakeContainer],
) -> None:
    """In /proc/PID/status all groups come before the signals: with 2,000 of them, after 10 KiB."""
    container = ready(f"os.setgroups(range(10000, 12000)); {SETUPS['handled']}")
    assert standing(container.pid, signal.SIGTERM) == HANDLED
    Deliverer(container).send(signal.SIGTERM)
    assert container.wait() == 42


@pytest.mark.parametrize("number", FORWARDED)
def test_the_default_action_is_carried_out(ready: Callable[..., FakeContainer], number: int) -> None:
    container = ready("signal.signal(signal.SIGINT, signal.SIG_DFL)")
    deliverer = Deliverer(container)
    deliverer.send(number)
    assert deliverer.carried_out == number
    assert container.wait() == 128 + signal.SIGKILL


class Protected:
    """The first process of a pid namespace, as the kernel protects it: told, but not ended."""

    def __init__(self, container: FakeContainer) -> None:
        self.pid = container.pid
        self.got: list[int] = []

    def kill(self, number: int) -> None:
        self.got.append(number)


WAITED_FOR = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
import threading
threading.Thread(target=lambda: (signal.sigwait([signal.SIGTERM]), time.sleep(60)), daemon=True).start()
"""


def test_a_signal_that_was_held_back_for_a_moment_and_dropped(ready: Callable[..., FakeContainer]) -> None:
    """As by a shell while it forks: it is let through later, to nobody."""
    container = ready("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])")
    process = Protected(container)
    deliverer = Deliverer(process)
    deliverer.send(signal.SIGTERM)
    deliverer.look_again()
    assert (process.got, deliverer.unsure) == ([signal.SIGTERM], set()), (
        "blocked, and nothing waits: it was taken"
    )
    deliverer.unsure.add(signal.SIGUSR1)  # was blocked when it was sent, and is not any more
    deliverer.look_again()
    assert (process.got[-1], deliverer.carried_out) == (signal.SIGKILL, signal.SIGUSR1)


def test_a_signal_that_is_waited_for_is_left_alone(ready: Callable[..., FakeContainer]) -> None:
    container = ready(WAITED_FOR)
    deliverer = Deliverer(container)
    deliverer.send(signal.SIGTERM)
    assert deliverer.unsure == {signal.SIGTERM}
    end = time.monotonic() + 100
    while deliverer.unsure and time.monotonic() < end:
        deliverer.look_again()
        time.sleep(0.01)
    assert not deliverer.unsure
    assert deliverer.carried_out is None
    assert container.process.poll() is None


def test_a_signal_that_stays_pending_is_looked_at_again(ready: Callable[..., FakeContainer]) -> None:
    container = ready("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])")
    deliverer = Deliverer(container)
    deliverer.send(signal.SIGTERM)
    assert standing(container.pid, signal.SIGTERM) == PENDING
    for _ in range(3):
        deliverer.look_again()
    assert deliverer.unsure == {signal.SIGTERM}
    assert container.process.poll() is None


def test_a_signal_whose_default_is_nothing_does_nothing(ready: Callable[..., FakeContainer]) -> None:
    container = ready()
    deliverer = Deliverer(container)
    deliverer.send(signal.SIGWINCH)
    assert deliverer.carried_out is None
    assert container.process.poll() is None


def test_a_process_that_is_gone_is_no_error(ready: Callable[..., FakeContainer]) -> None:
    container = ready()
    container.process.kill()
    container.process.wait()
    deliverer = Deliverer(container)
    deliverer.send(signal.SIGTERM)
    deliverer.send(signal.SIGWINCH)
    assert (deliverer.carried_out, deliverer.unsure) == (None, set())


# -- catching


def test_a_caught_signal_ends_a_container_with_the_signals_status() -> None:
    stdio = Stdio(DEVNULL, DEVNULL, DEVNULL)
    container = FakeContainer(["sleep", "60"], stdio.child)
    stdio.started(None)
    catcher = Catcher()
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert attend(container, stdio, catcher=catcher) == Ended(128 + signal.SIGTERM)
    finally:
        catcher.close()
        container.close()
        stdio.close()


def test_a_container_that_handles_it_decides_itself() -> None:
    stdio = Stdio(DEVNULL, PIPE, DEVNULL)
    code = "import os, signal, time; signal.signal(15, lambda *a: os._exit(42)); os.write(1, b'r'); time.sleep(60)"
    container = FakeContainer([sys.executable, "-I", "-S", "-c", code], stdio.child)
    stdio.started(None)
    catcher = Catcher()

    def send() -> None:
        while not stdio.captured(1):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        threading.Thread(target=send).start()
        assert attend(container, stdio, catcher=catcher) == Ended(42)
    finally:
        catcher.close()
        container.close()
        stdio.close()


def test_handlers_are_put_back() -> None:
    def mine(*_: object) -> None:
        raise AssertionError

    before = signal.signal(signal.SIGUSR1, mine)
    wakeup = signal.set_wakeup_fd(-1)
    try:
        catcher = Catcher()
        assert signal.getsignal(signal.SIGUSR1) is not mine
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0)
        assert catcher.take() == bytes([signal.SIGUSR1])
        assert catcher.take() == b""
        catcher.close()
        catcher.close()
        assert signal.getsignal(signal.SIGUSR1) is mine
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.set_wakeup_fd(wakeup)


def test_what_the_caller_ignores_stays_ignored() -> None:
    """nohup, and the background jobs of a shell."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        catcher = Catcher()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        catcher.close()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_the_main_thread_can_catch() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            Catcher()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert isinstance(raised[0], InvalidInput)


def test_a_slow_consumer_does_not_hold_up_who_wants_to_leave() -> None:
    """The container has ended, its output waits for a reader that does not read; the second Ctrl-C ends the waiting."""
    code = """if True:
        import os, sys, threading, time
        from lamina.supervisor.foreground import attend
        from lamina.supervisor.logs.frames import LogWriter
        from lamina.supervisor.signals import Catcher
        from lamina.supervisor.stdio import DEVNULL, Stdio
        from support.process import FakeContainer
        log = LogWriter(os.fsencode(sys.argv[1]))
        stdio = Stdio(DEVNULL, None, DEVNULL, log=log)
        container = FakeContainer(["head", "-c", "100000", "/dev/zero"], stdio.child)
        stdio.started(None)
        catcher = Catcher()
        ended = attend(container, stdio, catcher=catcher)
        os.write(2, b"ended %d" % ended.status)
    """
    import tempfile

    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen(
            [sys.executable, "-c", code, directory + "/log"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.environ["PYTHONPATH"] + os.pathsep + tests},
        )
        try:
            log = directory + "/log"
            while not os.path.exists(log) or os.path.getsize(log) < 60_000:
                assert process.poll() is None, process.communicate()
                time.sleep(0.02)
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            assert process.stderr.read() in (b"ended 0", b"ended 143")
        finally:
            process.kill()
            process.communicate()


# -- undisturbed


class Raised(Exception):
    """What a handler raises."""


@pytest.fixture
def raising() -> Iterator[list[int]]:
    """Handlers for two signals that note their number and raise."""
    called: list[int] = []

    def handler(number: int, frame: object) -> None:
        called.append(number)
        raise Raised

    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, handler) for number in numbers]
    yield called
    for number, old in zip(numbers, before, strict=True):
        signal.signal(number, old)


def test_handlers_wait_until_what_was_begun_is_noted(raising: list[int]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    noted = []
    with pytest.raises(Raised), Undisturbed():
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        noted.append(True)
    assert noted == [True]
    assert raising == [signal.SIGUSR1, signal.SIGUSR2]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_in_a_program_with_threads_as_well(raising: list[int]) -> None:
    """The kernel may give the signal to any of them, Python calls the handler in the main one."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    noted = []
    try:
        undisturbed = Undisturbed()
        with pytest.raises(Raised), undisturbed:
            assert thread.ident is not None
            signal.pthread_kill(thread.ident, signal.SIGUSR1)
            until(lambda: undisturbed._arrived)  # that thread may not get a processor at once
            noted.append(True)
    finally:
        stop.set()
        thread.join()
    assert (noted, raising) == ([True], [signal.SIGUSR1])


def test_another_thread_has_nothing_to_wait_for(raising: list[int]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    found = []

    def work() -> None:
        with Undisturbed():
            found.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_nothing_is_lost_when_the_work_fails(raising: list[int]) -> None:
    with pytest.raises(Raised) as raised, Undisturbed():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
        raise ZeroDivisionError
    assert isinstance(raised.value.__context__, ZeroDivisionError)
    assert raising == [signal.SIGUSR1]
