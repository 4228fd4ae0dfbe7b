"""Taking an apply back: after an error, after a crash, or because somebody asked for it.

How far each unit had got is read from the file system itself: a slot holds either what was staged (not done, or already
taken back) or the original (done). So it does not matter where a crash came, nor how often this is begun again.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_left

from lamina.engine.apply.attributes import EVERYTHING, read_attributes, write_attributes
from lamina.engine.apply.conflicts import CHANGED, seen_entry, stamp
from lamina.engine.apply.forward import directory_of, exchange, narrow, sync_around
from lamina.engine.apply.journal import raw
from lamina.engine.apply.places import GONE, entry
from lamina.engine.apply.selection import tree_order
from lamina.engine.apply.staging import said_of
from lamina.engine.apply.units import ADD, EMPTY, SWAP, TAKE, DirectoryStep, Unit
from lamina.engine.apply.values import Clash, Left, below
from lamina.engine.apply.work import Work
from lamina.errors import Corrupt, HostChanged, KernelError
from lamina.linux.constants import RENAME_NOREPLACE
from lamina.linux.files import openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.apply.conflicts import Known

ELSEWHERE = "replaced on the host"
NO_PLACE = "its directory is gone"
LOST = "its original is no longer where it was kept"
ATTRIBUTES = frozenset({"mode", "owner", "xattrs"})


def backward(work: Work, known: Known, untouched: set[bytes] | None, *, force: bool = False) -> list[Left]:
    """Take back what was done of an apply, the last first. Idempotent.

    *known*: inode and ctime of what is ours, where that is recorded; what differs the host changed, and it is left
    as it is (unless *force*) and named in the result. *untouched*: the directories that get their old times back, None
    for all. Raises OSError: it is then to be called again.
    """
    work.host.forget()
    units, steps, left = work.units, work.steps, list[Left]()
    for step in steps:
        try:
            narrow(work, step)
        except HostChanged:
            left.append(Left(step.host_path, ELSEWHERE))
    remade: list[Unit] = []
    inos = {(record["unit"], record["ino"]) for record in work.log.of("remade")}
    for unit in reversed(units):
        work.hands.before("undo:before-rename", unit.host_path)
        with said_of("undo", unit.host_path):
            reason = (
                _make_again(work, unit, inos) if unit.op == EMPTY else _take_back(work, unit, known, force)
            )
        work.hands.before("undo:after-rename", unit.host_path)
        work.hands.meter.path()
        if reason:
            left.append(Left(unit.host_path, reason, _original(work, unit)))
        elif unit.op == EMPTY:
            remade.append(unit)
    for unit in sorted(remade, key=lambda unit: unit.path.count(b"/"), reverse=True):
        _restore_attributes(work, unit)
    missing = {item.path for item in left}
    for step in reversed(steps):
        if step.host_path not in missing:
            _restore_step(work, step, untouched is None or step.host_path in untouched)
    sync_around(work, units, steps)
    return sorted(left, key=lambda item: item.path)


def record_taken_back(work: Work, left: list[Left]) -> None:
    """Write down what the host has now: not its own changes. Raises OSError."""
    places = {unit.host_path: (unit.mountpoint, unit.path) for unit in work.units}
    places.update((step.host_path, (step.mountpoint, step.path)) for step in work.steps)
    for record in work.log.of("linked"):
        mountpoint, path = raw(record["mountpoint"]), raw(record["path"])
        places[below(mountpoint, path)] = mountpoint, path
    work.record_results(places.keys() - {item.path for item in left}, places)


def untouched_directories(work: Work, known: Known) -> set[bytes]:
    """The directories around an apply's units in which nothing else happened since. Raises OSError."""
    found = set()
    for step in work.steps:
        status = work.host.below(step.mountpoint).status(step.path)
        was = known.get(step.host_path)
        # not by the ctime: an area may have come or gone there, after which the times were given back
        if status and was and (was.ino, was.mtime_ns) == (status.st_ino, status.st_mtime_ns):
            found.add(step.host_path)
    return found


def _original(work: Work, unit: Unit) -> bytes:
    """Where the original of a unit that could not be taken back is kept."""
    area = work.areas.reopen(unit.area)
    if unit.op in (ADD, EMPTY) or entry(area, unit.slot) is None:
        return b""
    return os.readlink(b"/proc/self/fd/%d" % area) + b"/" + unit.slot


def _take_back(work: Work, unit: Unit, known: Known, force: bool) -> str:
    """Take one unit back if it was done. Returns why it was left as it is, "" if it was not."""
    area = work.areas.reopen(unit.area)
    slot = entry(area, unit.slot)
    if (place := _place(work, unit)) is None:
        return NO_PLACE
    parent, name = place
    there = entry(parent, name)
    if unit.op in (ADD, SWAP):
        if slot is not None and slot.st_ino == unit.new_ino:
            return ""  # not done, or taken back before
        if there is not None and not force and not _is_ours(unit, there, known):
            return CHANGED
    elif slot is None:
        return "" if there is not None else LOST
    elif there is not None and not force:
        return "created on the host"
    if unit.op == ADD:
        if there is not None:
            work.hands.rename(parent, name, area, unit.slot, RENAME_NOREPLACE)
    elif slot is None:
        return LOST
    elif there is not None:
        exchange(work, parent, name, area, unit.slot)
    else:
        work.hands.rename(area, unit.slot, parent, name, RENAME_NOREPLACE)
    return ""


