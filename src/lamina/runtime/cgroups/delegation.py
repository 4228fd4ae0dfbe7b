"""Where a process may make control groups: below the mount points as root, below what was delegated to it else.

A relative `cgroupsPath` lies where the specification leaves it to the runtime, which is there.
"""

from __future__ import annotations

import os

from lamina.runtime.cgroups.layout import Layout, controllers_of
from lamina.values import replace


def settle(layout: Layout, pid: int | str = "self") -> Layout:
    """The layout whose mount points are where a relative path begins, for the process *pid*."""
    v1 = {name: _writable_v1(layout, name, place, pid) for name, place in layout.v1.items()}
    if layout.v2 is None or _may_divide(layout.v2):
        return replace(layout, v1=v1)
    base = delegated(layout, pid)
    if base is None:
        return replace(layout, v1=v1, v2_controllers=frozenset())
    return replace(layout, v1=v1, v2=base, v2_controllers=controllers_of(base))


def _writable_v1(layout: Layout, controller: str, place: bytes, pid: int | str) -> bytes:
    if os.access(place, os.W_OK):
        return place
    return own(layout, pid).get(controller) or place


def own(layout: Layout, pid: int | str = "self") -> dict[str, bytes]:
    """The directories that a process is in: v1 controllers by name, the v2 tree as "". cgroups(7).

    A hierarchy is left out where the process's group is not below what is mounted.
    """
    found = {}
    with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as groups:
        lines = groups.readall().splitlines()
    for line in lines:
        _, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        for name in controllers.decode(errors="surrogateescape").split(","):
            mount_point = layout.v1.get(name) if name else layout.v2
            if mount_point is None:
                continue
            place = _below(mount_point, dict(layout.mount_roots).get(mount_point, b"/"), path)
            if place is not None:
                found[name] = place
    return found


def _below(mount_point: bytes, root: bytes, path: bytes) -> bytes | None:
    if root == b"/":
        return mount_point + path.rstrip(b"/")
    if path == root or path.startswith(root + b"/"):
        return mount_point + path[len(root) :].rstrip(b"/")
    return None


def delegated(layout: Layout, pid: int | str = "self") -> bytes | None:
    """The v2 group below which this user may make groups and move its own processes into them, or None.

    It is the nearest group above the process's own that is writable and has no processes itself: where there are some,
    no controller can be handed down (cgroup-v2.rst, "No Internal Process Constraint"), and to move a process takes
    write access to `cgroup.procs` of the nearest common ancestor ("Delegation Containment"). systemd gives users such
    groups below user@.service, and services with `Delegate=`.
    """
    if layout.v2 is None:
        return None
    here = own(layout, pid).get("")
    while here is not None and _may_divide(here):
        if not _inhabited(here):
            return here
        if here == layout.v2:
            return None
        here = os.path.dirname(here)
    return None


def _may_divide(group: bytes) -> bool:
    return all(
        os.access(group + file, os.W_OK) for file in (b"", b"/cgroup.procs", b"/cgroup.subtree_control")
    )


def _inhabited(group: bytes) -> bool:
    try:
        with open(group + b"/cgroup.procs", "rb", buffering=0) as processes:
            return bool(processes.read(1))
    except OSError:  # threaded: its processes are listed further up
        return True
