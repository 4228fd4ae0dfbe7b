"""A disk that is full just when a container has been started by its supervisor."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import ENOSPC

import pytest

from lamina import Container, Engine
from lamina.engine.health import results
from lamina.engine.supervising import Supervisor
from lamina.errors import KernelError
from support.lives import is_gone, state_of

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
