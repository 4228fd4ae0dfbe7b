"""Control groups of the running kernel for tests: at a name of their own, joined by small processes, gone after."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.errors import LaminaError
from lamina.runtime.cgroups import Cgroup, create, read_layout
from lamina.runtime.cgroups.tree import remove_tree

LAYOUT = read_layout()
BUSY = "while :; do :; done"


class Boxes:
    """Makes control groups below /lamina-test-…, and takes everything away at the end."""

    def __init__(self) -> None:
        self.parent = f"/lamina-test-{os.getpid()}-{os.urandom(3).hex()}"
        self._made: list[Cgroup] = []
        self._started: list[subprocess.Popen[Any]] = []

    def make(self, resources: dict[str, Any], name: str = "box", **options: Any) -> Cgroup:
        """A control group with those limits."""
        cgroup = create(f"{self.parent}/{name}", resources, own_parent=True, **options)
        assert cgroup is not None
        self._made.append(cgroup)
        return cgroup

    def start(self, cgroup: Cgroup, script: str, **options: Any) -> subprocess.Popen[Any]:
        """A shell with that script, in the group before it does anything."""

        def join() -> None:
            for tasks in cgroup.tasks.values():
                os.write(tasks, b"0")
            if cgroup.v2 is not None:
                procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=cgroup.v2)
                os.write(procs, b"0")
                os.close(procs)

        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        process = subprocess.Popen(["/bin/sh", "-c", script], preexec_fn=join, text=True, **options)
        self._started.append(process)
        return process

    def run(self, cgroup: Cgroup, script: str) -> subprocess.CompletedProcess[str]:
        """The same, awaited."""
        process = self.start(cgroup, script)
        out, err = process.communicate(timeout=200)
        return subprocess.CompletedProcess(script, process.returncode, out, err)

    def close(self) -> None:
        """Kill what is left, and remove the groups."""
        for cgroup in self._made:
            cgroup.close()
            try:
                cgroup.thaw()
            except LaminaError:
                pass
            cgroup.kill()
        for process in self._started:
            process.kill()
            process.communicate()
        for cgroup in self._made:
            cgroup.remove()
        for root in {*LAYOUT.v1.values(), *([LAYOUT.v2] if LAYOUT.v2 else [])}:
            remove_tree(root + self.parent.encode())  # what other engines or a failed test left in it


def file_of(cgroup: Cgroup, controller: str, name: str) -> Path:
    """A file of the group, in the hierarchy of *controller* or in v2."""
    return Path(os.fsdecode(cgroup.paths.get(controller, cgroup.paths.get("", b""))), name)


def eventually(what: Callable[[], Any], timeout: float = 200.0) -> Any:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + timeout
    while not (answer := what()):
        assert time.monotonic() < end, f"it did not come true within {timeout} seconds"
        time.sleep(0.01)
    return answer


def disk_below(directory: Path) -> str:
    """The numbers of the whole disk that *directory* is on."""
    device = os.stat(directory).st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not place.exists():
        pytest.skip(f"{directory} is on no disk")
    whole = place.resolve().parent if (place / "partition").exists() else place
    return (whole / "dev").read_text().strip()
