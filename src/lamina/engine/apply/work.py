"""One apply's journal directory, with everything that doing, undoing and recovering it need."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from operator import itemgetter

from lamina.engine.apply.areas import Areas
from lamina.engine.apply.conflicts import Stamp, stamp
from lamina.engine.apply.hands import Hands
from lamina.engine.apply.journal import STATES, Log, parse, raw, text
from lamina.engine.apply.places import Host, empty
from lamina.engine.apply.selection import ancestors
from lamina.engine.apply.units import DirectoryStep, Unit, step_from, unit_from
from lamina.engine.apply.values import Past
from lamina.errors import Conflict, KernelError
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from lamina.engine.apply.conflicts import Known
    from lamina.engine.apply.origins import Handle

AT_ONCE = 500  # entries of one record
CLOCK_REALTIME_COARSE = 5  # what inode times are taken from; linux/time.h
LONGEST_TICK_S = 0.05
NOTHING = Stamp(0, 0, 0)


class Journal:
    """A container's journal directory, locked: nobody else applies or undoes meanwhile."""

    def __init__(self, path: bytes, hands: Hands) -> None:
        """Makes the directory if it is missing. Raises errors.Conflict if another process has it, KernelError."""
        self.path, self.hands = path, hands
        try:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
            self.fd = Fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = Fd(os.open(b"lock", flags, 0o600, dir_fd=self.fd))
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"lock {os.fsdecode(path)}: another apply or undo of this container is under way",
                remedy="wait until it ends",
            ) from None
        except OSError as error:
            raise KernelError("open journal", error.errno or errno.EIO, os.fsdecode(path)) from None

    def numbers(self) -> list[int]:
        """The applies that have a directory, oldest first."""
        return numbers(self.fd)

    def create(self, root: bytes) -> Work:
        """The directory of a new apply to *root*."""
        number = max(self.numbers(), default=0) + 1
        self.hands.mkdir(self.fd, b"%d" % number)
        directory = self._directory(number)
        try:
            log = Log.create(directory, self.hands)
            log.append("begin", number=number, root=text(root), time_ns=time.time_ns())
            self.hands.fsync(directory)
            self.hands.fsync(self.fd)
        except BaseException:
            self.remove(number)
            raise
        return Work(number, self.hands, directory, log, Host(root), self._turn)

    def open(self, number: int) -> Work | None:
        """An earlier apply; None if it had not even begun, and is removed. Raises errors.Corrupt, KernelError."""
        directory = self._directory(number)
        try:
            log = Log.open(directory, self.path + b"/%d/log" % number, self.hands)
        except FileNotFoundError:
            log = None
        if log is None or not log.of("begin"):
            self.remove(number)
            return None
        host = Host(raw(log.of("begin")[0]["root"]))
        return Work(number, self.hands, directory, log, host, self._turn)

    def remove(self, number: int) -> None:
        """Remove the directory of an apply that left nothing behind. Raises OSError."""
        with self._directory(number) as directory:
            empty(self.hands, directory)
            self.hands.rmdir(self.fd, b"%d" % number)

    def _directory(self, number: int) -> Fd:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return Fd(os.open(b"%d" % number, flags, dir_fd=self.fd))

    def known(self) -> Known:
        """What the applies and undos so far left on the host: inode and ctime by absolute path."""
        results: list[tuple[int, bool, list[list[Any]]]] = []
        for records in read_logs(self.fd, self.path).values():
            kinds = [record["is"] for record in records]
            undone = kinds.index("undoing") if "undone" in kinds else 0
            for at, record in enumerate(records):
                if record["is"] == "result":
                    # what an apply removed is back, as it was known before, once that is undone
                    results.append((record["turn"], at >= undone, record["entries"]))
        found: Known = {}
        for _, removed, entries in sorted(results, key=itemgetter(0)):
            found = _with_results(found, entries, removed=removed)
        return found

    def removed(self) -> set[Handle]:
        """The files that applies took away: what the container made of them did not lose its original by the host."""
        return {
            (raw(record["mountpoint"]), bytes.fromhex(handle))
            for records in read_logs(self.fd, self.path).values()
            if past(0, records).state == "applied"
            for record in records
            if record["is"] == "removed"
            for handle in record["handles"]
        }

    def _turn(self) -> int:
        """A number for the next results: applies are undone in another order than they were done."""
        logs = read_logs(self.fd, self.path).values()
        return max((r["turn"] for records in logs for r in records if r["is"] == "result"), default=0) + 1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        # closing alone does not give it up while a child, which another thread forked meanwhile, has a copy (flock(2))
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._lock.close()
        self.fd.close()


