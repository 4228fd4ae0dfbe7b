"""Under load and under fire: many starts at once, many who work at once, processes killed at random moments.

What is random comes from a seed, which is printed; LAMINA_STRESS_SEED repeats it. LAMINA_STRESS=full is the full size:
1,000 starts at 64 at once, 16 processes of 150 verbs each (`scripts/stress`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lamina import Engine
from lamina.engine import nursery
from support.held import held_descriptors
from support.leaks import Leaks
from support.lives import Command, await_burials, remove_all, until
from support.terminal import lamina as words_of
from support.workers import FULL, WORKERS, work

pytestmark = [pytest.mark.root, pytest.mark.peer("busybox"), pytest.mark.usefixtures("tiny")]

STARTS, AT_ONCE = (1000, 64) if FULL else (48, 12)
PYTHON = " ".join(words_of())


@pytest.fixture
def engine(engine: Engine, untouched_host: Leaks, store_root: Path, lamina: Command) -> Iterator[Engine]:
    """Afterwards nothing is left of anything, and the store is proved."""
    nursery.let_go()  # whose socket is as good as none
    descriptors = len(held_descriptors())
    yield engine
    engine.containers()  # whose supervisors were killed have others now
    remove_all(engine)
    await_burials()
    until(lambda: not left_in(store_root))
    done = lamina("system", "check", timeout=600)
    assert (done.returncode, "damaged" in done.stdout, "left over" in done.stdout) == (0, False, False), done
    assert untouched_host.left() == []
    nursery.let_go()
    assert len(held_descriptors()) <= descriptors


def left_in(root: Path) -> list[str]:
    """What a store has that is not images: of containers that were removed there is nothing."""
    places = ("containers", "names", "running", "tmp", "claims", "leases")
    return [str(path) for place in places for path in (root / place).iterdir()]


def all_at_once(what: Callable[[int], object]) -> list[object]:
    """Each number's answer that is not None."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [found for found in pool.map(what, range(STARTS)) if found is not None]


def test_starts_at_once_in_the_foreground(engine: Engine, lamina: Command) -> None:
    def start(number: int) -> object:
        status = number % 126
        script = f"echo out {number}; echo err {number} >&2; exit {status}"
        done = lamina("run", "--rm", "tiny", "sh", "-c", script, timeout=600)
        right = (status, f"out {number}\n", f"err {number}\n")
        found = (done.returncode, done.stdout, done.stderr)
        return None if found == right else (number, found)

    assert all_at_once(start) == []


def test_starts_at_once_in_the_background(engine: Engine, lamina: Command) -> None:
    def start(number: int) -> object:
        status, name = number % 126, f"box{number}"
        script = f"echo out {number}; exit {status}"
        begun = lamina("run", "-d", "--name", name, "tiny", "sh", "-c", script, timeout=600)
        waited = lamina("wait", name, timeout=600)
        said = lamina("logs", name, timeout=600)
        removed = lamina("rm", "-f", name, timeout=600)
        found = (begun.returncode, waited.stdout, said.stdout, removed.stdout)
        problems = begun.stderr + waited.stderr + said.stderr + removed.stderr
        return None if found == (0, f"{status}\n", f"out {number}\n", f"{name}\n") else (found, problems)

    assert all_at_once(start) == []


def test_starts_at_once_from_the_threads_of_a_program(engine: Engine) -> None:
    def start(number: int) -> object:
        script = f"echo out {number}; exit {number % 126}"
        done = engine.run("tiny", ["sh", "-c", script], rm=True, capture_output=True, text=True)
        right = (number % 126, f"out {number}\n")
        return None if (done.returncode, done.stdout) == right else (number, done)

    assert all_at_once(start) == []


def test_all_verbs_from_many_processes(engine: Engine, seed: int, store_root: Path) -> None:
    done = work(seed, [PYTHON, "api"], store_root)
    assert (done.complaints, done.upset, done.confessed) == ([], 0, [])


def test_processes_killed_meanwhile(engine: Engine, seed: int, store_root: Path) -> None:
    done = work(seed, [PYTHON, "api"], store_root, fire=True)
    print(f"killed {done.killed}, noticed {done.upset} times")
    assert sum(done.killed.values()) > WORKERS
    assert (done.complaints, done.confessed) == ([], [])
