"""Carrying out a plan: every path by one rename, checked before and after."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from lamina.engine.apply.attributes import OWNER_WRITES, narrowed, write_attributes
from lamina.engine.apply.conflicts import CHANGED, Comparison, is_mark, refuse, seen_entry, stamp
from lamina.engine.apply.places import GONE, Directories, entry
from lamina.engine.apply.planning import Plan
from lamina.engine.apply.staging import said_of, sync_directory
from lamina.engine.apply.units import ADD, EMPTY, SWAP, TAKE, DirectoryStep, Unit
from lamina.engine.apply.values import Clash, below
from lamina.engine.apply.work import Work
from lamina.errors import HostChanged, KernelError
from lamina.linux.constants import RENAME_EXCHANGE, RENAME_NOREPLACE
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def forward(work: Work, plan: Plan, comparison: Comparison) -> None:
    """Do it. Raises OSError, HostChanged (somebody changed it since it was compared): then half of it may be done."""
    work.host.forget()
    for step in plan.steps:
        narrow(work, step)
    for unit in plan.units:
        work.log.append("intent", unit=unit.number)
        work.hands.before("apply:before-rename", unit.host_path)
        with said_of("apply", unit.host_path):
            _do(work, unit, comparison)
        work.hands.before("apply:after-rename", unit.host_path)
        there = work.host.below(unit.mountpoint).status(unit.path)
        work.log.append("done", unit=unit.number, stamp=stamp(there) if there else None)
        work.hands.meter.path()
    work.hands.before("apply:renamed", b"")
    for step in reversed(plan.steps):
        with said_of("apply", step.host_path):
            write_attributes(work.hands, directory_of(work, step), step.new, step.what)
    work.hands.before("apply:before-sync", b"")
    sync_around(work, plan.units, plan.steps)
    work.areas.drop_empty()
    work.record_results(plan.places, plan.places)


def narrow(work: Work, step: DirectoryStep) -> None:
    """Let nobody do more in the directory than before and after, and us what is needed, while its entries change."""
    if "mode" not in step.what:
        return
    held = directory_of(work, step)
    mode = stat.S_IMODE(os.fstat(held).st_mode)
    meanwhile = narrowed(step.old.mode, step.new.mode)
    if os.geteuid() != 0:
        meanwhile |= OWNER_WRITES
    if meanwhile != mode:
        with said_of("apply", step.host_path):
            work.hands.chmod(held, meanwhile)


def directory_of(work: Work, step: DirectoryStep) -> Fd:
    """The directory of a step. Raises HostChanged if another one is there by now."""
    try:
        held = work.host.below(step.mountpoint).open(step.path)
    except KernelError as error:
        if error.errno not in GONE:
            raise
        raise _moved(step.host_path, None) from error
    if os.fstat(held).st_ino != step.ino:
        raise _moved(step.host_path, os.fstat(held))
    return held


def _moved(path: bytes, status: os.stat_result | None) -> HostChanged:
    clash = Clash(path, "replaced on the host meanwhile", seen_entry(status), None)
    return refuse("apply", [clash], "it was compared", forcible=False)


def _do(work: Work, unit: Unit, comparison: Comparison) -> None:
    try:
        parent, name = work.host.below(unit.mountpoint).parent(unit.path)
    except KernelError as error:
        if error.errno not in GONE:
            raise
        raise _moved(below(unit.mountpoint, unit.parent), None) from error
    if os.fstat(parent).st_ino != unit.parent_ino:
        raise _moved(below(unit.mountpoint, unit.parent), os.fstat(parent))
    there, seen = entry(parent, name), comparison.seen.get(unit.host_path)
    if unit.op == ADD:
        seen = None
    if unit.op != EMPTY and not comparison.is_as_seen(there, seen):
        raise _raced(unit, there)
    area = work.areas.open(unit.area)
    if unit.op == ADD:
        try:
            work.hands.rename(area, unit.slot, parent, name, RENAME_NOREPLACE)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            raise _raced(unit, entry(parent, name)) from error
    elif unit.op == SWAP:
        exchange(work, parent, name, area, unit.slot)
    elif unit.op == TAKE:
        work.hands.rename(parent, name, area, unit.slot, RENAME_NOREPLACE)
    else:
        work.hands.rmdir(parent, name)
        return
    if unit.op != ADD and not _as_seen(area, unit, comparison):
        # somebody was faster between the look and the rename: theirs goes back
        if unit.op == SWAP:
            exchange(work, parent, name, area, unit.slot)
        else:
            work.hands.rename(area, unit.slot, parent, name, RENAME_NOREPLACE)
        raise _raced(unit, entry(parent, name))
    comparison.moved(entry(area, unit.slot))


def exchange(work: Work, parent: int, name: bytes, area: int, slot: bytes) -> None:
    """Let two entries change places. Raises KernelError; EINVAL where the file system cannot."""
    try:
        work.hands.rename(parent, name, area, slot, RENAME_EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise KernelError(
            "exchange",
            errno.EINVAL,
            os.fsdecode(name),
            hint="this file system cannot exchange two files at once",
        ) from error


def _as_seen(area: Fd, unit: Unit, comparison: Comparison) -> bool:
    """Whether what was taken is what was compared, with everything in it. (The rename itself set the top's ctime.)"""
    top, seen = entry(area, unit.slot), comparison.seen[unit.host_path]
    if top is None or top.st_ino != seen.st_ino:
        return False
    if not stat.S_ISDIR(top.st_mode):
        return (top.st_size, top.st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)
    inside = Directories(area)
    expected = {unit.slot + c.path[len(unit.host_path) :]: c.path for c in unit.gone}
    for place, path in expected.items():
        status = inside.status(place)
        if place != unit.slot and not comparison.is_as_seen(status, comparison.seen.get(path)):
            return False
        if status is not None and stat.S_ISDIR(status.st_mode):
            others = (place + b"/" + name for name in inside.names(place))
            if any(other not in expected and not is_mark(inside.status(other)) for other in others):
                return False
    return True


def _raced(unit: Unit, status: os.stat_result | None) -> HostChanged:
    made = unit.made[0].after if unit.made else None
    clash = Clash(
        unit.host_path, CHANGED + " meanwhile", seen_entry(status), made, status.st_ctime_ns if status else 0
    )
    return refuse("apply", [clash], "it was compared", forcible=False)


def sync_around(work: Work, units: Iterable[Unit], steps: Iterable[DirectoryStep]) -> None:
    """Wait until the directories in which something came or went, and the areas, are on the disk."""
    around = {(unit.mountpoint, unit.parent) for unit in units} | {(s.mountpoint, s.path) for s in steps}
    for mountpoint, path in sorted(around):
        try:
            held = work.host.below(mountpoint).open(path)
        except KernelError as error:
            if error.errno not in GONE:
                raise
            continue  # it went with its last entry
        with suppress(PermissionError):  # writing in a directory does not take the right to read it
            sync_directory(work.hands, held)
    work.areas.sync(whole=False)
