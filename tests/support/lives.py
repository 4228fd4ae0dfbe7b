"""Containers that live by themselves: what tests ask of them and of their supervisors, and do to them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from lamina import Container, Engine
from support.terminal import lamina

Command = Callable[..., subprocess.CompletedProcess[str]]  # of the fixture `lamina`
Seen = TypeVar("Seen")


def until(condition: Callable[[], Seen], seconds: float = 100) -> Seen:
    """Not a measurement: what is waited for comes, or the test has failed. What *condition* saw then is returned: asked
    once more it may see something else.
    """
    end = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.01)
    return seen


def said(container: Container) -> bytes:
    """All that it wrote, as its log has it."""
    return b"".join(entry.data for entry in container.logs())


def place_of(container: Container) -> Path:
    """Its directory in the store."""
    return Path(os.fsdecode(container.store.containers), container.id)


def state_of(container: Container) -> dict[str, Any]:
    """The record `state` of one that was started."""
    state = container._home.read("state")
    assert state is not None
    return dict(state)


def supervisor_of(container: Container) -> int:
    """The process that looks after it, or the last that did."""
    return int(state_of(container)["supervisor"]["pid"])


def is_gone(pid: int) -> bool:
    """Whether nobody has that number, or only a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_supervisor(container: Container) -> None:
    """With SIGKILL; returns when it is dead. Who takes over holds the container before the record names him."""

    def living() -> int:
        pid = supervisor_of(container)
        return 0 if is_gone(pid) else pid

    pid = until(living)
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_gone(pid))


def remove_all(engine: Engine) -> None:
    """Every container, whatever it is doing."""
    for container in engine.containers(all=True):
        container.remove(force=True)


def await_burials() -> None:
    """Until the threads of this process have removed what containers wrote and nobody wants any more."""
    for thread in threading.enumerate():
        if thread.name == "lamina-bury":
            thread.join(200)
            assert not thread.is_alive(), "it removes for longer than anybody waits"


@contextlib.contextmanager
def command(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A `lamina` that runs meanwhile, with pipes; killed at the end of the block."""
    process = subprocess.Popen(
        lamina(*words),
        **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                with contextlib.suppress(BrokenPipeError):
                    file.close()
