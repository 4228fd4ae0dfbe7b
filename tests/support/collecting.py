"""Two kinds of collecting: of tests, by each worker, and of garbage, where that is in the way."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, during which nothing is collected."""

    @functools.wraps(function)
    def quiet(*args: P.args, **keywords: P.kwargs) -> T:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return function(*args, **keywords)
        finally:
            if collecting:
                gc.enable()

    return quiet


def keep_for_good() -> None:
    """What lives now is looked at by no collection any more, and copied by none that happens in a forked child."""
    gc.collect()
    gc.freeze()


def shares(top: Path, worker: str, count: int) -> Sequence[str]:
    """The directories of tests in *top* from which worker "gw1", of *count*, begins to collect: all, in its own order.

    What pytest makes of a module is kept beside it. Workers that went through a clone that was never tested in one
    order would be as fast as each other, and make everything as many times as there are workers.
    """
    found = sorted(str(path) for path in top.iterdir() if any(path.glob("test_*.py")))
    first = len(found) * (int(worker.removeprefix("gw")) % count) // count
    return [*found[first:], *found[:first]]
