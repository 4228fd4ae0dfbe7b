"""Questions about control groups; see `probe`. cgroups(7)."""

from __future__ import annotations

import os

from lamina.errors import KernelError
from lamina.linux.mountinfo import read_mountinfo
from lamina.linux.probe import No, Yes
from lamina.linux.probe_system import read_setting
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.linux.mountinfo import Mount
    from lamina.linux.probe import Answer, Host


@value
class Hierarchy:
    """A tree of control groups that is mounted.

    `version` 1 or 2; `controllers` it has to offer at `place` (else at `own`); `name` of a version 1 tree
    without controllers ("systemd"); `mount_point`; `own` the directory of the process's own group, b"" when it is not
    within the mount; `place` the highest group of these in which this user can make others, b"" when there is none.
    """

    version: int
    controllers: tuple[str, ...]
    name: str
    mount_point: bytes
    own: bytes
    place: bytes

    @property
    def writable(self) -> bool:
        """Whether this user can make groups in it."""
        return bool(self.place)


def cgroup_hierarchies(host: Host) -> tuple[Hierarchy, ...]:
    """Every tree of control groups, and this process's place in it"""
    try:
        mounts = read_mountinfo()
    except KernelError:  # no procfs here
        return ()
    try:
        with open("/proc/self/cgroup", "rb") as file:
            groups = file.read().split(b"\n")
    except OSError:
        groups = []
    return hierarchies(mounts, groups)


def hierarchies(mounts: Iterable[Mount], groups: Iterable[bytes]) -> tuple[Hierarchy, ...]:
    """The trees among *mounts*, with the process's place in each from the lines of /proc/<pid>/cgroup."""
    # "4:memory:/user.slice", "9:name=systemd:/", "0::/"; nothing is escaped here
    places = {}
    for line in groups:
        _, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon:
            places[frozenset(controllers.decode().split(",")) - {""}] = path
    found: dict[frozenset[str], Hierarchy] = {}
    for mount in mounts:
        for wanted, path in places.items():
            if _is_tree_of(wanted, mount):
                # a tree may be mounted several times: use the first place where it can be written to
                tree = _hierarchy(mount, wanted, path)
                if wanted not in found or (tree.writable and not found[wanted].writable):
                    found[wanted] = tree
    return tuple(found.values())


def _is_tree_of(controllers: frozenset[str], mount: Mount) -> bool:
    if not controllers:
        return mount.fstype == b"cgroup2"
    return mount.fstype == b"cgroup" and controllers <= {
        os.fsdecode(option) for option in mount.super_options
    }


def _hierarchy(mount: Mount, wanted: frozenset[str], path: bytes) -> Hierarchy:
    own = b""
    if path == mount.root or mount.root == b"/" or path.startswith(mount.root + b"/"):
        below = path[len(mount.root) :] if mount.root != b"/" else path
        own = (mount.mount_point.rstrip(b"/") + b"/" + below.strip(b"/")).rstrip(b"/")
    version = 2 if mount.fstype == b"cgroup2" else 1
    place = b""
    if not mount.read_only:
        place = next(
            (group for group in (mount.mount_point, own) if group and _may_divide(group, version)), b""
        )
    if version == 2:
        offered = read_setting(os.fsdecode((place or own) + b"/cgroup.controllers")) if place or own else ""
        return Hierarchy(2, tuple((offered or "").split()), "", mount.mount_point, own, place)
    names = sorted(name for name in wanted if not name.startswith("name="))
    title = next((name[5:] for name in wanted if name.startswith("name=")), "")
    return Hierarchy(1, tuple(names), title, mount.mount_point, own, place)


def _may_divide(group: bytes, version: int) -> bool:
    """Whether this user may make groups in *group* and, in version 2, hand its controllers down and move processes."""
    files = (b"/cgroup.procs", b"/cgroup.subtree_control") if version == 2 else ()
    return os.access(group, os.W_OK) and all(os.access(group + file, os.W_OK) for file in files)


def cgroup_mode(host: Host) -> str:
    """How control groups are mounted: v1, v2, hybrid (both), none"""
    versions = {tree.version for tree in host.cgroup_hierarchies}
    return {frozenset({1}): "v1", frozenset({2}): "v2", frozenset({1, 2}): "hybrid"}.get(
        frozenset(versions), "none"
    )


def cgroup_memory(host: Host) -> Answer:
    """Whether this user can limit a container's memory (--memory)"""
    return _controller(host, "memory")


def cgroup_cpu(host: Host) -> Answer:
    """Whether this user can limit a container's processor time (--cpus)"""
    return _controller(host, "cpu")


def cgroup_cpuset(host: Host) -> Answer:
    """Whether this user can choose a container's processors"""
    return _controller(host, "cpuset")


def cgroup_pids(host: Host) -> Answer:
    """Whether this user can limit a container's number of processes (--pids-limit)"""
    return _controller(host, "pids")


def cgroup_io(host: Host) -> Answer:
    """Whether this user can limit a container's input and output"""
    return _controller(host, "blkio", "io")


def cgroup_freeze(host: Host) -> Answer:
    """Whether a container can be paused as a whole"""
    for tree in host.cgroup_hierarchies:
        if tree.version == 2 and tree.writable and host.at_least("5.2"):
            return Yes("5.2")
    return _controller(host, "freezer")


def cgroup_kill(host: Host) -> Answer:
    """Whether a container can be killed as a whole (cgroup.kill)"""
    for tree in host.cgroup_hierarchies:
        if tree.version == 2 and tree.writable:
            if host.at_least("5.14"):
                return Yes("5.14")
            return No(f"kernel {host.release}: cgroup.kill is there since 5.14")
    return No("there is no cgroup v2 tree that this user may write to")


def _controller(host: Host, v1: str, v2: str = "") -> Answer:
    there = [
        tree
        for tree in host.cgroup_hierarchies
        if (v1 if tree.version == 1 else v2 or v1) in tree.controllers
    ]
    for tree in there:
        if tree.writable:
            return Yes("", f"v{tree.version}, {os.fsdecode(tree.place)}")
    if there:
        where = os.fsdecode(there[0].own) or "this process's group, which is not within the mount"
        return No(f"the {v1} controller is there, but {where} is not delegated to this user")
    if host.cgroup_mode == "v2":
        return No(f"the {v1} controller is not delegated to this process's group")
    return No(f"no {v1} controller is mounted")
