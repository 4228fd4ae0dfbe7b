"""Which descriptors a test's process has open, to compare before and after."""

from __future__ import annotations

import gc
import os

from support.lives import await_burials


def held_descriptors() -> dict[int, str]:
    """Each open descriptor and what it leads to, as /proc has it."""
    gc.collect()  # what an earlier test let go of in a circle is not to go meanwhile
    await_burials()  # nor what its threads have open
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue  # the one that lists them
    return found
