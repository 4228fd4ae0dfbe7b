"""What a test could leave behind on the machine: mounts, processes, control groups.

Other people's containers come and go on the machine while the suite runs, so only what can be told to be ours
counts: mounts and processes that name one of our temporary directories or carry our mark, control groups that
nobody lives in.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


class Leaks:
    """Compares the machine before and after. `places` are the directories that are ours, `mark` our environment."""

    def __init__(self, places: tuple[Path, ...], mark: str = "") -> None:
        self.places = tuple(os.fsencode(place) for place in places)
        self.mark = os.fsencode(f"LAMINA_TEST_RUN={mark}") if mark else b""
        self._mounts, self._processes, self._cgroups = self.mounts(), self.processes(), self.cgroups()

    def mounts(self) -> set[str]:
        """Mounts of this process's own mount namespace that are ours."""
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
        return {line.decode(errors="replace") for line in lines if self._names_us(line)}

    def processes(self) -> set[str]:
        """Processes that have a place of ours in their mounts, or our mark in their environment; this one apart."""
        found = set()
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                ours = self.mark and self.mark in Path(entry.path, "environ").read_bytes().split(b"\0")
                if not ours and not self._names_us(Path(entry.path, "mountinfo").read_bytes()):
                    continue
                command = (
                    Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                state = Path(entry.path, "stat").read_text(errors="replace").rpartition(") ")[2][:1]
            except OSError:  # gone, or somebody else's
                continue
            if state != "Z":
                found.add(f"{entry.name} {command}")
        return found

    def cgroups(self) -> set[str]:
        """Control groups of Lamina's in which nobody lives."""
        found = set()
        for directory, subdirectories, _ in os.walk(CGROUPS):
            for name in subdirectories:
                path = Path(directory, name)
                if "lamina" in str(path).lower() and _is_empty(path):
                    found.add(str(path))
        return found

    def left(self, patience: float = 5.0) -> list[str]:
        """What is there now and was not before, after waiting up to *patience* seconds for it to go away."""
        end = time.monotonic() + patience
        looks: tuple[tuple[str, Callable[[], set[str]], set[str]], ...] = (
            ("mount", self.mounts, self._mounts),
            ("process", self.processes, self._processes),
            ("control group", self.cgroups, self._cgroups),
        )
        lasting: dict[str, set[str]] = {}
        while True:
            lasting = {
                # a control group must stay empty all the time to be a left-over: others' come and go
                kind: (look() - before) & lasting.get(kind, look())
                for kind, look, before in looks
            }
            if not any(lasting.values()) or time.monotonic() > end:
                return [f"{kind} {what}" for kind, found in lasting.items() for what in sorted(found)]
            time.sleep(0.05)

    def _names_us(self, text: bytes) -> bool:
        return any(place in text for place in self.places)


def _is_empty(cgroup: Path) -> bool:
    try:
        with os.scandir(cgroup) as entries:  # closed, although the first directory may end the search
            return not (cgroup / "cgroup.procs").read_text() and not any(
                entry.is_dir(follow_symlinks=False) for entry in entries
            )
    except OSError:
        return False
