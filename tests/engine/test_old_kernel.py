"""Containers on older kernels: before 6.8 overlayfs takes its layers by mount(2) only (Debian 12 has 6.1).

setarch(8) lets this kernel call itself 2.6; what the old way of mounting needs, every kernel has.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.rootless import Rootless

setarch = shutil.which("setarch")
pytestmark = pytest.mark.skipif(setarch is None, reason="needs setarch(8) of util-linux")
OLD = (str(setarch), "--uname-2.6")


def ok(done: subprocess.CompletedProcess[Any]) -> str:
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


@pytest.mark.root
def test_a_container_over_the_host_is_mounted_the_old_way(tmp_path: Path, lamina: Any) -> None:
    (tmp_path / "old, odd: name").mkdir()
    (tmp_path / "old, odd: name/file").write_text("host\n")
    script = 'cat file; echo container >file; stat -f -c %T /; while read line; do echo "$line"; done </proc/mounts'
    command = ("run", "--name", "old", "host", "--", "sh", "-c", script)
    ran = subprocess.run(
        [*OLD, sys.executable, "-m", "lamina", *command],
        cwd=tmp_path / "old, odd: name",
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
    )
    seen = ok(ran).splitlines()
    assert seen[:2] == ["host", "overlayfs"]
    roots = [line.split() for line in seen[2:] if line.split()[1] == "/"]
    assert len(roots) == 1
    assert {"nosuid", "nodev"} <= set(roots[0][3].split(","))
    assert (tmp_path / "old, odd: name/file").read_text() == "host\n"
    assert ok(lamina("diff", "old")) == f"C '{tmp_path}/old, odd: name/file'\n"


@pytest.mark.userns
def test_the_old_way_without_root(rootless: Rootless) -> None:
    command = ("run", "--rm", "host", "--", "stat", "-f", "-c", "%T", "/")
    assert ok(rootless.run(*OLD, sys.executable, "-m", "lamina", *command)) == "overlayfs\n"
