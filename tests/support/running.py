"""Containers that run while a test looks at them, by a `lamina run` in the foreground of a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina import Container, Engine
from lamina.errors import NotFound


@contextmanager
def running(
    engine: Engine, *words: str, image: str = "tiny", options: tuple[str, ...] = ()
) -> Iterator[Container]:
    """A container called `box` of *image* that executes *words* until the end of the block."""
    argv = [sys.executable, "-m", "lamina", "--root", str(engine.store.path, "utf-8"), "run", "--name", "box"]
    process = subprocess.Popen(
        [*argv, *options, image, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield wait_for(engine, process)
    finally:
        process.kill()
        process.wait()
        forget(engine)


def wait_for(engine: Engine, process: subprocess.Popen[Any], name: str = "box") -> Container:
    """The container *name*, once its command runs."""
    end = time.monotonic() + 100
    while True:
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end, "it does not start"
        try:
            found = engine.container(name)
            if found.state == "running":
                return found
        except NotFound:
            pass
        time.sleep(0.02)


def forget(engine: Engine, name: str = "box") -> None:
    """Remove the container, if it is still there."""
    try:
        engine.container(name).remove(force=True)
    except NotFound:
        pass


def first_pid(container: Container) -> int:
    """Its first process, as this machine counts."""
    return int(container.inspect()["State"]["Pid"])


def root_of(container: Container) -> Path:
    """What its first process has as its root."""
    return Path(f"/proc/{first_pid(container)}/root")
