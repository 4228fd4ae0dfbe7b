"""From a selection to a journal that has everything: new entries staged, originals and attributes written down.

Nothing of the host changes here but for the areas.
"""

from __future__ import annotations

import json
import os
import stat

from lamina.engine.apply.attributes import OWNER_WRITES, read_attributes
from lamina.engine.apply.conflicts import Comparison
from lamina.engine.apply.journal import text
from lamina.engine.apply.origins import handles_of
from lamina.engine.apply.places import file_system
from lamina.engine.apply.selection import Selection
from lamina.engine.apply.staging import FEW, Staging, said_of
from lamina.engine.apply.units import DirectoryStep, Unit, step_record, unit_record, units_of
from lamina.engine.apply.values import HostChange, below
from lamina.engine.apply.work import AT_ONCE, Work
from lamina.errors import InvalidInput
from lamina.linux.fd import Fd
from lamina.linux.mountinfo import read_mountinfo
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RECORD_SIZE = 128  # of an intent or done record, generously
STATE_SIZE = 4096
ATTRIBUTES = frozenset({"mode", "owner", "xattrs"})


@value
class Plan:
    """What forward.py carries out. `places`: mount point and relative path of everything it will have touched."""

    units: tuple[Unit, ...]
    steps: tuple[DirectoryStep, ...]
    places: dict[bytes, tuple[bytes, bytes]]

    @property
    def is_nothing(self) -> bool:
        """Whether all that was selected are times of directories that belong to others by now."""
        return not self.units and not any(step.what for step in self.steps)


@value
class Around:
    """A directory that stays. `status` is from before an area was made in it; `change` is its own, if it has one."""

    path: bytes
    mountpoint: bytes
    relative: bytes
    status: os.stat_result
    change: HostChange | None


def plan(
    work: Work,
    selection: Selection,
    comparison: Comparison,
    changes: Sequence[HostChange],
    protected: set[tuple[int, int]],
) -> Plan:
    """Stage what *selection* brings and write down what it will do. All *changes* are needed for hard links.

    *protected* are directories (device, inode) that must stay where they are. Raises OSError, InvalidInput, Conflict.
    """
    selected = [c for c in selection.changes if c.kind != "deleted" or c.path in comparison.seen]
    for start in range(0, len(selected), AT_ONCE):
        named = [c for c in selected[start : start + AT_ONCE] if not c.incidental]
        work.log.append("changes", paths=[text(c.path) for c in named])
    if len(selected) < len(changes):
        _record_removed(work, selected)
    few = sum(c.kind != "deleted" for c in selected) <= FEW
    staging = Staging(work.hands, work.host, changes, sync_each=few)
    try:
        drafts = units_of(selected, OneRename(work).allowed)
        _expect(work, drafts)
        around = _around(work, selected, drafts)
        units = [_prepared(work, staging, comparison, protected, unit) for unit in drafts]
        steps = _steps(work, staging, selection, comparison, around)
        linked = {path: c for c in changes if (path := c.link_to) in staging.linked_from and path is not None}
    finally:
        staging.close()
    work.areas.sync(whole=not few)
    places = {c.path: (c.mountpoint, c.change.path) for c in selected}
    places.update((step.host_path, (step.mountpoint, step.path)) for step in steps)
    for path, change in linked.items():
        places[path] = change.mountpoint, change.change.link_to or b""
        work.log.append("linked", mountpoint=text(change.mountpoint), path=text(places[path][1]))
    # what must be written on the way there and back, even if the store's disk is full by then
    paths = sum(len(json.dumps(text(path))) + RECORD_SIZE for path in places)
    work.log.reserve(6 * RECORD_SIZE * len(units) + 2 * paths + STATE_SIZE)
    return Plan(tuple(units), tuple(steps), places)


def _expect(work: Work, drafts: Sequence[Unit]) -> None:
    """Say how much there is to be done: each entry is made, and each unit takes its place."""
    made = [change for unit in drafts for change in unit.made]
    files = [c.after for c in made if c.link_to is None and c.after is not None and c.after.type == "file"]
    work.hands.meter.expect(len(made) + len(drafts), sum(entry.size for entry in files))


