"""Several workers of support.stress at once, with somebody who kills, and somebody who listens to supervisors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from support import stress
from support.sources import REPOSITORY

# LAMINA_STRESS=full is the full size; scripts/stress runs it
FULL = os.environ.get("LAMINA_STRESS") == "full"
WORKERS, VERBS = (16, 150) if FULL else (4, 20)
PATIENCE = 3600 if FULL else 300
KILL_EVERY = 0.1  # seconds, on average


class Work(NamedTuple):
    """What came of it: what was not as it must be, how many outcomes were those of killed ones, what supervisors said
    that failed, and how many processes of which program were killed.
    """

    complaints: list[dict[str, Any]]
    upset: int
    confessed: list[str]
    killed: dict[str, int]


def work(
    seed: int,
    faces: Sequence[str],
    root: Path,
    *,
    fire: bool = False,
    env: Mapping[str, str] = os.environ,
    enter: Callable[[], None] | None = None,
) -> Work:
    """Have the workers work on the store at *root*. *enter* brings each of them to where it belongs."""
    token, over = f"{os.getpid()}-{seed}", threading.Event()
    enough = root.with_name(f"{root.name}.enough-{token}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "support.stress", str(seed), str(number), str(VERBS),
             faces[number % len(faces)], str(enough) if fire else ""],
            cwd=REPOSITORY / "tests", env={**env, stress.TOKEN: token, "LAMINA_ROOT": str(root)},
            stdout=subprocess.PIPE, text=True, preexec_fn=enter,
        )
        for number in range(WORKERS)
    ]  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        listening = pool.submit(stress.confessions, root, over)
        ending = (WORKERS + 1, enough)
        shot = (Random(seed), token, KILL_EVERY, over, ending, WORKERS)
        killing = pool.submit(stress.fire, *shot) if fire else None
        try:
            said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        finally:
            over.set()
            for process in processes:
                process.kill()
                process.wait()
            for path in enough.parent.glob(f"{enough.name}*"):
                path.unlink()
    lines = [[json.loads(line) for line in text.splitlines()] for text in said]
    assert all(found[-1].get("done", 0) >= VERBS for found in lines), said
    return Work(
        [line for found in lines for line in found[:-1]],
        sum(found[-1]["upset"] for found in lines),
        listening.result(),
        killing.result() if killing is not None else {},
    )
