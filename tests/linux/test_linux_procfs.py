"""Numbers from /proc, compared with what the calls say that need a module or a number of their own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from lamina.linux.capabilities import capget
from lamina.linux.procfs import INFINITY, cap_last_cap, effective_capabilities, hard_limits


def test_hard_limits_are_those_of_getrlimit() -> None:
    limits = hard_limits()
    assert sorted(limits) == list(range(16))
    assert limits == {number: resource.getrlimit(number)[1] & INFINITY for number in range(16)}


def test_a_limit_that_is_a_number_is_read() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (10, 77))\n"
        "from lamina.linux.procfs import hard_limits; print(hard_limits()[resource.RLIMIT_NPROC])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
        timeout=200,
    )
    assert done.stdout == "77\n"


def test_capabilities_are_those_of_capget() -> None:
    assert effective_capabilities() == capget().effective
    assert capget().effective < 1 << (cap_last_cap() + 1)
