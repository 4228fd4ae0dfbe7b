"""What a container start costs: Lamina from the shell and from Python, crun, bwrap and unshare over the same root.

The reference is `crun run` of the specification that Lamina itself compiles (namespaces, mounts, masks, capabilities,
Docker's default seccomp profile, control groups with limits). crun, bwrap and unshare mount no overlay: they get one
that is mounted already, so Lamina does more work than they do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from machine import find
from measure import Case, Worker
from stage import REPOSITORY, Stage

REFERENCE = "crun run, limits"
LIMITS = {"memory": "512m", "cpus": 1, "pids_limit": 100}
OPTIONS = ("--memory", "512m", "--cpus", "1", "--pids-limit", "100")


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """All starts; a peer that is not installed is left out."""

    def repeat(worker: Worker) -> Callable[[], float]:
        stack.callback(worker.close)
        return worker.once

    def warm(*words: str) -> Callable[[], float]:
        argv = [stage.python, str(REPOSITORY / "bench/workers/start.py"), *words]
        return repeat(Worker(argv, stage.env))

    reference = REFERENCE if find("crun") else ""
    run = [stage.lamina, "run", "--rm", "--network", "none"]
    yield Case("lamina run, shell", repeat(stage.shell(*run, "host", "--", "true")), reference, 0.8)
    limited = stage.shell(*run, *OPTIONS, "host", "--", "true")
    yield Case("lamina run, shell, limits", repeat(limited), reference, 0.8)
    begun = stack.enter_context(stage.warm())
    yield Case("lamina run, warm process", repeat(begun(*run, "host", "--", "true")), reference, 0.3)
    yield Case(
        "lamina run, warm process, limits",
        repeat(begun(*run, *OPTIONS, "host", "--", "true")),
        reference,
        0.3,
    )
    stage.run(stage.lamina, "run", "--name", "one", "host", "--", "true")
    for verb in (("ps", "-a"), ("images",), ("inspect", "one")):
        yield Case(f"lamina {verb[0]}, shell", repeat(stage.shell(stage.lamina, *verb)), reference)
        yield Case(f"lamina {verb[0]}, warm process", repeat(begun(stage.lamina, *verb)), reference)
    yield Case("Engine.run, warm", warm("1", "0", "{}"), reference, 0.25)
    yield Case("Engine.run, warm, limits", warm("1", "0", json.dumps(LIMITS)), reference, 0.25)
    yield Case("Engine.run, warm, in 1 GB", warm("1000", "0", "{}"), reference)
    yield Case("Engine.run, warm, 2 busy threads", warm("1", "2", "{}"), reference)
    yield Case("python -c pass", repeat(stage.shell(stage.python, "-c", "pass")), reference)
    if crun := find("crun"):
        full, plain = stage.bundle("limits", LIMITS), stage.bundle("plain", {})
        yield Case(REFERENCE, repeat(stage.peer(crun, "run", "-b", str(full), "bench-limits")))
        without = stage.peer(crun, "--cgroup-manager", "disabled", "run", "-b", str(plain), "bench-plain")
        yield Case("crun run, no cgroups", repeat(without), reference)
    if bwrap := find("bwrap"):
        argv = [bwrap, "--unshare-all", "--bind", str(stage.root), "/", "--proc", "/proc", "--dev", "/dev"]
        yield Case("bwrap --unshare-all", repeat(stage.peer(*argv, "true")), reference)
    if unshare := find("unshare"):
        argv = [unshare, "--fork", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"]
        argv += ["--root", str(stage.root), "--mount-proc", "true"]
        yield Case("unshare (namespaces, chroot)", repeat(stage.peer(*argv)), reference)
