"""Lamina run by root of a user namespace, as in another engine's container: little more than an ordinary user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.peer("unshare")]


def test_it_runs_over_this_machine_with_a_single_id(tmp_path: Path) -> None:
    def lamina(*words: str) -> str:
        command = [sys.executable, "-m", "lamina", "--root", str(tmp_path / "store"), *words]
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", *command],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    seen = lamina(
        "run",
        "--name",
        "box",
        "host",
        "sh",
        "-c",
        f"id -u; echo x >{tmp_path}/file; tty -s; cat /proc/1/comm",
    )
    assert seen.split() == ["0", "sh"]
    assert f"A {tmp_path}/file" in lamina("diff", "box")
    assert not (tmp_path / "file").exists()
    lamina("run", "--rm", "host", "true")
    lamina("rm", "box")
