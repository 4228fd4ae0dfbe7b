"""`scripts/setup`, as far as it goes without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.sources import REPOSITORY


def test_the_python_that_is_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts/setup", tmp_path / "scripts/setup")
    old = tmp_path / "an old python3"
    old.symlink_to("/bin/false")
    done = subprocess.run(
        [tmp_path / "scripts/setup"],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (1, f"setup: PYTHON={old} is not Python 3.11 or newer\n")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)  # installers take minutes where others compute as well
def test_a_virtual_environment_that_was_only_half_made_is_made_again(tmp_path: Path) -> None:
    """As `python -m venv` leaves it where ensurepip, Debian's python3-venv, is missing; somebody then installs that."""
    pytest.importorskip("ensurepip", reason="needs the module ensurepip (python3-venv)")
    clone, programs = tmp_path / "clone", tmp_path / "programs"
    (clone / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts/setup", clone / "scripts/setup")
    programs.mkdir()
    (programs / "apt-get").symlink_to("/bin/false")  # nothing is installed into this machine
    python = Path(sys.base_prefix, "bin/python3")
    subprocess.run([python, "-m", "venv", "--without-pip", ".venv"], cwd=clone, check=True, timeout=800)
    done = subprocess.run(
        ["scripts/setup"],
        cwd=clone,
        env={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHON": str(python),
            "PIP_NO_INDEX": "1",
        },
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert "No module named pip" not in done.stderr
    subprocess.run([".venv/bin/python", "-m", "pip", "--version"], cwd=clone, check=True, timeout=800)
    assert done.returncode != 0  # there is nothing here to install
