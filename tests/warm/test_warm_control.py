"""Warm processes that leave while somebody looks at them, or ends them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.warm import control, place

NAME = "0123456789abcdef"


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """What looks like a warm process: somebody holds its lock."""
    directory = tmp_path / "lamina"
    directory.mkdir(0o700)
    monkeypatch.setattr(place, "directory", lambda environment: str(directory))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    with (directory / f"{NAME}.lock").open("w") as lock:
        print(child.pid, file=lock, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield child
    child.kill()
    child.wait()


def leaving(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, *, lock: bool) -> None:
    """Have it end when its lock has been looked at; with its *lock*, or as one that was killed."""
    is_locked = place.is_locked

    def look(at: int, name: str) -> bool:
        found = is_locked(at, name)
        process.kill()
        process.wait()
        if lock:
            os.unlink(f"{name}.lock", dir_fd=at)
        return found

    monkeypatch.setattr(place, "is_locked", look)


def test_one_that_lives_is_ended(process: subprocess.Popen[bytes]) -> None:
    assert [found.pid for found in control.living({})] == [process.pid]
    assert control.end_all({}) == 1
    assert process.wait() < 0


@pytest.mark.parametrize("lock", [True, False])
def test_one_that_leaves_is_no_error(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, lock: bool
) -> None:
    leaving(process, monkeypatch, lock=lock)
    assert control.end_all({}) == 0
