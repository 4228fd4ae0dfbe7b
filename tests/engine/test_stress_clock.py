"""A clock that jumps by years while containers live: nothing ends early, hangs, is lost or comes in another order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from lamina import Engine
from support.clock import YEAR, Clock, environment
from support.lives import Command, said, until
from support.sources import REPOSITORY
from support.terminal import lamina as words_of

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]


@pytest.fixture
def clock(tmp_path: Path) -> Iterator[Clock]:
    found = Clock(tmp_path / "clock")
    yield found
    found.close()


def test_the_clock_is_what_we_say(clock: Clock) -> None:
    """Or everything below would test nothing."""
    code = "import time; print(time.time_ns() // 10**9, int(time.time()), int(time.monotonic()))"
    seen = []
    for offset in (0, 10 * YEAR):
        clock.jump(offset)
        words = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(words, env=environment(clock), capture_output=True, text=True, check=True)
        seen.append([int(word) for word in done.stdout.split()])
    assert seen[1][0] - seen[0][0] >= 10 * YEAR
    assert seen[1][1] - seen[0][1] >= 10 * YEAR
    assert seen[1][2] - seen[0][2] < YEAR


@pytest.mark.parametrize("seed", [1, 2])
def test_all_verbs_while_it_jumps(engine: Engine, clock: Clock, seed: int) -> None:
    over = threading.Event()
    words = [sys.executable, "-m", "support.stress", str(seed), "1", "40", " ".join(words_of()), ""]
    with ThreadPoolExecutor(1) as pool:
        dancing = pool.submit(clock.dance, Random(seed), over)
        try:
            done = subprocess.run(
                words, cwd=REPOSITORY / "tests", env=environment(clock), capture_output=True, text=True,
                timeout=280,
            )  # fmt: skip
        finally:
            over.set()
        assert dancing.result() > 3
    *complaints, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (complaints, last["done"], done.returncode, done.stderr) == ([], 40, 0, "")


@pytest.mark.parametrize("offset", [-20 * YEAR, 20 * YEAR])
def test_it_is_restarted_after_the_same_pauses(
    engine: Engine, lamina: Command, clock: Clock, offset: int
) -> None:
    env = environment(clock)
    words = ["--restart", "on-failure:3", "--name", "box", "tiny", "sh", "-c", "echo x; exit 7"]
    assert lamina("run", "-d", *words, env=env).returncode == 0
    clock.jump(offset)
    assert lamina("wait", "box", env=env).stdout == "7\n"
    box = engine.container("box")
    until(lambda: box.state == "exited")
    assert (said(box), box.restarts) == (b"x\n" * 4, 3)


@pytest.mark.parametrize("offset", [-20 * YEAR, 20 * YEAR])
def test_timeouts_and_patience_are_not_cut_short(
    engine: Engine, lamina: Command, clock: Clock, offset: int
) -> None:
    """A container that says goodbye has the time to do so, and one that may run for long does."""
    env = environment(clock)
    script = "trap 'sleep 0.3; echo bye; exit 4' TERM; echo up; while :; do sleep 0.05; done"
    words = ["--timeout", "3600", "--name", "box", "tiny", "sh", "-c", script]
    assert lamina("run", "-d", *words, env=env).returncode == 0
    box = engine.container("box")
    until(lambda: said(box) == b"up\n")
    clock.jump(offset)
    assert box.state == "running"
    assert lamina("ps", env=env).stdout.count("box") == 1
    assert lamina("stop", "-t", "100", "box", env=env).returncode == 0
    assert (box.exit_code, said(box), box.inspect()["State"].get("TimedOut")) == (4, b"up\nbye\n", False)


@pytest.mark.parametrize("driver", ["local", "json-file", "k8s-file"])
def test_a_log_stays_in_its_order(
    engine: Engine, lamina: Command, clock: Clock, driver: str, tmp_path: Path
) -> None:
    env, place = environment(clock), tmp_path / "place"
    place.mkdir()
    os.mkfifo(place / "go")
    script = "exec 3<>/place/go; for n in 1 2 3 4 5 6; do read line <&3; echo $line; done"
    words = ["-v", f"{place}:/place", "--log-driver", driver, "--name", "box", "tiny", "sh", "-c", script]
    assert lamina("run", "-d", *words, env=env).returncode == 0
    box = engine.container("box")
    for number, offset in enumerate((0, 20 * YEAR, -20 * YEAR, 0, 3600, -3600)):
        clock.jump(offset)
        (place / "go").write_text(f"{number}\n")
        until(lambda: said(box).split()[-1:] == [b"%d" % number])  # noqa: B023
    box.wait()
    assert lamina("logs", "box", env=env).stdout.split() == ["0", "1", "2", "3", "4", "5"]
    assert lamina("logs", "-f", "--tail", "2", "box", env=env).stdout.split() == ["4", "5"]
    until(lambda: box.state == "exited")
    assert lamina("ps", "-a", env=env).stdout.count("Exited (0)") == 1
