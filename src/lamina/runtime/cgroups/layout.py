"""Where the control groups of this host are: v1 controllers in hierarchies of their own, the v2 tree, or both.

An absolute `cgroupsPath` lies below each hierarchy's mount point; where a relative one lies is in `delegation`.
"""

from __future__ import annotations

import os

from lamina.errors import InvalidInput, Unsupported
from lamina.values import value

# config-linux.md#control-groups; /proc/cgroups has no others that can be asked for
V1_CONTROLLERS = frozenset(
    ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio",
     "perf_event", "pids", "rdma")
)  # fmt: skip


@value
class Layout:
    """The cgroup mounts of this host.

    `v1`: controller -> mount point, named hierarchies as "name=systemd"; `v2`: the mount point of the unified tree;
    `v2_controllers`: what it has to offer; `mount_roots`: mount point -> the group that is mounted there, where it is
    not the root (a bind mount, or a mount seen from another cgroup namespace).
    """

    v1: dict[str, bytes]
    v2: bytes | None
    v2_controllers: frozenset[str]
    mount_roots: tuple[tuple[bytes, bytes], ...] = ()

    def holds(self, controller: str) -> bool:
        """Whether *controller* is anywhere."""
        return controller in self.v1 or controller in self.v2_controllers


def read_layout() -> Layout:
    """Find the mounts in /proc/self/mountinfo (proc_pid_mountinfo(5)); of several, the first counts."""
    v1: dict[str, bytes] = {}
    roots = []
    v2 = None
    with open("/proc/self/mountinfo", "rb", buffering=0) as mounts:
        text = mounts.readall()
    for line in text.splitlines():
        before, _, after = line.partition(b" - cgroup")
        if not after:
            continue
        _, _, _, root, place, _ = before.split(b" ", 5)
        if b"\\" in place or b"\\" in root:
            place, root = _unescaped(place), _unescaped(root)
        if root != b"/":
            roots.append((place, root))
        if after.startswith(b"2 "):
            v2 = v2 or place
        else:
            for option in after.rsplit(b" ", 1)[-1].decode(errors="surrogateescape").split(","):
                if option in V1_CONTROLLERS or option.startswith("name="):
                    v1.setdefault(option, place)
    return Layout(v1, v2, controllers_of(v2) if v2 is not None else frozenset(), tuple(roots))


def _unescaped(field: bytes) -> bytes:
    for escape, character in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(escape, character)
    return field


def read_file(file: bytes) -> bytes:
    """All of a small file; nothing where it cannot be read."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.readall()
    except OSError:
        return b""


def controllers_of(group: bytes) -> frozenset[str]:
    """The controllers that a v2 group has to offer; none where it cannot be read."""
    return frozenset(read_file(group + b"/cgroup.controllers").decode().split())


def relative_path(path: str) -> bytes:
    """*path* without its first slash, as bytes. Raises InvalidInput for one that leads elsewhere or nowhere."""
    relative = os.fsencode(path).strip(b"/")
    if not relative or b".." in relative.split(b"/") or b"\0" in relative or b"\n" in relative:
        raise InvalidInput(f"make cgroup {path!r}: not a path below the hierarchy")
    return relative


def missing(what: str, controller: str, layout: Layout) -> Unsupported:
    """The error for a limit that was asked for and whose *controller* is nowhere."""
    if layout.v2 is not None and not layout.v1:
        remedy = f"have the {controller} controller enabled and delegated (see `lamina doctor`), or leave the limit out"
    else:
        remedy = "see `lamina info`; start without the limit, or boot with the controller enabled"
    return Unsupported(f"limit {what}: this host has no {controller} cgroup controller", remedy=remedy)
