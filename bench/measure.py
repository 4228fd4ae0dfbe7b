"""Interleaved rounds: every case once a round, so that whatever the machine does meanwhile happens to all of them."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Case:
    """Something to measure. `once` does it one time and returns how long it took, in seconds.

    `reference` names the case that this one is compared with; `limit` is the ratio that it ought to reach; `beside`
    are further references with their limits; one that is `alone` is neither compared nor a reference. A case of
    `unit` "MB" returns bytes. `processor` may be filled by `once`: the processor time of each time, in seconds.
    """

    name: str
    once: Callable[[], float]
    reference: str = ""
    limit: float | None = None
    samples: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    unit: str = "ms"
    reach: str = ""
    beside: tuple[tuple[str, float | None], ...] = ()
    alone: bool = False

    @property
    def compared(self) -> list[tuple[str, float | None]]:
        """All references, and the ratios to reach."""
        return [(self.reference, self.limit), *self.beside]

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.samples)

    @property
    def best(self) -> float:
        """In seconds."""
        return min(self.samples)


class Failed(Exception):
    """A case did not do what it was meant to measure."""


class Missing(Failed):
    """A group of cases cannot be measured on this machine."""


def measure(cases: Sequence[Case], rounds: int, seconds: float, warm_up: int = 2) -> int:
    """Fill `samples` of *cases*: some rounds to warm up, then at most *rounds* and *seconds*. The rounds done."""
    for _ in range(warm_up):
        for case in cases:
            case.once()
            case.processor.clear()
    end = time.monotonic() + seconds
    order, done = list(cases), 0
    while done < rounds and (done < 3 or time.monotonic() < end):
        random.shuffle(order)
        for case in order:
            case.samples.append(case.once())
        done += 1
        if sys.stderr.isatty():
            print(f"\r{done}/{rounds} rounds \r", end="", file=sys.stderr, flush=True)
    return done


def ratio(case: Case, reference: Case) -> tuple[float, float]:
    """(median of the ratios within a round, ratio of the minima)."""
    return _paired(case.samples, reference.samples), case.best / reference.best


def processor_ratio(case: Case, reference: Case) -> float | None:
    """The median of the ratios within a round of processor times, None where one of them has none."""
    if not (case.processor and reference.processor):
        return None
    return _paired(case.processor, reference.processor)


def _paired(samples: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median([one / other for one, other in zip(samples, others, strict=True)])


def command(argv: list[str], environment: Mapping[str, str]) -> Callable[[], float]:
    """Executes *argv* from this process, as a shell would, and waits for it."""
    program, null = argv[0], os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    streams = [(os.POSIX_SPAWN_DUP2, null, stream) for stream in (0, 1)]

    def once() -> float:
        begin = time.perf_counter()
        pid = os.posix_spawn(program, argv, environment, file_actions=streams)
        _, status = os.waitpid(pid, 0)
        took = time.perf_counter() - begin
        if status != 0:
            raise Failed(f"{' '.join(argv)}: exit status {os.waitstatus_to_exitcode(status)}")
        return took

    return once


class Worker:
    """A Python process that has everything imported and does the same thing again whenever it is asked.

    The program reads a line and answers with the nanoseconds that its work took.
    """

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self.argv = argv
        self.process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def once(self) -> float:
        """Ask once; in seconds."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"{' '.join(self.argv)}: exit status {self.process.wait()}")
        return int(answer) / 1e9

    def close(self) -> None:
        """Let the process end."""
        self.process.communicate(timeout=30)


def serve() -> None:
    """Be such a process: execute the command line again for every line that is read."""
    once = command(sys.argv[1:], os.environ)
    for _ in sys.stdin:
        print(int(once() * 1e9), flush=True)


if __name__ == "__main__":
    serve()
