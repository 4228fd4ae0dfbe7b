"""Killed at any moment, whoever it is: nothing is done twice, nothing stays, and who is told 0 got it done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.small_images import small_image
from support.warm import House, alive, until
from support.workers import FULL

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("busybox", "unshare")]
ROUNDS = 100 if FULL else 10


def children(pid: int) -> list[int]:
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []


def server_of(house: House) -> int:
    """The warm process; brought to life again if it was killed."""
    for _ in range(500):
        for lock in house.run_directory.glob("*.lock"):
            try:
                os.utime(lock, (0, 0))
                pid = int(lock.read_text() or 0)
            except FileNotFoundError:  # one that could not go on has taken it away
                continue
            if pid and alive(pid) and house.parked(pid):
                return pid
        house.run("version")
        time.sleep(0.2)
    raise AssertionError("no warm process comes to life")


@pytest.mark.parametrize("victim", ["client", "worker", "server", "server and worker"])
def test_a_kill_at_a_random_moment(house: House, victim: str) -> None:
    small_image(Path(house.env["LAMINA_ROOT"]))
    seed = random.randrange(1 << 30)
    chance, done = random.Random(seed), house.tmp / "done"
    done.touch()
    for number in range(ROUNDS):
        server = server_of(house)
        workers = children(server)
        script = f"echo {number} >> {done}"
        process = house.popen("run", "--rm", "-v", f"{house.tmp}:{house.tmp}", "tiny", "sh", "-c", script)
        time.sleep(chance.random() ** 2 * 0.3)
        victims = {"client": [process.pid], "worker": workers, "server": [server]}.get(
            victim, [server, *workers]
        )
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it is done with its command, or was killed with its warm process
                continue
        _, err = process.communicate(timeout=200)
        times = done.read_text().split().count(str(number))
        assert times <= 1, (seed, number)
        assert process.returncode in (0, -signal.SIGKILL), (seed, number, process.returncode, err)
        assert times == 1 or process.returncode != 0, (seed, number, err)
    until(lambda: not running(house), f"something still runs (seed {seed})")

    def cleared() -> bool:
        """By the next command; what a worker holds that is still being killed, by one after that."""
        assert house.run("run", "--rm", "tiny", "true") == (0, b"", b"")
        return os.listdir(f"{house.env['LAMINA_ROOT']}/running") == []

    until(cleared, f"something was left (seed {seed})")


def running(house: House) -> list[str]:
    """What has the directory of this test in its mounts, the parked worker and the like apart."""
    listed = subprocess.run(
        ["pgrep", "-f", f"echo .*{house.tmp}/done"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split()
