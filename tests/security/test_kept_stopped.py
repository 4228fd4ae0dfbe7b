"""A process that joins namespaces may be stopped or traced there by others: it is told to go on, and given up in the
end; and its own end is seen.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.errors import Conflict
from lamina.linux import runner
from lamina.linux.program import Reg, Step
from lamina.runtime import launch as launching
from lamina.runtime import traced
from lamina.runtime.bundle import Bundle
from lamina.runtime.container.birth import Birth
from lamina.runtime.container.compiling import packed
from lamina.runtime.container.recipe import Recipe
from lamina.runtime.launch import _Start
from lamina.runtime.plan import Plan
from lamina.runtime.plan.created import birth_steps, say_step
from lamina.runtime.talk import PID, Numbers
from lamina.runtime.waits import Watch, end_of, reap
from lamina.values import replace
from support.bundles import over_host, small
from support.process import children
from support.starting import run, waiting

PTRACE_SEIZE = 0x4206
ME = Reg("me")
STOP = [Step("getpid", save=ME), Step("kill", ME, signal.SIGSTOP, note="as somebody in the namespace might")]


@pytest.fixture
def birth(monkeypatch: pytest.MonkeyPatch) -> Iterator[Birth]:
    monkeypatch.setattr(Watch, "look", 0.05)
    monkeypatch.setattr(Watch, "patience", 100.0)
    one = Birth(Numbers())
    yield one
    one.abandon()


def begin(birth: Birth, steps: list[Step], *, elsewhere: bool = False) -> None:
    making, first = packed(steps, birth.shape, own=0)
    birth.begin(Recipe({**making, "elsewhere": elsewhere}), lambda: (first, steps))


def test_one_that_is_stopped_once_goes_on(birth: Birth) -> None:
    begin(birth, [*STOP, say_step(birth.numbers, b"!", "that it goes on"), Step("exit_group", 7)])
    assert birth.hear().what == b"!"
    assert birth.pidfd is not None
    assert reap(birth.pidfd) == 7


def test_one_that_is_stopped_again_and_again_is_given_up(birth: Birth) -> None:
    begin(birth, [*STOP * 200, Step("exit_group", 7)])
    with pytest.raises(Conflict, match="keeps it stopped"):
        birth.hear()
    pid = birth.pid
    birth.abandon()
    assert not os.path.exists(f"/proc/{pid}")


def test_one_that_is_stopped_before_it_could_say_who_it_is(
    birth: Birth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And when somebody lets it go on later, it finds nobody to say it to, and ends before it executes anything."""
    monkeypatch.setattr(Watch, "patience", 1.0)  # which is what it takes
    *born, who = birth_steps(birth.numbers)
    assert who.args[1] == PID
    tail = [*STOP, who, Step("exit_group", 0)]
    begin(birth, [*born, *tail], elsewhere=True)
    with pytest.raises(Conflict, match="keeps it stopped"):
        birth.hear()
    birth.abandon()
    stopped = os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOWAIT)
    assert stopped is not None
    os.kill(stopped.si_pid, signal.SIGCONT)
    ended = os.waitid(os.P_PID, stopped.si_pid, os.WEXITED)
    assert ended is not None and ended.si_status != 0


def test_one_that_ends_before_it_could_say_who_it_is_is_reaped(birth: Birth) -> None:
    """As all of a pid namespace are killed whose first process is: that ends when the last of them has been reaped."""
    before = children()
    *born, _ = birth_steps(birth.numbers)
    begin(birth, [*born, Step("exit_group", 0)], elsewhere=True)
    assert birth.hear().what == b""
    assert children() - before
    birth.abandon()
    assert children() - before == set()


