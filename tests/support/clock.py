"""A wall clock that jumps, for processes that a test starts: the library clock.c, and what moves it."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from pathlib import Path
from random import Random
from threading import Event

import pytest

YEAR = 365 * 86_400


class Clock:
    """`env` is for the processes that shall see it; `jump` moves it to so many seconds beside the true time."""

    def __init__(self, place: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler")
        place.mkdir()
        library = place / "clock.so"
        source = Path(__file__).with_name("clock.c")
        words = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", str(source), "-o", str(library)]
        subprocess.run(words, check=True, timeout=200)
        (place / "offset").write_bytes(bytes(8))
        with open(place / "offset", "r+b") as file:
            self._offset = mmap.mmap(file.fileno(), 8)
        self.env = {"LD_PRELOAD": str(library), "LAMINA_TEST_CLOCK": str(place / "offset")}

    def jump(self, seconds: float) -> None:
        """At once, for all of them."""
        self._offset[:] = int(seconds * 1e9).to_bytes(8, "little", signed=True)

    def dance(self, random: Random, over: Event) -> int:
        """Jump about, years at a time, until it is *over*; how often."""
        jumps = 0
        while not over.wait(random.random() / 10):
            self.jump(
                random.choice([-20 * YEAR, -3600, -1, 0, 1, 3600, 40 * YEAR, random.uniform(-1e6, 1e6)])
            )
            jumps += 1
        self.jump(0)
        return jumps

    def close(self) -> None:
        """Let go of it."""
        self._offset.close()


def environment(clock: Clock) -> dict[str, str]:
    """The whole of an environment with that clock."""
    return {**os.environ, **clock.env}
