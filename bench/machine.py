"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

ENGINES = ("crun", "runc", "bwrap", "unshare", "podman", "docker")


def find(program: str) -> str | None:
    """Where *program* is, also in the directories that only root has on the path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def facts(python: str, directory: Path) -> dict[str, str]:
    """Name and value of everything that changes the figures."""
    processor = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "system": next(
            (line[13:-1] for line in _lines("/etc/os-release") if line.startswith("PRETTY_NAME=")), "?"
        ),
        "kernel": platform.release(),
        "processor": f"{len(os.sched_getaffinity(0))} of {processor}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "store on": _file_system(directory),
        "control groups": "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1",
        "python": _first_line(python, "-VV"),
        **{name: _first_line(path, "--version") for name in ENGINES if (path := find(name))},
    }


def _file_system(directory: Path) -> str:
    return _first_line("stat", "-f", "-c", "%T", str(directory))


def _first_line(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    return next(iter((done.stdout or done.stderr).splitlines()), "?").strip()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
