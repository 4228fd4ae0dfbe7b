"""What a network costs a start: `lamina`, podman (netavark) and docker (libnetwork) with their default bridge.

Lamina is in a network namespace of the benchmark's, as the peers are in theirs: nothing of this host's is changed. A
bridge and its rules are there before; what is measured makes a link, an address, a route, a rule for a port, and takes
them back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from engines import IMAGE, START, Engines, RuncDocker
from measure import Case, Worker
from stage import REPOSITORY, Stage

sys.path.insert(0, str(REPOSITORY / "src"))

from lamina.linux.constants import CLONE_NEWNET
from lamina.linux.namespaces import setns, unshare

WARM_UP = 2
WITH = {
    "none": "--network none",
    "bridge": "--network bridge",
    "bridge, a port": "--network bridge -p 8080:80",
    "one with names": "--network back",
}


class BridgedDocker(RuncDocker):
    """docker with its bridge and its rules, which other groups leave out."""

    def words_for_the_runtime(self) -> list[str]:
        """Of several the last counts."""
        return ["--iptables=true", "--bridge="]


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """A start without a network, with one, with a port, and with names; then what the network is of it."""
    _in_a_namespace(stack)
    engines = Engines(stage, stack, BridgedDocker)
    for way in ("lamina", *engines.peers):
        # aardvark-dns is not among the peers: podman's has no names
        engines.do(way, "network", "create", *(["--disable-dns"] if way == "podman" else []), "back")
        # what comes with the first container, and whoever answers for names, is there while it is measured
        for network in ("bridge", "back"):
            engines.do(way, "run", "-d", "--network", network, IMAGE, "sleep", "100000")
    for what, words in WITH.items():
        reach = START if what == "bridge" else {}
        yield from engines.cases(f"run --rm, {what}", f"ENGINE run --rm {words} {IMAGE} true", reach)
    for what in ("bridge", "bridge, a port", "one with names"):
        whole, without = (
            engines.worker("lamina, warm", f"ENGINE run --rm {WITH[name]} {IMAGE} true")
            for name in (what, "none")
        )
        yield Case(
            f"the share of {what}, warm",
            _difference(whole, without),
            reach="4 ms" if what == "bridge" else "",
            alone=True,
        )
    program = str(REPOSITORY / "bench/workers/engine.py")
    workers = [Worker([stage.python, program, "run", name], stage.env) for name in ("bridge", "none")]
    for worker in workers:
        stack.callback(worker.close)
    share = _difference(workers[0].once, workers[1].once)
    yield Case("the share of bridge, Engine.run", share, reach="4 ms", alone=True)


def _difference(whole: Callable[[], float], without: Callable[[], float]) -> Callable[[], float]:
    return lambda: whole() - without()


def _in_a_namespace(stack: ExitStack) -> None:
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, before)
    stack.callback(setns, before, CLONE_NEWNET)
    unshare(CLONE_NEWNET)
    os.system("ip link set lo up")
