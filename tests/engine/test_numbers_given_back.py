"""A descriptor that was closed is a number, and soon somebody else's: nobody is sent a signal by it, or reaped."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from errno import ENOSPC
from pathlib import Path
from typing import Any

import pytest

from lamina import Engine
from lamina.engine import executing
from lamina.engine.popen import Attended
from lamina.errors import KernelError
from lamina.linux.fd import Fd
from lamina.runtime.container.further import Joined
from lamina.runtime.launch import Running
from lamina.store.containers import Home
from support.leaks import Leaks
from support.small_images import small_image


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait()


def ended() -> tuple[int, Fd]:
    child = os.posix_spawn("/bin/true", ["true"], {})
    return child, Fd(os.pidfd_open(child))


def takes(number: int, bystander: subprocess.Popen[bytes]) -> Fd:
    """The number is the *bystander*'s from now on."""
    found = Fd(os.pidfd_open(bystander.pid))
    if found != number:
        with found:
            os.dup2(found, number, inheritable=False)
        return Fd(number)
    return found


@pytest.mark.parametrize("kind", ["first", "further"])
def test_who_has_ended_is_sent_nothing(kind: str, bystander: subprocess.Popen[bytes]) -> None:
    pid, pidfd = ended()
    first, further = Running(pid, pidfd, None, None, ()), executing.Execution(Joined(pid, pidfd), None)
    process = first if kind == "first" else further
    assert process.wait() == 0
    process.close()
    with takes(int(pidfd), bystander):
        process.kill(9)
    with pytest.raises(subprocess.TimeoutExpired):
        bystander.wait(0.2)


def test_a_signal_waits_for_who_lets_go_of_the_process() -> None:
    """A thread that reaps and closes, and one that sends, are never in each other's way."""
    sent: list[int] = []
    body = Attended("box", 1, sent.append)
    body.send(15)
    letting_go, closed = threading.Event(), threading.Event()

    def close() -> None:
        letting_go.set()
        closed.wait(100)

    thread = threading.Thread(target=body.let_go, args=(close,))
    thread.start()
    letting_go.wait(100)
    sender = threading.Thread(target=body.send, args=(9,))
    sender.start()
    sender.join(0.2)
    assert sender.is_alive() and sent == [15]
    closed.set()
    for one in (thread, sender):
        one.join(100)
    assert sent == [15]


def test_two_threads_that_reap_reap_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    children = [ended() for _ in range(3)]
    for _, pidfd in children:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    monkeypatch.setattr(executing, "_left", [pidfd for _, pidfd in children])
    waitid = os.waitid
    failures: list[BaseException] = []
    threads: list[threading.Thread] = []

    def other() -> None:
        try:
            executing.reap_left()
        except BaseException as failure:
            failures.append(failure)

    def slow(*words: Any) -> Any:
        if not threads:  # another thread comes in here
            threads.append(threading.Thread(target=other))
            threads[0].start()
            threads[0].join(0.5)
        return waitid(*words)

    monkeypatch.setattr(os, "waitid", slow)
    assert not executing.reap_left()
    threads[0].join(100)
    assert not failures
    for pid, _ in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_an_end_that_cannot_be_written_down_harms_nobody(
    store_root: Path,
    untouched_host: Leaks,
    monkeypatch: pytest.MonkeyPatch,
    bystander: subprocess.Popen[bytes],
) -> None:
    """The disk is full when the container has ended, and other threads of the program go on opening files."""
    small_image(store_root)
    engine = Engine(store_root)
    write, close = Home.write, Running.close
    numbers: list[int] = []

    def full(home: Home, name: str, content: dict[str, Any]) -> None:
        if name == "exit" and len(numbers) == 1:
            numbers.append(takes(numbers[0], bystander).steal())
            raise KernelError("write record", ENOSPC)
        write(home, name, content)

    def closing(running: Running) -> None:
        if not numbers:
            numbers.append(int(running.pidfd))
        close(running)

    monkeypatch.setattr(Home, "write", full)
    monkeypatch.setattr(Running, "close", closing)
    with pytest.raises(KernelError, match="No space") as raised:
        engine.run("tiny", ["sh", "-c", "exit 3"], name="box")
    os.close(numbers[1])
    assert not getattr(raised.value, "__notes__", ())
    with pytest.raises(subprocess.TimeoutExpired):
        bystander.wait(0.2)
    assert engine.container("box").wait() == 3
    engine.container("box").remove()


@pytest.mark.root
@pytest.mark.peer("busybox")
def test_an_end_is_written_down_though_its_groups_do_not_go(
    store_root: Path, untouched_host: Leaks, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_image(store_root)
    engine = Engine(store_root)
    close = Running.close

    def closing(running: Running) -> None:
        close(running)
        raise KernelError("rmdir", 16, "/sys/fs/cgroup/box")

    monkeypatch.setattr(Running, "close", closing)
    with pytest.raises(KernelError, match="rmdir"):
        engine.run("tiny", ["sh", "-c", "exit 3"], name="box")
    assert engine.container("box").state == "exited"
    assert engine.container("box").wait() == 3
    engine.container("box").remove()
