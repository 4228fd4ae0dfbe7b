"""The control groups of a container as its life needs them: made, found again from its record, and removed."""

from __future__ import annotations

import os
from time import monotonic, sleep

from lamina.errors import Unsupported
from lamina.runtime.container.directory import default_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.runtime.cgroups import Cgroup
    from lamina.runtime.container.directory import Container

# seconds
DYING = 1.0
DEFAULT_PARENT = "lamina-runtime"


def path_of(container: Container, linux: dict[str, Any], *, systemd: bool) -> str:
    """`linux.cgroupsPath`, or where the groups of a container go that has none: an ordinary user's below what was
    delegated to them. Containers of the same id below different roots are different containers.
    """
    path = str(linux.get("cgroupsPath") or "")
    if not path:
        mark = ""
        if container.root != default_root():
            from binascii import crc32

            mark = f"-{crc32(container.root):08x}"
        if systemd:
            return f":lamina{mark}:{container.id}"
        return f"{'' if os.geteuid() else '/'}{DEFAULT_PARENT}{mark}/{container.id}"
    if not systemd and ":" in path and not path.startswith("/"):
        return "/" + path.replace(":", "/")  # as systemd's words are read by those who do not ask it
    return path


def make(container: Container, linux: dict[str, Any], *, systemd: bool) -> Cgroup | None:
    """Make the groups of `linux.cgroupsPath` and write `linux.resources`; None where this user may make none and none
    were asked for. Raises what `cgroups.create` raises.
    """
    from lamina.runtime.cgroups.making import create

    path = path_of(container, linux, systemd=systemd)
    resources = linux.get("resources") or {}
    manager = "systemd" if systemd else "cgroupfs"
    try:
        return create(
            path,
            resources,
            manager=manager,
            everywhere=True,
            own_parent=not linux.get("cgroupsPath"),
            nodes=linux.get("devices") or [],
        )
    except Unsupported:
        if resources or linux.get("cgroupsPath") or os.geteuid() == 0:
            raise
        return None


def note(cgroup: Cgroup | None) -> dict[str, Any] | None:
    """What state.json keeps of them."""
    return None if cgroup is None else cgroup.record()


def are_ours(record: dict[str, Any]) -> bool:
    """Whether the groups at its path can only be this container's; at a path that somebody chose, somebody else may
    live, whatever it is called.
    """
    return bool(record.get("cgroups_path")) and not record.get("cgroups_chosen", True)


def of(record: dict[str, Any]) -> Cgroup | None:
    """The groups of a container whose state.json is *record*: also of one whose creation was killed meanwhile. None
    where it has none.
    """
    if record.get("cgroup"):
        return reopen(record["cgroup"])
    if not are_ours(record):
        return None
    from lamina.runtime.cgroups import find

    found = find(str(record["cgroups_path"]), own_parent=True)
    return found if found.paths else None


def remove_left(record: dict[str, Any]) -> None:
    """Remove what a creation that was killed has made at a path that somebody chose, before it could note that. Where
    somebody lives, who may be anybody, nothing is touched.
    """
    path = str(record.get("cgroups_path") or "")
    if record.get("cgroup") or not path or of(record) is not None:
        return
    from lamina.runtime.cgroups import find

    left = find(path)
    end = monotonic() + DYING  # its first process ends when its maker has
    while left.processes():
        if monotonic() > end:
            return
        sleep(0.01)
    left.remove()


def reopen(record: dict[str, Any]) -> Cgroup:
    """The groups that a record speaks of."""
    from lamina.runtime.cgroups.cgroup import reopen as reopened

    return reopened(record)