def _place(work: Work, unit: Unit) -> tuple[int, bytes] | None:
    """The directory of a unit's path, and the name in it; None if the directory is gone."""
    try:
        return work.host.below(unit.mountpoint).parent(unit.path)
    except KernelError as error:
        if error.errno not in GONE:
            raise
        return None


def _is_ours(unit: Unit, there: os.stat_result, known: Known) -> bool:
    """Whether the entry is what the unit put there. (A file's ctime also changes with its other names.)"""
    if there.st_ino != unit.new_ino:
        return False
    was = known.get(unit.host_path)
    several = there.st_nlink > 1 and not stat.S_ISDIR(there.st_mode)
    return was is None or several or was == stamp(there)


def _make_again(work: Work, unit: Unit, remade: set[tuple[int, int]]) -> str:
    """A directory that was removed after it was emptied: staged, written down, and put in its place.

    *remade* are unit and inode number of those that were before a crash. Returns why it was left, "" if it was not.
    """
    if (place := _place(work, unit)) is None:
        return NO_PLACE
    parent, name = place
    there = entry(parent, name)
    if there is not None:
        ours = there.st_ino == unit.old_ino or (unit.number, there.st_ino) in remade
        return "" if ours else "created on the host"
    area = work.areas.reopen(unit.area)
    if entry(area, unit.slot) is None:
        work.hands.mkdir(area, unit.slot)
    status = entry(area, unit.slot)
    assert status is not None
    work.log.append("remade", unit=unit.number, ino=status.st_ino)
    work.hands.rename(area, unit.slot, parent, name, RENAME_NOREPLACE)
    return ""


def _restore_attributes(work: Work, unit: Unit) -> None:
    assert unit.attributes is not None
    with said_of("undo", unit.host_path):
        directory, name = work.host.below(unit.mountpoint).parent(unit.path)
        with openat2(directory, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW) as held:
            write_attributes(work.hands, held, unit.attributes, EVERYTHING)


def _restore_step(work: Work, step: DirectoryStep, times: bool) -> None:
    try:
        held = directory_of(work, step)
    except HostChanged:
        return
    what = step.what & ATTRIBUTES
    if times and os.geteuid() in (0, os.fstat(held).st_uid):
        what |= {"times"}
    with said_of("undo", step.host_path):
        write_attributes(work.hands, held, step.old, what)


# -- before an undo that somebody asked for


def changed_since_apply(work: Work, known: Known) -> list[Clash]:
    """What the host changed of an apply's results, sorted by path. Raises OSError."""
    clashes: dict[bytes, Clash] = {}

    def clash(path: bytes, reason: str, status: os.stat_result | None) -> None:
        clashes[path] = Clash(path, reason, seen_entry(status), None, status.st_ctime_ns if status else 0)

    ordered = sorted(known, key=tree_order)
    keys = [tree_order(path) for path in ordered]
    units = work.units
    added = {unit.host_path for unit in units if unit.op == ADD}
    for unit in units:
        directories = work.host.below(unit.mountpoint)
        if unit.op in (TAKE, EMPTY):
            status = directories.status(unit.path)
            if status is not None and unit.host_path not in added:
                clash(unit.host_path, "created on the host", status)
            continue
        strip = len(unit.host_path) - len(unit.path)
        first = tree_order(unit.host_path)
        for path in ordered[bisect_left(keys, first) : bisect_left(keys, first + b"\1")]:
            status = directories.status(path[strip:])
            if status is None:
                clash(path, "deleted on the host", None)
            elif stamp(status) != known[path]:
                clash(path, CHANGED, status)
            if status is not None and stat.S_ISDIR(status.st_mode):
                for name in directories.names(path[strip:]):
                    if path + b"/" + name not in known:
                        status = directories.status(path[strip:] + b"/" + name)
                        clash(path + b"/" + name, "created on the host", status)
    for step in work.steps:
        reason, status = _step_changed(work, step)
        if reason:
            clash(step.host_path, reason, status)
    return [clashes[path] for path in sorted(clashes)]


def _step_changed(work: Work, step: DirectoryStep) -> tuple[str, os.stat_result | None]:
    try:
        held = directory_of(work, step)
    except HostChanged:
        status = work.host.below(step.mountpoint).status(step.path)
        return ("deleted on the host" if status is None else ELSEWHERE), status
    now, wanted = read_attributes(held), step.new
    differs = {
        "mode": now.mode != wanted.mode,
        "owner": (now.uid, now.gid) != (wanted.uid, wanted.gid),
        "xattrs": now.xattrs != wanted.xattrs,
    }
    return (CHANGED if any(differs[name] for name in step.what & ATTRIBUTES) else ""), os.fstat(held)


def check_originals(work: Work) -> None:
    """Make sure, before anything is touched, that every original is where it was put. Raises errors.Corrupt."""
    for unit in work.units:
        if unit.op in (SWAP, TAKE) and entry(work.areas.open(unit.area), unit.slot) is None:
            raise Corrupt(
                f"undo {os.fsdecode(unit.host_path)}: {LOST}", remedy="restore this path from a backup"
            )
