"""Attacks are made from containers that root started, which are the dangerous ones, and from an ordinary user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.attacker import Attacker
from support.leaks import Leaks
from support.oci_fixtures import runtime, subreaper
from support.rootless import Rootless

__all__ = ["attacker", "attacker_root", "runtime", "subreaper"]

BOTH = [pytest.param("root", marks=pytest.mark.root), pytest.param("rootless", marks=pytest.mark.userns)]


@pytest.fixture(params=BOTH)
def attacker(request: pytest.FixtureRequest, tmp_path: Path, untouched_host: Leaks) -> Attacker:
    """Whoever starts the containers of this test, once as root and once as an ordinary user."""
    if request.param == "root":
        return Attacker(tmp_path)
    user: Rootless = request.getfixturevalue("rootless")
    return Attacker(user.home, user)


@pytest.fixture
def attacker_root(tmp_path: Path, untouched_host: Leaks) -> Attacker:
    """Root alone, for what an ordinary user could not set up."""
    return Attacker(tmp_path)
