"""With hardly any descriptors left (`ulimit -n 8`) a verb says so, and what to do; `--rm` leaves nothing behind."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.small_images import small_image

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox")]

Lamina = Callable[..., "subprocess.CompletedProcess[str]"]
LINES = {
    "run": ["run", "--rm", "tiny", "true"],
    "run -d": ["run", "-d", "--rm", "tiny", "true"],
    "exec": ["exec", "lives", "true"],
    "exec -t": ["exec", "-t", "lives", "true"],
    "exec -d": ["exec", "-d", "lives", "true"],
    "start": ["start", "made"],
    "cp": ["cp", "lives:/etc/group", "-"],
    "ps": ["ps", "-a"],
}


@pytest.fixture
def lives(lamina: Lamina, store_root: Path) -> Iterator[None]:
    small_image(store_root)
    lamina("run", "-d", "--name", "lives", "tiny", "sleep", "1000", check=True)
    try:
        yield
    finally:
        lamina("rm", "-f", "lives")


@pytest.mark.parametrize("most", [6, 8, 10, 11, 12, 16])
def test_it_says_so_and_leaves_nothing(most: int, lamina: Lamina, lives: None) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def names() -> list[str]:
        return sorted(lamina("ps", "-a", "--format", "{{.Names}}", check=True).stdout.split())

    lamina("create", "--rm", "--name", "made", "tiny", "true", check=True)
    for verb, line in LINES.items():
        before = names()
        done = lamina(*line, preexec_fn=few, errors="replace")
        if done.returncode:
            said = done.stderr
            assert done.returncode in (1, 125), (verb, said)
            assert "too many open files" in said.lower() or "limit of open files" in said, (verb, said)
            assert "\nhint: " in said and "ulimit -" in said, (verb, said)
            assert "internal error" not in said and "Traceback" not in said, (verb, said)
        left = set(names()) - set(before)
        assert not left, (verb, done.stderr, left)
    assert names() == ["lives"]
