"""One container's control groups, as an object: what can be done with them. The doing is in the modules beside this."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.linux.fd import Fd
    from lamina.runtime.cgroups.layout import Layout
    from lamina.runtime.cgroups.oom import OomWatch
    from lamina.runtime.cgroups.resources import Resources
    from lamina.runtime.cgroups.stats import Stats
    from lamina.runtime.cgroups.systemd import Keeper

SIGKILL = 9
# the hierarchies in which processes are frozen (freezer.py), v2 first: where that says so, and how when they are not
_FREEZERS = (("", b"/cgroup.freeze", b"0"), ("freezer", b"/freezer.state", b"THAWED"))


class Cgroup:
    """A container's control groups: one directory in each hierarchy that it uses.

    `paths` has them: v1 controllers by name, cgroup v2 as "". `tasks` (v1: hierarchy -> its `tasks` file, open for
    writing) and `v2` (the directory) are what a start joins with; they are ours until `close()`. `unit` is systemd's
    name for it ("" without systemd), `user` whether that is the user's manager. `notes` say what differs from what was
    asked. Everything but the descriptors survives in `record()`.
    """

    def __init__(
        self,
        paths: dict[str, bytes],
        *,
        made: list[bytes] | None = None,
        own_parent: bool = False,
        unit: str = "",
        user: bool = False,
    ) -> None:
        self.paths = paths
        self.made = made if made is not None else []  # the groups above that `create` found missing
        self.found: list[bytes] = []  # the container's own that were there already
        self.own_parent = own_parent
        self.unit, self.user = unit, user
        self.tasks: dict[str, Fd] = {}
        self.v2: Fd | None = None
        self.keeper: Keeper | None = None  # until it is closed, a process of ours keeps systemd's unit alive
        self.notes: list[str] = []

    def record(self) -> dict[str, Any]:
        """All that `reopen()` needs, for a JSON file."""
        return {
            "paths": {name: os.fsdecode(place) for name, place in self.paths.items()},
            "made": [os.fsdecode(place) for place in self.made],
            "own_parent": self.own_parent,
            "unit": self.unit,
            "user": self.user,
        }

    def open(self, below: tuple[str, ...] = (), beside: int = 0) -> None:
        """Open the descriptors to join with (`tasks`, `v2`) once more, for another process of the container.

        *below* is a path inside the container's groups, or several, each for some v1 controllers ("cpu,cpuacct:path").
        A v2 group that hands controllers down takes no processes; then the group of the process *beside* is joined,
        the container's first one. Raises KernelError, NotFound, InvalidInput.
        """
        from lamina.runtime.cgroups.joining import open_groups

        open_groups(self, below, beside)

    def close(self) -> None:
        """Close the descriptors with which a start joins it."""
        for held in (*self.tasks.values(), self.v2, self.keeper):
            if held is not None:
                held.close()
        self.tasks, self.v2, self.keeper = {}, None, None

    def remove(self) -> None:
        """Remove the groups with all that were made inside them, and the parents that are left empty and are ours.

        What is gone already is no error. Raises KernelError (EBUSY) when processes still live there.
        """
        if self.remove_unused():
            return
        from lamina.runtime.cgroups.removing import remove

        remove(self)

    def remove_unused(self) -> bool:
        """The everyday end: groups in which is nobody, nor any other group. False where there is more to do: then the
        group may be gone from those hierarchies in which nobody was. The kernel looks and removes at one moment.
        """
        if self.unit:
            return False
        places = list(dict.fromkeys(self.paths.values()))
        for place in places:
            try:
                os.rmdir(place)
            except FileNotFoundError:
                pass
            except OSError:
                return False
        self.remove_parents(places)
        return True

    def remove_parents(self, places: list[bytes]) -> None:
        """Remove the groups above that are ours, as far as they are empty."""
        for parent in self.parents(places):
            try:
                os.rmdir(parent)
            except OSError:
                pass  # other containers live there, or their engine removed it

    def parents(self, places: list[bytes]) -> list[bytes]:
        """The groups above that are ours to remove when they are empty, deepest first."""
        made = self.made[::-1]
        return list(dict.fromkeys([*map(os.path.dirname, places), *made])) if self.own_parent else made

    def stats(self) -> Stats:
        """What they have used so far, as numbers with units."""
        from lamina.runtime.cgroups.stats import read_stats

        return read_stats(self)

    def update(self, resources: Resources, layout: Layout | None = None) -> None:
        """Change limits while the container runs. What is not mentioned stays. Raises as `create` does.

        Where a later limit is refused, the earlier ones stay changed.
        """
        from lamina.runtime.cgroups.update import update

        update(self, resources, layout)

    @property
    def frozen(self) -> bool:
        """Whether it is frozen: what can be and was asked to be counts, whether or not all have stopped yet."""
        for name, file, thawed in _FREEZERS:
            if name in self.paths:
                try:
                    with open(self.paths[name] + file, "rb", buffering=0) as state:
                        return state.read(64).strip() != thawed
                except FileNotFoundError:
                    pass  # v2's is there since Linux 5.2
        return False

    def freeze(self, timeout: float = 10.0) -> None:
        """Stop every process in it, and return once they are stopped.

        Raises Unsupported when no hierarchy of its can, TimeoutExpired (then it is thawed again).
        """
        from lamina.runtime.cgroups.freezer import freeze

        freeze(self, timeout)

    def thaw(self) -> None:
        """Let them go on."""
        from lamina.runtime.cgroups.freezer import thaw

        thaw(self)

    def processes(self) -> list[int]:
        """The ids of the processes in it and in all groups below, in no particular order."""
        from lamina.runtime.cgroups.killing import processes

        return processes(self)

    def kill(self, signal: int = SIGKILL, timeout: float = 10.0) -> None:
        """Send *signal* to every process in it, none left out and nobody else hit; SIGKILL: until none is left.

        Raises TimeoutExpired when some do not end (a process in an uninterruptible system call).
        """
        from lamina.runtime.cgroups.killing import kill

        kill(self, signal, timeout)

    def oom_kills(self) -> int:
        """How many processes the kernel killed in it for want of memory (0 where nothing limits memory)."""
        place = self.paths.get("memory", self.paths.get(""))
        if place is None:
            return 0
        if "memory" in self.paths and _has_children(place):
            from lamina.runtime.cgroups.oom import kills_below

            return kills_below(place)
        # v2's counter contains those of the groups below
        file = b"/memory.oom_control" if "memory" in self.paths else b"/memory.events"
        try:
            with open(place + file, "rb", buffering=0) as counts:
                return counter(counts.readall(), b"oom_kill")
        except OSError:
            return 0

    def watch_oom(self) -> OomWatch:
        """A descriptor that tells of every such kill. Raises Unsupported without the memory controller."""
        from lamina.runtime.cgroups.oom import OomWatch

        return OomWatch(self)


def counter(text: bytes, name: bytes) -> int:
    """The number after *name* in a file of `name number` lines; 0 when it is not there."""
    for line in text.splitlines():
        if line.startswith(name + b" "):
            return int(line.split()[1])
    return 0


def _has_children(place: bytes) -> bool:
    try:
        return os.stat(place).st_nlink > 2  # kernfs counts subdirectories, as file systems do
    except FileNotFoundError:
        return False


def reopen(record: dict[str, Any]) -> Cgroup:
    """The control groups that a `record()` speaks of, with nothing opened."""
    return Cgroup(
        {name: os.fsencode(place) for name, place in record["paths"].items()},
        made=[os.fsencode(place) for place in record.get("made") or ()],
        own_parent=bool(record.get("own_parent")),
        unit=record.get("unit") or "",
        user=bool(record.get("user")),
    )


def find(path: str, *, own_parent: bool = False) -> Cgroup:
    """The control groups that are there at *path* (`cgroupsPath`) now, in whatever hierarchy: for when a record is
    missing because its writer died. Raises InvalidInput.
    """
    from lamina.runtime.cgroups.layout import read_layout, relative_path

    layout = read_layout()
    if not path.startswith("/"):
        from lamina.runtime.cgroups.delegation import settle

        layout = settle(layout)
    roots = {**layout.v1, **({"": layout.v2} if layout.v2 is not None else {})}
    relative = relative_path(path)
    there = {name: place for name, root in roots.items() if os.path.isdir(place := root + b"/" + relative)}
    return Cgroup(there, own_parent=own_parent)
