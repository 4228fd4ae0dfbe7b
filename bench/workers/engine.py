"""Does the same with an image again for every line it reads, from a process that has everything imported."""

import sys
import time
from collections.abc import Callable
from multiprocessing import get_context

from lamina import Engine

PAIR = 25  # starts of each of two workers


def main() -> None:
    """Arguments: run, and a network if it is not none; or exec and a container; or pair."""
    engine = Engine()
    once: dict[str, Callable[[], None]] = {
        "run": lambda: start(engine, *sys.argv[2:]),
        "exec": lambda: execute(engine, sys.argv[2]),
    }
    if sys.argv[1] == "pair":
        return pairs()
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        once[sys.argv[1]]()
        print(time.perf_counter_ns() - begin, flush=True)


def start(engine: Engine, network: str = "none") -> None:
    """A container from its creation to its removal."""
    assert engine.run("box", ["true"], rm=True, network=network).returncode == 0


def execute(engine: Engine, name: str) -> None:
    """A further process."""
    assert engine.container(name).exec(["true"]).returncode == 0


def pairs() -> None:
    """Two processes start containers at once: how long one start takes of both together."""
    context = get_context("spawn")
    go, done = context.Semaphore(0), context.Semaphore(0)
    others = [context.Process(target=starts, args=(go, done), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        for _ in others:
            go.release()
        for _ in others:
            done.acquire()
        print((time.perf_counter_ns() - begin) // (2 * PAIR), flush=True)
    for other in others:
        other.terminate()


def starts(go: object, done: object) -> None:
    """One of the two."""
    engine = Engine()
    start(engine)
    while True:
        go.acquire()  # type: ignore[attr-defined]
        for _ in range(PAIR):
            start(engine)
        done.release()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
