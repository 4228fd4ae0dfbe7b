"""How far apply, undo and a removal have got: told while they work, never backwards, and all of it in the end."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from lamina import Engine
from lamina.engine import progress as progress_module
from lamina.engine.progress import Meter, Progress
from support.hosts import Machine
from support.leaks import Leaks
from support.rootless import Rootless


@pytest.fixture(autouse=True)
def _told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "BETWEEN", 0)


def check(told: list[Progress], *, whole: bool = True) -> Progress:
    """The last word, after it was made sure that all before lead to it."""
    assert told
    for before, after in pairwise(told):
        assert after.paths >= before.paths
        assert after.bytes >= before.bytes
    last = told[-1]
    assert 0 <= last.paths <= last.of_paths
    if whole:
        assert (last.paths, last.bytes) == (last.of_paths, last.of_bytes)
        assert last.fraction == 1.0
    return last


def test_a_meter_never_tells_of_more_than_there_is() -> None:
    told: list[Progress] = []
    meter = Meter(told.append)
    meter.expect(2, 10)
    for _ in range(3):
        meter.path()
        meter.written(6)
    assert check(told) == Progress(2, 2, 10, 10)
    assert told[0] == Progress(0, 2, 0, 10)
    assert told[0].fraction == 0.0


def test_nothing_to_do_is_done() -> None:
    assert Progress(0, 0).fraction == 1.0


def test_not_every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "BETWEEN", 1000)
    told: list[Progress] = []
    meter = Meter(told.append)
    meter.expect(5)
    meter.path()
    assert told == [Progress(0, 5)]


@pytest.mark.root
def test_apply_and_undo(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("tree/a", "old")
    machine.write("gone/b", "old")

    def work() -> None:
        os.system(
            "rm -r gone; mkdir -p new/deep; echo x >new/deep/f; echo more >>tree/a; ln new/deep/f new/link"
        )
        with open("tree/sparse", "wb") as file:
            file.seek(5 << 20)
            file.write(b"x" * 5000)
        Path("tree/big").write_bytes(os.urandom(3 << 20))

    machine.run(work)
    told: list[Progress] = []
    machine.apply(progress=told.append)
    last = check(told)
    assert last.of_bytes > 8 << 20
    told.clear()
    machine.undo(progress=told.append)
    check(told, whole=False)
    assert told[-1].paths > 5


@pytest.mark.root
def test_a_removal(store_root: Path, untouched_host: Leaks) -> None:
    engine = Engine(store_root)
    script = "mkdir -p /srv/a/b/c; cd /srv/a; for i in $(seq 50); do echo >b/$i; done"
    engine.run("host", ["sh", "-c", script], name="x")
    told: list[Progress] = []
    engine.container("x").remove(progress=told.append)
    assert check(told, whole=False).of_paths > 54
    assert told[-1].paths >= 54


@pytest.mark.userns
def test_a_removal_without_root(rootless: Rootless) -> None:
    done = rootless.python(
        """
import os
from lamina import Engine
from lamina.engine import progress
progress.BETWEEN = 0
engine, told = Engine(), []
script = "cd $HOME; mkdir -m 700 a; touch a/1 a/2 a/3; mkdir -p m b; chown -R 7:7 a 2>/dev/null; chmod 0 m; touch b/1"
engine.run("host", ["sh", "-c", script], name="x", env=["HOME"])
engine.container("x").remove(progress=told.append)
assert told[-1].paths >= 6, told[-1]
assert all(a.paths <= b.paths for a, b in zip(told, told[1:]))
print("well")
"""
    )
    assert done.stdout == "well\n", done.stderr