def _record_removed(work: Work, selected: Sequence[HostChange]) -> None:
    """Which files go: a later apply of the rest may bring what the container made of them under another name."""
    handles: dict[bytes, list[str]] = {}
    for change in selected:
        if change.kind in ("deleted", "replaced"):
            for mountpoint, handle in handles_of(work.host, change):
                handles.setdefault(mountpoint, []).append(handle.hex())
    for mountpoint, found in handles.items():
        for start in range(0, len(found), AT_ONCE):
            work.log.append("removed", mountpoint=text(mountpoint), handles=found[start : start + AT_ONCE])


def _prepared(
    work: Work, staging: Staging, comparison: Comparison, protected: set[tuple[int, int]], unit: Unit
) -> Unit:
    """The unit with its area, its staged entry, and the inode numbers that tell how far it has got."""
    old = comparison.seen.get(unit.host_path)
    with said_of("apply", unit.host_path):
        directory = work.host.below(unit.mountpoint).open(unit.parent)
        parent_ino = os.fstat(directory).st_ino
        area = work.areas.serving(unit.mountpoint, unit.parent)
        attributes = None
        if old is not None and stat.S_ISDIR(old.st_mode):
            if (old.st_dev, old.st_ino) in protected:
                raise InvalidInput(
                    f"apply {os.fsdecode(unit.host_path)}: Lamina's own store is in this directory",
                    remedy="exclude this path",
                )
            if unit.op == "empty":
                attributes = read_attributes(work.host.below(unit.mountpoint).open(unit.path))
    new_ino = 0
    if unit.made:
        work.hands.before("apply:before-stage", unit.host_path)
        new_ino = staging.stage(work.areas.open(area), area, unit.slot, unit.made)
    prepared = replace(
        unit,
        area=area,
        new_ino=new_ino,
        old_ino=old.st_ino if old is not None and unit.op != "add" else 0,
        parent_ino=parent_ino,
        attributes=attributes,
    )
    work.log.append("unit", **unit_record(prepared))
    return prepared


class OneRename:
    """Whether directories can be renamed with what is in them: not on an overlay (EXDEV for those from its layers)."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._overlays = {mount.id for mount in read_mountinfo() if mount.fstype == b"overlay"}

    def allowed(self, change: HostChange) -> bool:
        """For the directory that *change* replaces or deletes."""
        mount, _ = file_system(self._work.host.below(change.mountpoint).open(b""))
        return mount not in self._overlays


def _around(work: Work, selected: Sequence[HostChange], units: Sequence[Unit]) -> list[Around]:
    """The directories that stay: those whose own attributes change, and those in which something comes or goes."""
    changed = {c.path: c for c in selected if c.kind == "changed" and c.after and c.after.type == "directory"}
    gone = {unit.host_path for unit in units if unit.op == "empty"}
    touched = {below(unit.mountpoint, unit.parent): (unit.mountpoint, unit.parent) for unit in units}
    touched.update((path, (c.mountpoint, c.change.path)) for path, c in changed.items())
    found = []
    for path in sorted(touched.keys() - gone):
        mountpoint, relative = touched[path]
        with said_of("apply", path):
            status = os.fstat(work.host.below(mountpoint).open(relative))
        found.append(Around(path, mountpoint, relative, status, changed.get(path)))
    return found


def _steps(
    work: Work, staging: Staging, selection: Selection, comparison: Comparison, around: Sequence[Around]
) -> list[DirectoryStep]:
    """What is to become of the directories that stay."""
    steps = []
    for item in around:
        with said_of("apply", item.path):
            with Fd(os.dup(work.host.below(item.mountpoint).open(item.relative))) as held:
                old = new = read_attributes(held)
            what = frozenset[str]()
            if item.change is not None:
                what = item.change.what & ATTRIBUTES
                new = staging.attributes(item.change, old)
            user = os.geteuid()
            if user == item.status.st_uid != 0 and old.mode & OWNER_WRITES != OWNER_WRITES:
                what |= {"mode"}  # it must be writable for a while: see forward.narrow()
            mine = user in (0, item.status.st_uid)
            if mine and selection.covers(item.path) and not comparison.busy(item.path, item.status):
                what |= {"times"}
        steps.append(DirectoryStep(item.mountpoint, item.relative, item.status.st_ino, old, new, what))
        work.log.append("directory", **step_record(steps[-1]))
    return steps