def test_one_that_somebody_else_traces_is_not_waited_for(
    birth: Birth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracer inside that never lets go: the runtime gives up, and does not wait for what is the tracer's to reap."""
    monkeypatch.setattr(Watch, "patience", 1.0)
    reader, writer = os.pipe()
    begin(birth, [Step("pause")])
    tracer = os.fork()
    if tracer == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        attached = libc.ptrace(16, birth.pid, None, None)
        os.write(writer, b"+" if attached == 0 else b"-")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"+"
        with pytest.raises(Conflict, match="keeps it stopped"):
            birth.hear()
        birth.abandon()
    finally:
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)
        os.close(reader)
        os.close(writer)
    os.waitpid(birth.pid, 0)


@pytest.mark.parametrize(("signal_number", "status"), [(0, 7), (signal.SIGKILL, 137)])
def test_the_end_of_one_that_somebody_else_traces_is_seen(
    monkeypatch: pytest.MonkeyPatch, signal_number: int, status: int
) -> None:
    """A tracer that never waits for it keeps waitid(2) from it for ever, and us from nothing."""
    monkeypatch.setattr(traced, "PATIENCE", 0.1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader, 1)
        os._exit(7)
    pidfd = os.pidfd_open(child)
    said, saying = os.pipe()
    tracer = os.fork()
    if tracer == 0:
        seized = ctypes.CDLL(None).ptrace(PTRACE_SEIZE, child, None, None)
        os.write(saying, b"+" if seized == 0 else b"-")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(said, 1) == b"+"
        if signal_number:
            os.kill(child, signal_number)
        else:
            os.write(writer, b".")
        assert end_of(pidfd) == status
    finally:
        os.kill(tracer, signal.SIGKILL)
        os.waitpid(tracer, 0)
        os.waitpid(child, 0)
        for fd in (reader, writer, said, saying, pidfd):
            os.close(fd)


# -- what `launch` starts in a pid namespace of others


class Stopping(_Start):
    """A start that stops itself, as others might, at these places of its plan."""

    before: int = 0
    after: int = 0

    def plan(self) -> Plan:
        compiled = super().plan()
        *steps, last = compiled.steps
        return replace(compiled, steps=(*STOP * self.before, *steps, *STOP * self.after, last))


@pytest.fixture
def joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bundle]:
    """A bundle that joins another container's pid namespace; `Stopping` says how it fares there."""
    monkeypatch.setattr(Watch, "look", 0.05)
    monkeypatch.setattr(Watch, "patience", 100.0)
    monkeypatch.setattr(launching, "_Start", Stopping)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with waiting(over_host(tmp_path / "one", small("/bin/cat"))) as other:
        spec = small("/bin/sh", "-c", "echo on")
        spec["linux"]["namespaces"] = [
            {"type": "mount"},
            {"type": "pid", "path": f"/proc/{other.pid}/ns/pid"},
        ]
        yield over_host(tmp_path / "two", spec)


@pytest.mark.root
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_launched_one_that_is_stopped_once_goes_on(
    joining: Bundle, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(Stopping, where, 1)
    assert run(joining) == (0, "on\n")


@pytest.mark.root
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_launched_one_that_is_stopped_again_and_again_is_given_up(
    joining: Bundle, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(Stopping, where, 200)
    before = children()
    with pytest.raises(Conflict, match="keeps it stopped"):
        run(joining)
    assert children() - before == set()  # what an earlier test left may go


def test_a_helper_that_is_stopped_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins namespaces that others are in, who may send it SIGSTOP as often as they like (linux/runner.py)."""
    monkeypatch.setattr(runner, "LOOK", 0.01)
    monkeypatch.setattr(runner, "LOOKS", 3)
    helper = os.fork()
    if helper == 0:
        while True:
            os.kill(os.getpid(), signal.SIGSTOP)
    with pytest.raises(TimeoutError, match="keeps the helper stopped"):
        runner._await(helper)
    with pytest.raises(ProcessLookupError):
        os.kill(helper, 0)


def test_a_helper_that_was_stopped_once_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK", 0.01)
    helper = os.fork()
    if helper == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    runner._await(helper)
