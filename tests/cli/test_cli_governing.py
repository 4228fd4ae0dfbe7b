"""Verbs that look at what runs, and hold it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

pytestmark = pytest.mark.root

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def box(lamina: Lamina) -> Iterator[str]:
    ok(lamina("run", "-d", "--name", "box", "host", "--", "sh", "-c", "sleep 1000 & wait"))
    yield "box"
    ok(lamina("rm", "-f", "box"))


def test_pause_and_unpause(lamina: Lamina, box: str) -> None:
    assert ok(lamina("pause", box)) == "box\n"
    status = ok(lamina("ps", "--format", "{{.State}} {{.Status}}", "--filter", "status=paused"))
    assert status.startswith("paused Up ")
    assert status.endswith(" (Paused)\n")
    again = lamina("pause", "nosuch", box)
    assert again.returncode == 1
    assert "nosuch: no such container" in again.stderr
    assert "it is already paused" in again.stderr
    assert lamina("exec", box, "true").returncode == 125
    assert ok(lamina("container", "unpause", box)) == "box\n"
    refused = lamina("unpause", box)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "it is not paused" in refused.stderr
