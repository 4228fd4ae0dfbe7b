"""What it costs to say what an upper of 1, 1,000 and 100,000 files did to a lower of 100,000 files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from machine import find
from measure import Case, Worker
from stage import REPOSITORY, Stage

DIRECTORIES, FILES = 1000, 100  # in the lower
UPPERS = (1, 1_000, 100_000)


def cases(stage: Stage, stack: ExitStack) -> Iterator[Case]:
    """Each upper changes the first files of the lower. `find` over the upper is the floor of what is possible."""

    def repeat(worker: Worker) -> Callable[[], float]:
        stack.callback(worker.close)
        return worker.once

    lower = stage.directory / "lower"
    _fill(lower, DIRECTORIES * FILES, b"before\n")
    for count in UPPERS:
        upper = stage.directory / f"upper-{count}"
        _fill(upper, count, b"after that\n")
        reference = f"find upper, {count:,} files"
        argv = [stage.python, str(REPOSITORY / "bench/workers/diff.py"), str(lower), str(upper), str(count)]
        yield Case(f"changes(), {count:,} files, warm", repeat(Worker(argv, stage.env)), reference)
        options = f"lowerdir={lower},upperdir={upper},workdir={stage.directory}"
        diff = stage.shell(stage.lamina, "overlay", "diff", "-o", options)
        yield Case(f"lamina overlay diff, {count:,} files, shell", repeat(diff), reference)
        argv = [find("find") or "find", str(upper), "-printf", "%s %m %T@ %p\\n"]
        yield Case(reference, repeat(stage.shell(*argv)))


def _fill(top: Path, count: int, content: bytes) -> None:
    for number in range(count):
        directory, file = divmod(number, FILES)
        if file == 0:
            (top / f"{directory:04}").mkdir(parents=True)
        descriptor = os.open(top / f"{directory:04}" / f"{file:02}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, content)
        os.close(descriptor)
