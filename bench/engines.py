"""What a day's verbs cost: `lamina` by a warm process and without, podman (crun) and docker (runc) of the peers root.

The same image of busybox everywhere, the same options, no limits. Each command is executed by a small process that
lives where its engine does, so entering the peers root is not counted. *cold* is `lamina` that starts Python. In Python
the reference is `crun` of this machine, over a root that is mounted already, with the specification that Lamina writes.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from machine import find
from measure import Case, Missing, Worker
from shares import own_share
from stage import REPOSITORY, Stage

sys.path.insert(0, str(REPOSITORY / "tests"))

from support.busybox import write_archive
from support.engines import Docker, Podman
from support.engines import Engine as Peer
from support.peers import ENVIRONMENT, PeerRoot, location

WARM_UP = 1
IMAGE = "box"
MEASURE = str(REPOSITORY / "bench/measure.py")
# stop at once: what is compared is not how long sleep(1) may be asked to leave
STOP = "stop -t 0"
REMOVE = {"podman": "rm -f -t 0"}  # which asks first, and waits ten seconds; the others kill


class CrunPodman(Podman):
    """podman with the runtime of its own choice."""

    def prepare(self) -> None:
        """As of the tests, where the runtime is ours."""
        self.runtime = Path("/usr/bin/crun")
        super().prepare()


class RuncDocker(Docker):
    """docker with the runtime of its own choice."""

    def words_for_the_runtime(self) -> list[str]:
        """None: it knows."""
        return []


class Engines:
    """Lamina, podman and docker with the same image. `ways` are how one of their commands can be executed."""

    def __init__(self, stage: Stage, stack: ExitStack, docker: type[Docker] = RuncDocker) -> None:
        if not location().is_dir():
            raise Missing("podman and docker are those of the peers root: run scripts/peers")
        self.stage, self.stack = stage, stack
        place = stage.place(f"engines-{os.urandom(4).hex()}")
        for name in ("podman", "docker"):
            (place / name).mkdir(parents=True)
        self.root = PeerRoot(place / "peers", [stage.directory, place], hide_v2=True)
        stack.callback(self.root.close)
        own_share(os.getpid(), "measured", stack)
        self.peers: dict[str, Peer] = {
            "podman": CrunPodman(self.root, place / "podman"),
            "docker": docker(self.root, place / "docker"),
        }
        write_archive(place / "image.tar")
        stage.run(stage.lamina, "load", "-q", "-i", str(place / "image.tar"))
        self._begun = stack.enter_context(stage.warm())
        self.ways = ("lamina, warm", "lamina, cold", *self.peers)
        # whatever a case leaves behind, or is interrupted in
        stack.callback(self.clear)

    def clear(self) -> None:
        """Remove all containers of Lamina's; the peers' end with their root."""
        names = self.stage.run(self.stage.lamina, "ps", "-aq").split()
        for at in range(0, len(names), 100):
            self.stage.run(self.stage.lamina, "rm", "-f", *names[at : at + 100])

    def program(self, way: str) -> str:
        """The engine's command."""
        return self.stage.lamina if way.startswith("lamina") else f"/usr/bin/{way}"

    def worker(self, way: str, script: str) -> Callable[[], float]:
        """Executes *script*, in which `ENGINE` is the engine's command: directly if it is one, else by a shell."""
        script = script.replace("ENGINE", self.program(way)).replace("REMOVE", REMOVE.get(way, "rm -f"))
        words = ["/bin/sh", "-ec", script] if any(mark in script for mark in "&;|$") else shlex.split(script)
        if way == "lamina, warm":
            worker = self._begun(*words)
        elif way == "lamina, cold":
            worker = self.stage.shell(*words)
        else:
            argv = self.root.argv([self.stage.python, MEASURE, *words], env=self.peers[way].env)
            worker = Worker(argv, ENVIRONMENT)
        self.stack.callback(worker.close)
        return worker.once

    def do(self, way: str, *words: str) -> str:
        """Have the engine do something that is not measured; what it prints."""
        if way.startswith("lamina"):
            return self.stage.run(self.stage.lamina, *words)
        return str(self.peers[way](*words, check=True, timeout=300).stdout)

    def cases(self, what: str, script: str, reach: dict[str, dict[str, float]]) -> Iterator[Case]:
        """One for each way. *reach*: by way, then by peer, the ratios to reach."""
        reference = f"{what}, podman"
        for way in self.ways:
            wanted = reach.get(way, {})
            beside = [(f"{what}, docker", wanted.get("docker"))] if way.startswith("lamina") else []
            once = self.worker(way, script)
            compared = "" if way == "podman" else reference
            yield Case(f"{what}, {way}", once, compared, wanted.get("podman"), beside=tuple(beside))


