"""A test in a process that nobody else is in: no threads, no garbage collector, nothing of earlier tests that ends.

pytest's own process has all of these: xdist speaks with its controller in a thread, and whoever allocates next, in
whichever thread, collects. That writes to every object that 12,000 tests have left, and closes what some let go.
"""

from __future__ import annotations

import functools
import gc
import os
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn, ParamSpec

P = ParamSpec("P")


def apart(test: Callable[P, None]) -> Callable[P, None]:
    """The same test, in a forked process. What it asserts is said by the one that pytest sees."""

    @functools.wraps(test)
    def run(*args: P.args, **keywords: P.kwargs) -> None:
        gc.collect()
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12, of a fork beside threads
            child = os.fork()
        if not child:
            gc.disable()
            os.close(reader)
            _do(lambda: test(*args, **keywords), writer)
        os.close(writer)
        with open(reader, encoding="utf-8", errors="replace") as said:
            complaint = said.read()
        status = os.waitpid(child, 0)[1]
        assert status == 0, complaint or f"it ended with the status {status:#x}"

    return run


def _do(what: Callable[[], None], writer: int) -> NoReturn:
    try:
        what()
        os._exit(0)
    except BaseException:
        with open(writer, "w", encoding="utf-8", errors="replace") as complaint:
            complaint.write(traceback.format_exc())
    finally:
        os._exit(1)
