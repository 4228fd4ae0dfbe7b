"""Many containers: fifty starts in turn and eight at once, and what is to be paid for those that run and do nothing.

500 of Lamina's run, and 100 each of podman's and docker's. They were started one after the other, stopped and removed
by one command each, and started again for the rest: these figures are of one container, and were taken once. *memory*
is that of the engine's own processes which are there for one container (proportional set size): a supervisor; conmon;
containerd's shim. What is there once, dockerd and containerd, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from engines import IMAGE, START, Engines, named, proportional
from measure import Case, Failed
from stage import Stage

WARM_UP = 0
COUNT = {"lamina": 500, "podman": 100, "docker": 100}
HELPERS = {"lamina": "lamina-idle", "podman": "conmon", "docker": "containerd-shim"}
AT_ONCE = 8
PATIENCE = 120.0
SEEN_BEFORE = 4  # listings: the first ones find out what there is, and what a listing takes


class Crowd:
    """Containers of one engine that run and do nothing. `taken` are seconds, of one container, by verb."""

    def __init__(self, engines: Engines, way: str) -> None:
        self.engines, self.way, self.count = engines, way, COUNT[way]
        self.names = [f"idle{number}" for number in range(self.count)]
        one = f"ENGINE run -d --network none --name idle$i {IMAGE} sleep 100000"
        begin = f"for i in $(seq 0 {self.count - 1}); do {one}; done"
        every = " ".join(self.names)
        actual = "lamina, warm" if way == "lamina" else way
        do = {
            "run -d": engines.worker(actual, begin),
            "stop": engines.worker(actual, f"ENGINE stop -t 0 {every}"),
            "rm": engines.worker(actual, f"ENGINE rm {every}"),
        }
        self.taken = {verb: once() / self.count for verb, once in do.items()}
        do["run -d"]()
        # leave them to the engine's end: the kernel's, or Engines.clear

    def memory(self) -> float:
        """The bytes of the engine's processes for one of them, once all are there and asleep."""
        inside = None if self.way == "lamina" else self.engines.root.pid
        end = time.monotonic() + PATIENCE
        while len(found := named(HELPERS[self.way], inside)) < self.count:
            if time.monotonic() > end:
                raise Failed(f"{self.way}: {len(found)} of {self.count} {HELPERS[self.way]}")
            time.sleep(0.5)
        return sum(map(proportional, found)) / self.count


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """See above."""
    engines = Engines(stage, stack)
    one = f"ENGINE run --rm --network none {IMAGE} true"
    yield from engines.cases("50 starts in turn", f"for i in $(seq 50); do {one}; done", START)
    at_once = f"seq 50 | xargs -P {AT_ONCE} -I @ {one}"
    yield from engines.cases(f"50 starts, {AT_ONCE} at once", at_once, {})
    crowds = {way: Crowd(engines, way) for way in ("lamina", *engines.peers)}
    for verb in ("run -d", "stop", "rm"):
        for way, crowd in crowds.items():
            name = f"{verb} of {crowd.count}, one, {way}"
            peer = f"{verb} of {COUNT['podman']}, one, podman"
            yield Case(name, partial(float, crowd.taken[verb]), "" if name == peer else peer)
    for way in engines.ways:
        for _ in range(SEEN_BEFORE):
            engines.do(way, "ps")
        count = COUNT[way.partition(",")[0]]
        peer = f"ps, {COUNT['podman']} run, podman"
        name = f"ps, {count} run, {way}"
        yield Case(
            name,
            engines.worker(way, "ENGINE ps"),
            "" if name == peer else peer,
            reach="15 ms" if "warm" in way else "",
        )
    for way, crowd in crowds.items():
        peer = "memory of an idle container, podman"
        yield Case(
            f"memory of an idle container, {way}", crowd.memory, "" if way == "podman" else peer, unit="MB",
            reach="0.7 MB" if way == "lamina" else "",
        )  # fmt: skip
