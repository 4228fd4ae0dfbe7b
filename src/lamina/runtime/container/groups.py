"""The control groups of a container as its life needs them: made, found again from its record, and removed."""

from __future__ import annotations

import os

from lamina.errors import Unsupported
from lamina.runtime import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Resources = dict[str, Any]

DEFAULT_PARENT = "/lamina-runtime"


def path_of(identity: str, linux: dict[str, Any], *, systemd: bool) -> str:
    """`linux.cgroupsPath`, or where the groups of a container go that has none."""
    path = str(linux.get("cgroupsPath") or "")
    if not path:
        return f":lamina:{identity}" if systemd else f"{DEFAULT_PARENT}/{identity}"
    if not systemd and ":" in path:
        return "/" + path.replace(":", "/")  # as systemd's words are read by those who do not ask it
    return path


def make(identity: str, linux: dict[str, Any], *, systemd: bool) -> Any:
    """Make the groups of `linux.cgroupsPath` and write `linux.resources`; None where this user may make none and none
    were asked for. Raises what `cgroups.create` raises.
    """
    path = path_of(identity, linux, systemd=systemd)
    resources = linux.get("resources") or {}
    manager = "systemd" if systemd else "cgroupfs"
    if not hasattr(cgroups, "reopen"):
        return cgroups.create(path, {k: v for k, v in resources.items() if k != "devices"})
    make: Any = cgroups.create
    try:
        return make(
            path, resources, manager=manager, everywhere=True, own_parent=not linux.get("cgroupsPath")
        )
    except Unsupported:
        if resources or linux.get("cgroupsPath") or os.geteuid() == 0:
            raise
        return None


def note(cgroup: Any) -> dict[str, Any] | None:
    """What state.json keeps of them."""
    if cgroup is None:
        return None
    if hasattr(cgroup, "record"):
        found: dict[str, Any] = cgroup.record()
        return found
    return {"paths": {name: os.fsdecode(place) for name, place in cgroup.paths.items()}}


def of(record: dict[str, Any]) -> Any:
    """The groups of a container whose state.json is *record*: also of one whose creation was killed meanwhile. None
    where it has none.
    """
    if record.get("cgroup"):
        return reopen(record["cgroup"])
    path = record.get("cgroups_path")
    return cgroups.find(path, own_parent=True) if path and hasattr(cgroups, "find") else None


def reopen(record: dict[str, Any]) -> Any:
    """The groups that a record speaks of."""
    if hasattr(cgroups, "reopen"):
        return cgroups.reopen(record)
    return _Plain({name: os.fsencode(place) for name, place in record["paths"].items()})


class _Plain:
    """Until the control groups have all of this themselves."""

    notes: tuple[str, ...] = ()
    frozen = False
    v2 = None

    def __init__(self, paths: dict[str, bytes]) -> None:
        self.paths = paths
        self.tasks: dict[str, int] = {}

    def open(self, below: str = "", beside: int = 0) -> None:
        for name, place in self.paths.items():
            self.tasks[name] = os.open(place + b"/tasks", os.O_WRONLY | os.O_CLOEXEC)

    def close(self) -> None:
        for fd in self.tasks.values():
            os.close(fd)
        self.tasks = {}

    def processes(self) -> list[int]:
        found: set[int] = set()
        for place in self.paths.values():
            try:
                with open(place + b"/cgroup.procs", "rb", buffering=0) as file:
                    found.update(map(int, file.read().split()))
            except FileNotFoundError:
                pass
        return sorted(found)

    def kill(self, signal: int = 9, timeout: float = 10.0) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal)
            except ProcessLookupError:
                pass

    def remove(self) -> None:
        cgroups.remove_directories(self.paths)
