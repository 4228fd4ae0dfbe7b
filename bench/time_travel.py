"""Snapshot, fork, rewind, commit, diff and explain, over uppers of one file, 10,000 files and 1 GiB; and what others
offer for the same: commit and run, of docker and podman, and a plain copy.

*warm* is a Python process that has everything imported. What is done is undone outside of what is timed, so that an
upper is written once. `podman container checkpoint` takes CRIU: it is measured where it works, and left out, with the
reason printed, where it does not. What this Lamina cannot do yet is left out likewise.

With LAMINA_BENCH_LARGE=1 an upper of 5 GiB is measured as well, and 10,000 snapshots instead of 1,000; with
LAMINA_BENCH_SMALL=1 smaller ones, to see that it works.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from engines import IMAGE, Engines
from measure import Case, Worker
from stage import REPOSITORY, Stage

WARM_UP = 1
LARGE = os.environ.get("LAMINA_BENCH_LARGE", "") not in ("", "0")
# by what they are called: what is in an upper, as bench/workers/states.py takes it
SMALL = os.environ.get("LAMINA_BENCH_SMALL", "") not in ("", "0")
UPPERS = {"1 file": "1", "10,000 files": "10000", "1 GiB": "1024m"}
if LARGE:
    UPPERS["5 GiB"] = "5120m"
elif SMALL:
    UPPERS = {"1 file": "1", "1,000 files": "1000", "32 MiB": "32m"}
SNAPSHOTS = 10_000 if LARGE else 100 if SMALL else 1_000
REACH = {"snapshot": "5 ms", "rewind": "5 ms", "commit": "5 ms", "fork, started": "12 ms"}


class States:
    """Workers, each with a container of its own."""

    def __init__(self, stage: Stage, stack: ExitStack) -> None:
        self.stage, self.stack, self._numbers = stage, stack, count()

    def worker(self, verb: str, *words: str) -> Callable[[], float]:
        """A warm process that does *verb*."""
        program = str(REPOSITORY / "bench/workers/states.py")
        worker = Worker(
            [self.stage.python, program, verb, f"states-{next(self._numbers)}", *words], self.stage.env
        )
        self.stack.callback(worker.close)
        return worker.once


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """See above."""
    engines = Engines(stage, stack)
    states = States(stage, stack)
    able = capabilities(stage)
    yield from _constant(states, able)
    yield from _forks(states)
    yield from _proportional(states, able)
    yield from _others(engines)
    if "10,000 snapshots" in able:
        yield from _lookups(states)
    else:
        print(f"time-travel: lookups in a container with {SNAPSHOTS:,} snapshots: left out", file=sys.stderr)


def capabilities(stage: Stage) -> set[str]:
    """What this Lamina can do."""
    script = """if True:
    from lamina import Container
    print(*[name for name in ("snapshot", "rewind", "commit", "explain") if hasattr(Container, name)], sep="\\n")
    try:
        import lamina.engine.squashing
        print("10,000 snapshots")
    except ImportError:
        pass
    """
    return set(stage.run(stage.python, "-c", script).splitlines())


def _constant(states: States, able: set[str]) -> Iterator[Case]:
    """What ought to cost the same whatever is in the upper."""
    for verb in ("snapshot", "rewind", "commit"):
        if verb not in able:
            print(f"time-travel: {verb}: left out", file=sys.stderr)
            continue
        first, *_ = UPPERS
        for name, what in UPPERS.items():
            least = name == first
            yield Case(
                f"{verb}, {name}, warm", states.worker(verb, what), "" if least else f"{verb}, {first}, warm",
                None if least else 1.3, reach=REACH[verb] if least else "",
            )  # fmt: skip


def _forks(states: States) -> Iterator[Case]:
    first, *_ = UPPERS
    for name, what in UPPERS.items():
        least = name == first
        yield Case(
            f"fork, {name}, warm", states.worker("fork", what), "" if least else f"fork, {first}, warm",
            None if least else 1.3,
        )  # fmt: skip
        yield Case(
            f"fork, started, {name}, warm", states.worker("fork-start", what),
            "" if least else f"fork, started, {first}, warm", None if least else 1.3,
            reach=REACH["fork, started"] if least else "",
        )  # fmt: skip
    yield Case(
        f"fork, started, the first for a while, {first}, warm", states.worker("fork-first", UPPERS[first])
    )
    yield Case("64 forks, started, warm", states.worker("fork-64", "10000"), reach="800 ms")


def _proportional(states: States, able: set[str]) -> Iterator[Case]:
    """What costs as much as what changed."""
    for name, what in UPPERS.items():
        yield Case(f"diff, {name}, warm", states.worker("diff", what))
    if "explain" in able:
        yield Case("explain, 10,000 files, warm", states.worker("explain", "10000"))


def _lookups(states: States) -> Iterator[Case]:
    """Of names in a directory that no snapshot wrote to; of the same ones again, where each of them did; and for the
    first time there.
    """
    for kind, title in (
        ("elsewhere", "lookups"),
        ("again", "lookups once more, in what each wrote"),
        ("first", "first lookups, in what each wrote"),
    ):
        yield Case(f"{title}, no snapshots", states.worker("lookup", "0", kind))
        yield Case(
            f"{title}, {SNAPSHOTS:,} snapshots", states.worker("lookup", str(SNAPSHOTS), kind),
            f"{title}, no snapshots", 1.2,
        )  # fmt: skip


def _others(engines: Engines) -> Iterator[Case]:
    """Commit and run, by every engine; and what a copy of the upper takes."""
    for name, what in UPPERS.items():
        copy = f"cp -a, {name}"
        source = _tree(engines.stage.directory / "copied" / what, what)
        yield Case(copy, _copy(engines, source))
        docker = f"commit, run, {name}, docker"
        box = f"from-{what}"
        for way in ("lamina", *engines.peers):
            engines.do(way, "run", "--name", box, "--network", "none", IMAGE, "sh", "-c", _script(what))
        for way in engines.ways:
            yield Case(
                f"commit, run, {name}, {way}",
                _and_remove(engines, way, box),
                "" if way == "docker" else docker,
                0.02 if way == "lamina, warm" and what.endswith("m") else None,
            )
        script = f"ENGINE fork --start --rm -c true {box} fork >/dev/null && ENGINE wait fork >/dev/null 2>&1 || true"
        yield Case(f"fork, run, {name}, lamina, warm", engines.worker("lamina, warm", script), docker)
    _checkpoint(engines)


def _script(what: str) -> str:
    if what.endswith("m"):
        return f"head -c {int(what[:-1]) << 20} /dev/urandom >/large"
    each = "for j in $(seq 100); do echo content >$i-$j; done"
    return f"for i in $(seq {max(1, int(what) // 100)}); do {each if int(what) > 1 else 'echo content >$i'}; done"


def _tree(place: Path, what: str) -> Path:
    place.mkdir(parents=True)
    script = _script(what).replace(">/large", ">large")
    engines_own = ["/bin/sh", "-ec", f"cd {place} && {script}"]
    os.spawnv(os.P_WAIT, engines_own[0], engines_own)
    return place


def _copy(engines: Engines, source: Path) -> Callable[[], float]:
    target = source.with_suffix(".copy")
    once = engines.stage.shell("/bin/cp", "-a", str(source), str(target))
    engines.stack.callback(once.close)

    def copied() -> float:
        took = once.once()
        shutil.rmtree(target)
        return took

    return copied


def _and_remove(engines: Engines, way: str, box: str) -> Callable[[], float]:
    once = engines.worker(
        way, f"ENGINE commit {box} again >/dev/null && ENGINE run --rm --network none again true"
    )

    def done() -> float:
        took = once()
        engines.do(way, "rmi", "-f", "again")
        return took

    return done


def _checkpoint(engines: Engines) -> None:
    """Whether podman can, here: nothing that is measured otherwise needs it, so it is said and not more."""
    engines.do("podman", "run", "-d", "--name", "checkpointed", "--network", "none", IMAGE, "sleep", "100000")
    begin = time.perf_counter()
    done = engines.peers["podman"]("container", "checkpoint", "checkpointed")
    took = time.perf_counter() - begin
    said = f"{took * 1e3:.0f} ms" if done.returncode == 0 else f"does not work: {done.stderr.strip()[-200:]}"
    print(f"time-travel: podman container checkpoint: {said}", file=sys.stderr)
    engines.do("podman", "rm", "-f", "-t", "0", "checkpointed")