START = {"lamina, warm": {"podman": 0.12, "docker": 0.06}, "lamina, cold": {"podman": 0.5}}
EXEC = {"lamina, warm": {"podman": 0.15}}


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """The verbs, then what a Python program pays for the two that matter."""
    engines = Engines(stage, stack)
    for way in ("lamina", *engines.peers):
        sleeping = ["--network", "none", IMAGE, "sleep", "100000"]
        engines.do(way, "run", "-d", "--name", "there", *sleeping)
        engines.do(way, "create", "--name", "comes-and-goes", *sleeping)
        engines.do(way, "run", "--name", "talked", "--network", "none", IMAGE, "seq", "100")
    for network in ("none", "host"):
        yield from engines.cases(
            f"run --rm, network {network}", f"ENGINE run --rm --network {network} {IMAGE} true", START
        )
    begin = f"ENGINE run -d --name new --network none {IMAGE} sleep 100000"
    yield from engines.cases("run -d, rm -f", f"{begin} >/dev/null && ENGINE REMOVE new", {})
    yield from engines.cases("exec", "ENGINE exec there true", EXEC)
    yield from engines.cases(
        "start, stop", f"ENGINE start comes-and-goes >/dev/null && ENGINE {STOP} comes-and-goes", {}
    )
    for what, words in (
        ("logs", "logs talked"), ("ps", "ps -a"), ("images", "images"), ("inspect", "inspect there"),
    ):  # fmt: skip
        for case in engines.cases(what, f"ENGINE {words}", {}):
            case.reach = "15 ms" if what != "logs" and case.name.endswith("warm") else ""
            yield case
    yield from _from_python(engines)


def _from_python(engines: Engines) -> Iterator[Case]:
    """`Engine.run`, `Container.exec`, and two processes that start containers, beside `crun run` and `crun exec`."""
    stage, stack = engines.stage, engines.stack

    def repeat(worker: Worker) -> Callable[[], float]:
        stack.callback(worker.close)
        return worker.once

    def worker(*words: str) -> Callable[[], float]:
        return repeat(Worker([stage.python, str(REPOSITORY / "bench/workers/engine.py"), *words], stage.env))

    crun = find("crun")
    run, execute = ("crun run", "crun exec") if crun else ("", "")
    yield Case("Engine.run, in Python", worker("run"), run, 0.25)
    yield Case("Container.exec, in Python", worker("exec", "there"), execute, 0.2)
    yield Case(
        "a start by two workers in Python", worker("pair"), "Engine.run, in Python", reach="6.7 ms (150 a second)"
    )  # fmt: skip
    if crun is None:
        return
    short, long = stage.bundle("short", {}), stage.bundle("long", {}, "sleep", "100000")
    engine = [crun, "--root", str(stage.states / "crun")]
    words = shlex.join(engine)
    yield Case(run, repeat(stage.peer(*engine, "run", "-b", str(short), "r")))
    begin = f"{words} run -d -b {long} l </dev/null >/dev/null 2>&1"
    yield Case(
        execute, repeat(stage.peer(*engine, "exec", "l", "true", first=begin, last=f"{words} delete -f l"))
    )


def proportional(pid: int) -> int:
    """The bytes of memory that are the process's own share: proc_pid_smaps(5), Pss. 0 for one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def named(beginning: str, namespace: int | None = None) -> list[int]:
    """Processes whose program's name begins so, in the pid namespace of the process *namespace*."""
    inside = os.readlink(f"/proc/{namespace or 'self'}/ns/pid")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if Path(f"/proc/{name}/comm").read_text().startswith(beginning) and (
                os.readlink(f"/proc/{name}/ns/pid") == inside
            ):
                found.append(int(name))
        except OSError:
            continue
    return found
