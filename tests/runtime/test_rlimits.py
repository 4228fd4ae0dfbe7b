"""Resource limits: defaults instead of the caller's, asked ones clamped to what may be."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from lamina.errors import InvalidInput
from lamina.linux.procfs import INFINITY
from lamina.runtime.rlimits import NUMBERS, effective_limits, lowered_limits


def test_every_limit_is_set():
    limits, lowered = effective_limits([])
    assert sorted(number for number, _, _ in limits) == list(range(16))
    assert all(soft <= hard for _, soft, hard in limits)
    assert lowered == ()


def test_the_numbers_are_the_kernels():
    for name, number in NUMBERS.items():
        if hasattr(resource, name):
            assert getattr(resource, name) == number


def test_what_is_asked_is_set():
    limits, _ = effective_limits([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}])
    assert (7, 10, 20) in limits


@pytest.mark.parametrize(
    "limit", [{"type": "RLIMIT_X", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]
)
def test_an_impossible_limit_is_refused(limit):
    with pytest.raises(InvalidInput):
        effective_limits([limit])


def test_a_caller_who_may_not_raise_its_hard_limit_is_told_what_it_became():
    code = """
import os, resource
from lamina.runtime.rlimits import effective_limits
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
limits, lowered = effective_limits([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}])
print([l for l in limits if l[0] == 7], lowered)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("[(7, 60, 60)] (")
    assert "RLIMIT_NOFILE is 60" in said


@pytest.mark.userns
def test_root_of_a_user_namespace_may_not_raise_a_hard_limit():
    """It has CAP_SYS_RESOURCE, and that counts in the first user namespace only."""
    code = """
import resource
from lamina.runtime.rlimits import effective_limits
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
limits, lowered = effective_limits([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}])
print([l for l in limits if l[0] == 7], lowered)
"""
    said = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said == "[(7, 60, 60)] ()\n"


def test_in_a_user_namespace_nobody_may_raise_a_hard_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    asked = [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": hard + 1}]
    limits, lowered = effective_limits(asked, mapped=True)
    assert (7, 1, hard) in limits
    assert lowered == (
        f"RLIMIT_NOFILE is {hard}: the hard limit of the caller, which cannot be raised in a user namespace",
    )
    linux = {"namespaces": [{"type": "mount"}, {"type": "user", "path": "/proc/1/ns/user"}]}
    assert lowered_limits({"rlimits": asked}, linux) == lowered
    assert lowered_limits({}, linux) == ()


def test_unlimited_is_all_ones():
    assert INFINITY == 2**64 - 1
    limits, _ = effective_limits([{"type": "RLIMIT_CPU", "soft": -1, "hard": -1}])
    assert (0, INFINITY, INFINITY) in limits
