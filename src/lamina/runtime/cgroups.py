"""Control groups: where they are on this host, one made for a container, its limits, and its end.

cgroup v1 controllers are hierarchies of their own, each mounted somewhere; v2 is one tree; a hybrid has both
(cgroups(7)). A container joins only hierarchies in which something was asked of it.
"""

from __future__ import annotations

import os
from errno import EACCES, EBUSY, EEXIST, ENOENT, EPERM, EROFS

from lamina.errors import InvalidInput, KernelError, Unsupported
from lamina.linux.fd import Fd
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Resources = dict[str, Any]

PERIOD = 100_000  # microseconds: the kernel's and Docker's default


@value
class Layout:
    """The cgroup mounts of this host: v1 controllers by name, and the v2 tree with its controllers."""

    v1: dict[str, bytes]
    v2: bytes | None
    v2_controllers: frozenset[str]

    def holds(self, controller: str) -> bool:
        """Whether *controller* is anywhere."""
        return controller in self.v1 or controller in self.v2_controllers


def read_layout() -> Layout:
    """Find the mounts in /proc/self/mountinfo (proc_pid_mountinfo(5)); of several, the first counts."""
    v1: dict[str, bytes] = {}
    v2 = None
    with open("/proc/self/mountinfo", "rb", buffering=0) as mounts:
        text = mounts.read()
    for line in text.splitlines():
        before, _, after = line.partition(b" - ")
        fstype, _, rest = after.partition(b" ")
        place = before.split(b" ", 5)[4]
        if fstype == b"cgroup2":
            v2 = v2 or place
        elif fstype == b"cgroup":
            for option in rest.rsplit(b" ", 1)[-1].split(b","):
                v1.setdefault(option.decode(), place)
    controllers = frozenset[str]()
    if v2 is not None:
        try:
            with open(v2 + b"/cgroup.controllers", "rb", buffering=0) as held:
                controllers = frozenset(held.read().decode().split())
        except OSError:
            pass  # a v2 tree that cannot be read offers nothing
    return Layout(v1, v2, controllers)


def settings(resources: Resources, layout: Layout) -> dict[str, list[tuple[str, str]]]:
    """What to write for OCI `linux.resources`: controller -> [(file, text)], in the words of where it is mounted.

    https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups
    Raises Unsupported for a limit whose controller this host has not: a limit is never dropped.
    """
    wanted: dict[str, list[tuple[str, str]]] = {}
    memory, cpu, pids = (resources.get(k) or {} for k in ("memory", "cpu", "pids"))
    for name, asked in (("memory", memory), ("cpu", cpu), ("pids", pids)):
        if not any(value is not None for value in asked.values()):
            continue
        if not layout.holds(name):
            raise Unsupported(
                f"limit {name}: this host has no {name} cgroup controller",
                remedy="see `lamina info`; start without the limit, or boot with the controller enabled",
            )
        make = _V1[name] if name in layout.v1 else _V2[name]
        wanted[name] = make(asked)
    unknown = set(resources) - {"memory", "cpu", "pids", "devices", "unified"}
    if unknown:
        raise Unsupported(f"limit {', '.join(sorted(unknown))}: not supported so far")
    return wanted


def _memory_v1(asked: Resources) -> list[tuple[str, str]]:
    files = []
    for key, file in (("limit", "memory.limit_in_bytes"), ("reservation", "memory.soft_limit_in_bytes")):
        if asked.get(key) is not None:
            files.append((file, str(asked[key])))
    if asked.get("swap") is not None:
        files.append(("?memory.memsw.limit_in_bytes", str(asked["swap"])))
    return files


def _memory_v2(asked: Resources) -> list[tuple[str, str]]:
    limit, swap = asked.get("limit"), asked.get("swap")
    files = [] if limit is None else [("memory.max", "max" if limit < 0 else str(limit))]
    if asked.get("reservation") is not None:
        files.append(("memory.low", str(asked["reservation"])))
    if swap is not None:
        # v1's number counts memory and swap together, v2's swap alone
        files.append(("?memory.swap.max", "max" if swap < 0 else str(max(0, swap - (limit or 0)))))
    return files


def _cpu_v1(asked: Resources) -> list[tuple[str, str]]:
    files = []
    if asked.get("shares"):
        files.append(("cpu.shares", str(asked["shares"])))
    if asked.get("period"):
        files.append(("cpu.cfs_period_us", str(asked["period"])))
    if asked.get("quota") is not None:
        files.append(("cpu.cfs_quota_us", str(asked["quota"])))
    return files


def _cpu_v2(asked: Resources) -> list[tuple[str, str]]:
    files = []
    if asked.get("shares"):
        # 2..262144 onto 1..10000, as every runtime converts it
        weight = 1 + (max(2, min(262144, int(asked["shares"]))) - 2) * 9999 // 262142
        files.append(("cpu.weight", str(weight)))
    quota, period = asked.get("quota"), asked.get("period")
    if quota is not None or period:
        files.append(("cpu.max", f"{quota if quota and quota > 0 else 'max'} {period or PERIOD}"))
    return files


def _pids(asked: Resources) -> list[tuple[str, str]]:
    limit = asked.get("limit")
    return [] if limit is None else [("pids.max", str(limit) if limit > 0 else "max")]


_V1 = {"memory": _memory_v1, "cpu": _cpu_v1, "pids": _pids}
_V2 = {"memory": _memory_v2, "cpu": _cpu_v2, "pids": _pids}


