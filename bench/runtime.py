"""What OCI runtimes cost as commands: the same bundle, by `lamina-runtime`, crun and runc.

All namespaces but user and time, Docker's default seccomp profile, capabilities and mounts, control groups with limits.
Each executes the container's `true` and is waited for; `create, start, delete` are three commands. *warm* is the same
by the functions of `lamina.runtime.container`, in a Python process that has done it before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from machine import find
from measure import Case, Worker
from stage import Stage
from starts import LIMITS

PEERS = ("crun", "runc")
REACH = {"run": {"crun": 0.8}, "exec": {"runc": 1.0}}
REACH_WARM = {"run": 0.25, "exec": 0.2}


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """Three ways to spend time, for each runtime; a peer that is not installed is left out."""

    def repeat(worker: Worker) -> Callable[[], float]:
        stack.callback(worker.close)
        return worker.once

    ours = str(stage.directory / "venv" / "bin" / "lamina-runtime")
    engines = {"lamina-runtime": ours, **{name: path for name in PEERS if (path := find(name))}}
    for name, program in engines.items():
        short, long = (
            stage.bundle(f"short-{name}", LIMITS),
            stage.bundle(f"long-{name}", LIMITS, "sleep", "600"),
        )
        engine = [program, "--root", str(stage.states / name)]
        words = " ".join(engine)
        three = f"{words} create -b {short} c && {words} start c && {words} delete -f c"
        begin = f"{words} run -d -b {long} l </dev/null >/dev/null 2>&1"
        yield from (
            Case(f"{name} {what}", repeat(worker), *_compared(name, what, engines))
            for what, worker in (
                ("run", stage.peer(*engine, "run", "-b", str(short), "r")),
                ("create, start, delete", stage.peer("/bin/sh", "-c", three)),
                ("exec", stage.peer(*engine, "exec", "l", "true", first=begin, last=f"{words} delete -f l")),
            )
        )
    root = str(stage.states / "warm")
    words = f"{ours} --root {root}"
    short, long = stage.bundle("short-warm", LIMITS), stage.bundle("long-warm", LIMITS, "sleep", "600")
    begin = f"{words} run -d -b {long} l </dev/null >/dev/null 2>&1"
    for what, argv, around in (
        ("run", ("run", root, str(short)), {}),
        ("exec", ("exec", root, "l"), {"first": begin, "last": f"{words} delete -f l"}),
    ):
        reference = f"crun {what}" if "crun" in engines else ""
        yield Case(
            f"{what}, warm",
            repeat(stage.within("workers/oci.py", *argv, **around)),
            reference,
            REACH_WARM[what],
        )


def _compared(name: str, what: str, engines: dict[str, str]) -> tuple[str, float | None]:
    """With crun; where a limit is set against runc only, with that."""
    wanted = "runc" if what == "exec" else "crun"
    reference = f"{wanted} {what}" if wanted in engines else ""
    return reference, REACH.get(what, {}).get(wanted) if name == "lamina-runtime" else None
