"""Shares of the processors: as large for what is measured out here as for the peers, who live in groups of their own.

The kernel gives every control group of the cpu controller the same share, whatever runs in it, and every session
likewise (autogroup, sched(7)). On a machine that others use, a program in a group of its own gets more than one that
has to share its group with whatever else was started from the same terminal.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from stage import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))

from support.peers import GROUP, hierarchies, make_group, remove_group


def own_share(pid: int, name: str, stack: ExitStack) -> None:
    """Put the process *pid*, and what it starts from now on, into a group of the cpu controller until *stack* ends.

    Where there is none everything stays as it is.
    """
    for place, options in hierarchies():
        if options != "cgroup2" and "cpu" not in options.split(","):
            continue
        controllers = place / "cgroup.controllers"
        if controllers.exists() and "cpu" not in controllers.read_text().split():
            continue
        before = place / _path_of(pid, options).lstrip("/")
        group = make_group(place, f"{GROUP}{os.getpid()}-{name}")
        stack.callback(_leave, group, before)
        (group / "cgroup.procs").write_text(str(pid))


def _path_of(pid: int, options: str) -> str:
    """The group that a process is in, in the hierarchy with these options: cgroups(7), /proc/PID/cgroup."""
    wanted = set() if options == "cgroup2" else set(options.split(","))
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if set(filter(None, controllers.split(","))) == wanted:
            return path
    return "/"


def _leave(group: Path, before: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        with suppress(OSError):  # it has ended meanwhile
            (before / "cgroup.procs").write_text(pid)
    remove_group(group)