class Cgroup:
    """A container's control groups: one directory in each hierarchy it uses. `paths`: controller -> directory."""

    def __init__(self, paths: dict[str, bytes], tasks: dict[str, Fd], v2: Fd | None) -> None:
        self.paths = paths
        self.tasks = tasks
        self.v2 = v2

    def close(self) -> None:
        """Close the descriptors with which a start joins it."""
        for fd in (*self.tasks.values(), *([self.v2] if self.v2 is not None else [])):
            fd.close()

    def remove(self) -> None:
        """Remove the directories, and the parents that are left empty; what is gone already is no error."""
        remove_directories(self.paths)

    def oom_kills(self) -> int:
        """How many processes the kernel killed in it for want of memory (0 where nothing limits memory)."""
        place = self.paths.get("memory")
        if place is None:
            return 0
        for file in (b"memory.oom_control", b"memory.events"):
            try:
                with open(place + b"/" + file, "rb", buffering=0) as counts:
                    for line in counts.read().splitlines():
                        if line.startswith(b"oom_kill "):
                            return int(line.split()[1])
            except FileNotFoundError:
                continue
        return 0


def remove_directories(paths: dict[str, bytes]) -> None:
    """Remove the cgroup directories of a container whose processes are gone.

    Raises KernelError when one is still in use.
    """
    for place in dict.fromkeys(paths.values()):
        for attempt in range(50):
            try:
                os.rmdir(place)
            except OSError as error:
                if error.errno == ENOENT:
                    break
                if error.errno != EBUSY or attempt == 49:
                    raise KernelError("rmdir", error.errno or 0, os.fsdecode(place)) from error
                # the last task's exit is accounted a moment after it is reaped
                import time

                time.sleep(0.002 * (attempt + 1))
            else:
                break
        try:
            os.rmdir(os.path.dirname(place))
        except OSError:
            pass  # other containers live there


def create(path: str, resources: Resources, layout: Layout | None = None) -> Cgroup | None:
    """Make the cgroups at *path* (absolute, below each hierarchy's root) and write the limits.

    None when nothing was asked for. Raises Unsupported when the host has no such controller or does not let us
    write, KernelError when a value is refused. Nothing is left behind when it raises.
    """
    layout = layout or read_layout()
    wanted = settings(resources, layout)
    if not wanted:
        return None
    relative = path.strip("/").encode()
    if not relative or b".." in relative.split(b"/"):
        raise InvalidInput(f"make cgroup {path!r}: not a path below the hierarchy")
    cgroup = Cgroup({}, {}, None)
    try:
        for controller, files in wanted.items():
            root = layout.v1.get(controller) or layout.v2
            assert root is not None
            place = root + b"/" + relative
            if controller not in layout.v1:
                _delegate(root, relative, controller)
            _make(place, controller)
            cgroup.paths[controller] = place
            for file, text in files:
                _write(place, file, text, controller)
            if controller in layout.v1:
                cgroup.tasks[controller] = Fd(os.open(place + b"/tasks", os.O_WRONLY | os.O_CLOEXEC))
            elif cgroup.v2 is None:
                cgroup.v2 = Fd(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except BaseException as failure:
        cgroup.close()
        try:
            cgroup.remove()
        except OSError as second:
            failure.add_note(f"while cleaning up: {second}")
        raise
    return cgroup


def _make(place: bytes, controller: str) -> None:
    for _ in range(20):
        try:
            _make_closed(place)
            return
        except OSError as error:
            if error.errno in (EACCES, EPERM, EROFS):
                raise Unsupported(
                    f"limit {controller}: {os.fsdecode(place)} cannot be made: {os.strerror(error.errno)}",
                    remedy="run as root, or have the cgroup delegated to this user (see `lamina doctor`)",
                ) from error
            # the parent may be removed by another container's end between two of our calls
            if error.errno not in (ENOENT, EEXIST):
                raise KernelError("mkdir", error.errno or 0, os.fsdecode(place)) from error
    raise KernelError("mkdir", ENOENT, os.fsdecode(place))


def _make_closed(place: bytes) -> None:
    """mkdir(2), and what is missing above it: os.makedirs would leave that open to whomever the umask does."""
    try:
        os.mkdir(place, 0o755)
    except FileNotFoundError:
        _make_closed(os.path.dirname(place))
        os.mkdir(place, 0o755)
    except FileExistsError:
        pass


def _delegate(root: bytes, relative: bytes, controller: str) -> None:
    """cgroup v2: a controller works below a directory only when each above hands it down (cgroups(7))."""
    place = root
    for name in (b"", *relative.split(b"/")[:-1]):
        place = place + b"/" + name if name else place
        _make(place, controller)
        try:
            with open(place + b"/cgroup.subtree_control", "wb", buffering=0) as control:
                control.write(b"+" + controller.encode())
        except OSError as error:
            raise Unsupported(
                f"limit {controller}: {os.fsdecode(place)} does not hand it down: {os.strerror(error.errno or 0)}",
                remedy="have the cgroup delegated (see `lamina doctor`)",
            ) from error


def _write(place: bytes, file: str, text: str, controller: str) -> None:
    optional, file = file.startswith("?"), file.lstrip("?")
    try:
        with open(place + b"/" + file.encode(), "wb", buffering=0) as setting:
            setting.write(text.encode())
    except OSError as error:
        # swap is accounted only where the kernel was told so; without, memory alone is the limit, as in Docker
        if optional and error.errno == ENOENT:
            return
        raise KernelError(
            f"write {text} to", error.errno or 0, os.fsdecode(place + b"/" + file.encode()),
            hint=f"the kernel refuses this {controller} limit",
        ) from error  # fmt: skip
