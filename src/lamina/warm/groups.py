"""Whether a control group is kept in use by nobody but us: systemd waits for scopes to be empty, and so does whoever
made a group for one job. cgroups(7)
"""

from __future__ import annotations

from lamina.linux.mountinfo import Mount, read_mountinfo


def is_alone(pids: set[int]) -> bool:
    """Whether some control group of this process, below the root, has only *pids* in it."""
    mounts = [mount for mount in read_mountinfo() if mount.fstype in (b"cgroup", b"cgroup2")]
    with open("/proc/self/cgroup", "rb") as file:
        for line in file:
            _, controllers, path = line.rstrip(b"\n").split(b":", 2)
            if path != b"/" and (place := _directory(mounts, controllers, path)) is not None:
                members = _members(place)
                if members and members <= pids:
                    return True
    return False


def _directory(mounts: list[Mount], controllers: bytes, path: bytes) -> bytes | None:
    """Where the group *path* of the hierarchy with *controllers* (none: that of v2) is seen, if it is."""
    wanted = set(filter(None, controllers.split(b",")))
    for mount in mounts:
        root = mount.root.rstrip(b"/")
        right = wanted <= set(mount.super_options) if wanted else mount.fstype == b"cgroup2"
        if right and (path + b"/").startswith(root + b"/"):
            return mount.mount_point + path[len(root) :]
    return None


def _members(place: bytes) -> set[int]:
    try:
        with open(place + b"/cgroup.procs", "rb") as file:
            return {int(line) for line in file}
    except (OSError, ValueError):
        return set()
