"""Apply, undo, recover and forget, from beginning to end.

How each of them ends, whatever happens: before the record "applying" is on the disk the host was not touched, and what
was staged is dropped. Between it and "applied" what was done is taken back. Between "undoing" and "undone" the rest is
taken back too. So a crash means the same to `recover` as an error means to the call that meets it.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from lamina.engine.apply.backward import (
    backward,
    changed_since_apply,
    check_originals,
    record_taken_back,
    untouched_directories,
)
from lamina.engine.apply.conflicts import Comparison, Stamp, refuse
from lamina.engine.apply.forward import forward
from lamina.engine.apply.hands import Hands
from lamina.engine.apply.journal import raw, text
from lamina.engine.apply.owners import check_owners
from lamina.engine.apply.places import Host, empty
from lamina.engine.apply.planning import Plan, plan
from lamina.engine.apply.selection import Selection, select
from lamina.engine.apply.values import Applied, Clash, HostChange, Left, Past, Recovered, Undone
from lamina.engine.apply.work import Journal, Work, past, read_logs
from lamina.engine.progress import Meter
from lamina.errors import Conflict, KernelError, LaminaError, NotFound
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from os import PathLike

    from lamina.engine.apply.conflicts import Known
    from lamina.engine.apply.origins import Handle
    from lamina.engine.progress import Tell

    AnyPath = str | bytes | PathLike[str] | PathLike[bytes]

AS_BEFORE = "everything is as it was before"


def clashes_of(
    changes: Sequence[HostChange],
    journal: AnyPath,
    *,
    started_ns: int,
    paths: Iterable[str | bytes] = (),
    exclude: Iterable[str | bytes] = (),
    root: AnyPath = "/",
) -> list[Clash]:
    """Of *changes* (or what is selected of them, as in `apply`) those which the host's tree *root* contradicts.

    Sorted by path; [] if all could be applied. *started_ns* is what `engine.moment.moment` gave just before the
    container's overlays were mounted. What an earlier apply or undo of the same *journal* did to the host is not the
    host's own change. Raises errors.NotFound, errors.InvalidInput, OSError.
    """
    selection = select(changes, paths, exclude)
    known, removed = _known_of(os.fsencode(journal))
    host = Host(os.fsencode(root))
    try:
        return Comparison(host, started_ns, known, removed).compare(selection.changes, changes)
    finally:
        host.close()


def _known_of(path: bytes) -> tuple[Known, set[Handle]]:
    if not os.path.isdir(path):
        return {}, set()
    with Journal(path, Hands()) as journal:
        return journal.known(), journal.removed()


def apply(
    changes: Sequence[HostChange],
    journal: AnyPath,
    *,
    started_ns: int,
    paths: Iterable[str | bytes] = (),
    exclude: Iterable[str | bytes] = (),
    force: bool = False,
    root: AnyPath = "/",
    hands: Hands | None = None,
    progress: Tell | None = None,
) -> Applied:
    """Make *changes*, or those which *paths* select and *exclude* does not, to the host's tree *root*: all or none.

    A path is absolute as in the container and selects what is there and below; `*`, `?`, `[...]` match within a name,
    `**` across names, a backslash takes the next character as it is. *force* overrides the host's own changes.
    *progress* is told a `Progress` now and then.
    Raises errors.NotFound (a path that selects nothing), errors.InvalidInput (a selection that cannot be),
    errors.HostChanged (with every clash), errors.Conflict (another apply is under way; the container still runs),
    KernelError (full disk, no permission: the host is as it was before).
    """
    hands, selection = hands or Hands(), select(changes, paths, exclude)
    hands.meter = Meter(progress)
    check_owners(selection.changes)
    with Journal(os.fsencode(journal), hands) as held:
        _recover(held)
        host = Host(os.fsencode(root))
        try:
            comparison = Comparison(host, started_ns, held.known(), held.removed())
            clashes = comparison.compare(selection.changes, changes)
        finally:
            host.close()
        if clashes and (comparison.stale or not force):
            raise refuse("apply", clashes, "the container started", forcible=not comparison.stale)
        if not any(c.kind != "deleted" or c.path in comparison.seen for c in selection.changes):
            return Applied(changes=(), kept=selection.kept)
        with _begun(held, os.fsencode(root)) as work:
            planned = _planned(held, work, selection, comparison, changes)
            if planned is None:
                return Applied(changes=(), kept=selection.kept)
            _carry_out(work, planned, comparison)
            return Applied(
                changes=selection.changes,
                parents=selection.parents,
                kept=selection.kept,
                forced=tuple(clashes),
                number=work.number,
                journal=held.path + b"/%d" % work.number,
            )


def _begun(held: Journal, root: bytes) -> Work:
    try:
        return held.create(root)
    except OSError as failure:
        raise _told(failure) from failure


def _planned(
    held: Journal, work: Work, selection: Selection, comparison: Comparison, changes: Sequence[HostChange]
) -> Plan | None:
    """Stage everything; None where there is nothing to do after all. Then, and on an error, nothing is left of it."""
    try:
        work.hands.before("apply:begun", b"")
        planned = plan(work, selection, comparison, changes, _above(held.fd))
        if planned.is_nothing:
            work.areas.discard()
            held.remove(work.number)
            return None
        work.hands.before("apply:staged", b"")
        work.log.append("applying", durable=True)
        return planned
    except BaseException as failure:
        try:
            work.areas.discard()
            held.remove(work.number)
        except OSError as second:
            failure.add_note(f"while cleaning up: {second}; the next call will do it")
        raise _told(failure) from failure


def _above(directory: int) -> set[tuple[int, int]]:
    """The directories above the journal: they cannot be moved into it."""
    found = set()
    at = Fd(os.dup(directory))
    while (identity := _identity(at)) not in found:
        found.add(identity)
        at = Fd(os.open(b"..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at))
    return found


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _carry_out(work: Work, planned: Plan, comparison: Comparison) -> None:
    """Do the plan. On an error it is taken back."""
    try:
        work.hands.before("apply:applying", b"")
        forward(work, planned, comparison)
        work.hands.before("apply:done", b"")
        work.log.append("applied", durable=True)
    except BaseException as failure:
        try:
            left = _take_back(work, _own_results(work))
        except (OSError, LaminaError) as second:
            failure.add_note(f"while taking back what was done: {second}; the next call will go on")
            raise
        if left:
            raise Conflict(f"{failure}; and then {_not_all(left)}") from failure
        raise _told(failure) from failure


def _own_results(work: Work) -> Known:
    """What this apply is known to have put where, as far as it got."""
    paths = {unit.number: unit.host_path for unit in work.units}
    return {paths[r["unit"]]: Stamp(*r["stamp"]) for r in work.log.of("done") if r["stamp"]}


def _take_back(work: Work, known: Known, *, asked: bool = False, force: bool = False) -> list[Left]:
    """From "undoing" to "undone": what an undo, a failed apply and a recovery have in common."""
    begun = work.log.of("undoing")
    if begun:
        untouched = None if begun[0]["untouched"] is None else set(map(raw, begun[0]["untouched"]))
    else:
        untouched = untouched_directories(work, known) if asked else None
        written = None if untouched is None else sorted(map(text, untouched))
        try:
            work.log.append("undoing", durable=True, asked=asked, force=force, untouched=written)
        except OSError:
            # a journal that cannot be written is no reason to leave a host half-changed: "applying" means the same
            if asked:
                raise
    work.hands.before("undo:begun", b"")
    back = work.log.of("back")
    if back:
        left = [Left(raw(path), reason, raw(original)) for path, reason, original in back[0]["left"]]
    else:
        left = backward(work, known, untouched, force=force)
        work.hands.before("undo:before-back", b"")
        said = [[text(item.path), item.reason, text(item.original)] for item in left]
        work.log.append("back", durable=True, left=said)
    kept = {
        unit.area for unit in work.units for item in left if item.path == unit.host_path and item.original
    }
    for _ in range(2):
        # what a first failure left half-removed is finished by the second try, or later by `forget`
        with suppress(OSError):
            work.areas.discard(frozenset(kept))
            break
    record_taken_back(work, left)
    work.hands.before("undo:done", b"")
    work.log.append("undone", durable=True)
    return left


def _told(failure: BaseException, state: str = AS_BEFORE) -> BaseException:
    """What the caller is told: an OSError says what the host is like now, and what to do about a full disk."""
    if not isinstance(failure, OSError):
        return failure
    code = failure.errno or errno.EIO
    call, target = getattr(failure, "call", "apply"), getattr(failure, "target", "")
    remedy = {
        errno.ENOSPC: "make room on that file system, and try again",
        errno.EDQUOT: "make room within that quota, and try again",
        errno.EBUSY: "something is mounted there: unmount it, or exclude this path",
        errno.EROFS: "that file system is read-only",
        errno.EXDEV: "that directory has a quota project of its own, into which nothing can be renamed",
        errno.EACCES: "run as a user who may write there",
        errno.EPERM: "run as a user who may do that",
    }.get(code, "")
    hint = getattr(failure, "hint", "")
    told = KernelError(call, code, target, hint=f"{hint}; {state}" if hint else state, remedy=remedy)
    for note in getattr(failure, "__notes__", ()):
        told.add_note(note)
    return told


def _not_all(left: list[Left]) -> str:
    lines = ["not everything could be taken back:"]
    for item in left:
        kept = f"; its original is {os.fsdecode(item.original)}" if item.original else ""
        lines.append(f"  {os.fsdecode(item.path)}: {item.reason}{kept}")
    return "\n".join(lines)


def undo(
    journal: AnyPath, *, force: bool = False, hands: Hands | None = None, progress: Tell | None = None
) -> Undone:
    """Take back the newest apply of *journal* that was not taken back yet: every byte and attribute as before it.

    Raises errors.NotFound (nothing to undo), errors.HostChanged (the host changed an applied path since; *force*
    overrides), KernelError.
    """
    path = os.fsencode(journal)
    if not os.path.isdir(path):
        raise _nothing(path)
    hands = hands or Hands()
    hands.meter = Meter(progress)
    with Journal(path, hands) as held:
        _recover(held)
        records = read_logs(held.fd, path)
        applied = [number for number in sorted(records) if past(number, records[number]).state == "applied"]
        work = held.open(applied[-1]) if applied else None
        if work is None:
            raise _nothing(path)
        with work:
            check_originals(work)
            known = held.known()
            clashes = changed_since_apply(work, known)
            if clashes and not force:
                raise refuse("undo", clashes, "they were applied")
            hands.meter.expect(len(work.units) + len(work.paths))  # then what was applied is removed
            try:
                left = _take_back(work, known, asked=True, force=force)
            except OSError as failure:
                raise _told(failure, "whatever could not be taken back will be by the next call") from failure
            if left:
                raise Conflict(f"undo: {_not_all(left)}")
            return Undone(
                number=work.number, paths=work.paths, remaining=len(applied) - 1, forced=tuple(clashes)
            )


def _nothing(path: bytes) -> NotFound:
    return NotFound("undo: nothing of this container is applied", remedy="'lamina diff' lists what could be")


def recover(journal: AnyPath, *, hands: Hands | None = None) -> Recovered | None:
    """End what a crash interrupted in *journal*; None if nothing was.

    An unfinished apply is taken back, an unfinished undo is finished. Raises errors.Conflict (its process is still
    alive), KernelError.
    """
    path = os.fsencode(journal)
    if not os.path.isdir(path):
        return None
    with Journal(path, hands or Hands()) as held:
        return _recover(held)


def _recover(held: Journal) -> Recovered | None:
    """End what a crash interrupted. At most the newest apply and one older undo can be unfinished: never both."""
    ended = None
    logs = read_logs(held.fd, held.path)
    for number in held.numbers():
        records = logs.get(number, [])
        if records and past(number, records).state in ("applied", "undone"):
            continue
        work = held.open(number)
        if work is None:
            continue
        with work:
            was = work.log.state
            if was == "planning":
                work.areas.discard()
                held.remove(number)
                ended = Recovered(number=number, was=was)
            elif was in ("applying", "undoing"):
                asked = any(record["asked"] for record in work.log.of("undoing"))
                force = any(record["force"] for record in work.log.of("undoing"))
                left = _take_back(work, held.known() if asked else _own_results(work), force=force)
                ended = Recovered(number=number, was=was, paths=work.paths, left=tuple(left))
    return ended


def forget(journal: AnyPath) -> None:
    """Drop the originals of every apply, wherever they are kept; what was applied stays. Idempotent.

    To be called before the container's directory is removed: originals from file systems other than the store's
    are kept beside them, in hidden directories which only this knows. Recovers first. Raises KernelError.
    """
    path = os.fsencode(journal)
    if not os.path.isdir(path):
        return
    with Journal(path, Hands()) as held:
        _recover(held)
        for number in held.numbers():
            work = held.open(number)
            if work is None:
                continue
            with work:
                work.areas.discard()
            held.remove(number)
        empty(held.hands, held.fd)
    os.rmdir(path)


def history(journal: AnyPath) -> list[Past]:
    """Every apply of *journal*, oldest first; [] if there was none. Raises errors.Corrupt."""
    path = os.fsencode(journal)
    try:
        directory = Fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except FileNotFoundError:
        return []
    with directory:
        return [past(number, records) for number, records in read_logs(directory, path).items()]
