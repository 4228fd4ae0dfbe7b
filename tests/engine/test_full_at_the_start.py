"""A disk that is full just when somebody begins to look after a container, or its end is to be written down."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from errno import ENOSPC
from typing import Any

import pytest

from lamina import Container, Engine
from lamina.engine.health import results
from lamina.engine.supervising import Supervisor
from lamina.errors import KernelError
from lamina.store.containers import Home
from support.lives import is_gone, kill_supervisor, state_of, until

pytestmark = pytest.mark.root


def full(*_: object) -> None:
    raise KernelError("write record", ENOSPC)


def supervised(box: Container, work: Callable[[Supervisor], None]) -> None:
    """Do *work* as its supervisor, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            work(Supervisor(box.store, box.id))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_one_that_was_to_be_removed_at_its_end_is_removed(engine: Engine) -> None:
    box = engine.create("host", ["sleep", "600"], rm=True)

    def work(supervisor: Supervisor) -> None:
        supervisor._begin_health = full  # type: ignore[method-assign]
        with pytest.raises(KernelError) as raised:
            supervisor.start()
        supervisor.abandon(raised.value)
        assert not getattr(raised.value, "__notes__", ())

    supervised(box, work)
    assert engine.containers(all=True) == []


def test_a_start_that_is_tried_again_does_not_leave_one_running(engine: Engine) -> None:
    script = "test -e /var/ran && exec sleep 600; touch /var/ran; exit 3"
    box = engine.create("host", ["sh", "-c", script], restart="on-failure:1")

    def work(supervisor: Supervisor) -> None:
        supervisor.start()
        supervisor._begin_health = full  # type: ignore[method-assign]
        supervisor.run()
        assert supervisor.process is None

    supervised(box, work)
    assert is_gone(int(state_of(box)["pid"]))
    assert box.state == "exited"
    assert not box._home.is_looked_after()


def test_a_health_that_cannot_be_begun_is_none_that_was(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = engine.create("host", ["sleep", "600"], health_cmd="true", health_on_failure="kill")

    def work(supervisor: Supervisor) -> None:
        supervisor.start()
        box._home.write("health", {"status": results.UNHEALTHY, "streak": 3, "log": []})
        results.begin = full  # type: ignore[assignment]
        supervisor._begin_health()
        assert not results.read(box._home)
        supervisor.abandon(KernelError("end", 5))

    supervised(box, work)
    assert box.state == "exited"


def test_one_that_cannot_be_adopted_lives_on(engine: Engine) -> None:
    box = engine.start("host", ["sleep", "600"])
    pid = int(state_of(box)["pid"])
    kill_supervisor(box)

    def work(supervisor: Supervisor) -> None:
        Home.write = full  # type: ignore[assignment,method-assign]
        with pytest.raises(KernelError) as raised:
            supervisor.adopt()
        supervisor.abandon(raised.value)

    supervised(box, work)
    assert not is_gone(pid)
    assert engine.container(box.id).state == "running"  # where there is room again, somebody looks after it
    until(box._home.is_looked_after)


def test_one_whose_end_cannot_be_written_down_has_not_succeeded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = engine.start("host", ["sleep", "600"])
    pid = int(state_of(box)["pid"])
    kill_supervisor(box)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))  # a zombie would still be adopted
    write = Home.write

    def fails(home: Home, name: str, content: dict[str, Any]) -> None:
        (full if name == "exit" else write)(home, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Home, "write", fails)
        assert box.wait() == 255
    assert engine.container(box.id).exit_code == 255