class Work:
    """One apply: its log, its areas and the host it is done to. To be closed."""

    def __init__(
        self, number: int, hands: Hands, directory: Fd, log: Log, host: Host, turn: Callable[[], int]
    ) -> None:
        self.number, self.hands, self.directory, self.log, self.host = number, hands, directory, log, host
        self._turn = turn
        self.areas = Areas(hands, host, directory, log)

    @property
    def units(self) -> list[Unit]:
        """The units that the journal has, in order."""
        return [unit_from(record) for record in self.log.of("unit")]

    @property
    def steps(self) -> list[DirectoryStep]:
        """The directories that the journal has, from the top down."""
        return sorted(
            (step_from(record) for record in self.log.of("directory")), key=lambda s: (s.depth, s.path)
        )

    @property
    def paths(self) -> tuple[bytes, ...]:
        """Everything that was to be changed, sorted."""
        return tuple(sorted(raw(path) for record in self.log.of("changes") for path in record["paths"]))

    def record_results(self, paths: Iterable[bytes], places: dict[bytes, tuple[bytes, bytes]]) -> None:
        """Write down what the host has at *paths* now, for the next comparison.

        *places* says of each its mount point and relative path. Raises OSError.
        Changes by others must not get the same ctime as ours: inode times are taken from a clock that ticks every
        few ms (until Linux 6.13), so wait for the next tick, then look.
        """
        deadline = time.monotonic() + LONGEST_TICK_S
        now = time.time_ns()
        while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= now and time.monotonic() < deadline:
            time.sleep(0.001)
        entries: list[list[Any]] = []
        for path in sorted(paths):
            mountpoint, relative = places[path]
            status = self.host.below(mountpoint).status(relative)
            entries.append([text(path), *(stamp(status) if status else NOTHING)])
        turn = self._turn()
        for start in range(0, len(entries), AT_ONCE):
            self.log.append("result", turn=turn, entries=entries[start : start + AT_ONCE])

    def close(self) -> None:
        """Close everything."""
        self.areas.close()
        self.log.close()
        self.host.close()
        self.directory.close()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_results(known: Known, entries: list[list[Any]], *, removed: bool) -> Known:
    """*known* with one record of results: an inode number of 0 means that nothing is there any more, nor below."""
    gone = {raw(path) for path, ino, *_ in entries if removed and not ino}
    if gone and known:
        known = {path: found for path, found in known.items() if gone.isdisjoint((path, *ancestors(path)))}
    known.update((raw(path), Stamp(*numbers)) for path, *numbers in entries if numbers[0])
    return known


def numbers(directory: int) -> list[int]:
    """The names in a journal's directory that are applies, in order."""
    return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())


def read_logs(directory: int, path: bytes) -> dict[int, list[dict[str, Any]]]:
    """The records of all applies, by number, without touching anything. Raises errors.Corrupt, OSError."""
    found = {}
    for number in numbers(directory):
        name = b"%d/log" % number
        try:
            with open(
                os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory), "rb"
            ) as file:
                found[number] = parse(file.read(), path + b"/" + name)[0]
        except FileNotFoundError:
            continue
    return found


def past(number: int, records: list[dict[str, Any]]) -> Past:
    """One apply as its log has it."""
    states = [STATES[record["is"]] for record in records if record["is"] in STATES]
    paths = sorted(raw(path) for record in records if record["is"] == "changes" for path in record["paths"])
    begun = next((record["time_ns"] for record in records if record["is"] == "begin"), 0)
    return Past(number, states[-1] if states else "planning", begun, tuple(paths))
