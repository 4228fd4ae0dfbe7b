"""Where entries wait: the areas of one apply, one for each file system it touches.

An area is a directory of mode 0700 from which rename(2) reaches the places it serves. Where the store lies on the same
mount that is `area` in the apply's own directory. Elsewhere it is a hidden directory, `.lamina-` and 16 hexadecimal
digits, in the topmost directory of that file system in which this process may make one: there no copy and no second
move is needed to keep what an apply replaced. It is removed when nothing is left in it, with the undo, or by `forget`.

The journal has every such name before it is made, so that a crash leaves nothing that the next call does not find.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress

from lamina.engine.apply.hands import Hands
from lamina.engine.apply.journal import Log, raw, text
from lamina.engine.apply.places import Host, empty, file_system, make_private, open_private
from lamina.engine.apply.values import below
from lamina.errors import Corrupt, KernelError
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

OWN = b"area"
MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)


class Areas:
    """The areas that a journal names, and new ones."""

    def __init__(self, hands: Hands, host: Host, directory: int, log: Log) -> None:
        """*directory* is the apply's own, where *log* is."""
        self._hands, self._host, self._directory, self._log = hands, host, directory, log
        self._open: dict[int, Fd] = {}
        self._serving: dict[tuple[int, int], int] = {}  # file system: number of the area

    def serving(self, mountpoint: bytes, parent: bytes) -> int:
        """The number of an area for entries of the directory *parent* below *mountpoint*; made if need be.

        Raises KernelError: EACCES and so on if no directory on the way down may be written to.
        """
        here = file_system(self._host.below(mountpoint).open(parent))
        if here not in self._serving:
            if file_system(self._directory) == here:
                number = self._make(None, b"", OWN)
            else:
                number = self._beside(mountpoint, parent, here)
            self._serving[here] = number
        return self._serving[here]

    def _beside(self, mountpoint: bytes, parent: bytes, here: tuple[int, int]) -> int:
        names = parent.split(b"/") if parent else []
        for depth in range(len(names) + 1):
            directory = b"/".join(names[:depth])
            if file_system(self._host.below(mountpoint).open(directory)) != here:
                continue  # the directory that holds a btrfs subvolume
            try:
                return self._make(mountpoint, directory, b".lamina-" + os.urandom(8).hex().encode())
            except KernelError as error:
                if error.errno not in MAY_NOT or depth == len(names):
                    raise
        raise AssertionError("the parent itself is on its own file system")

    def _make(self, mountpoint: bytes | None, directory: bytes, name: bytes) -> int:
        number = len(self._log.of("area"))
        self._log.append(
            "area",
            durable=True,
            id=number,
            mountpoint=None if mountpoint is None else text(mountpoint),
            directory=text(directory),
            name=text(name),
        )
        self._create(self._log.of("area")[number])
        return number

    def _create(self, record: dict[str, Any]) -> None:
        try:
            with self._unnoticed(record):
                made = make_private(self._hands, self._parent(record), raw(record["name"]))
        except OSError as error:
            raise KernelError("make stage", error.errno or errno.EIO, self.shown(record)) from error
        self._open[record["id"]] = made
        self._log.append("made", id=record["id"], ino=os.fstat(made).st_ino)

    @contextmanager
    def _unnoticed(self, record: dict[str, Any], *, room: bool = True) -> Iterator[None]:
        """Give the directory around an area its times back: that an area came or went is nobody's business.

        Without *room* also where the journal's disk is full: what is to be removed must not stay for that.
        """
        if record["mountpoint"] is None:
            yield
            return
        mtime = os.fstat(self._parent(record)).st_mtime_ns
        noted = self._note(room, "quiet", id=record["id"], mtime=mtime)
        yield
        self._give_back(record, mtime)
        if noted:
            self._note(room, "quieted", id=record["id"])

    def _give_back(self, record: dict[str, Any], mtime: int) -> None:
        directory = self._parent(record)
        with suppress(PermissionError):  # a directory of somebody else's
            self._hands.utime(directory, os.fstat(directory).st_atime_ns, mtime)

    def _note(self, room: bool, kind: str, **fields: Any) -> bool:
        """Append to the journal; False where that is full and there need not be *room*. Raises OSError."""
        try:
            self._log.append(kind, **fields)
        except OSError as error:
            if room or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        return True

    def _give_back_after_crash(self, record: dict[str, Any]) -> None:
        begun = [r["mtime"] for r in self._log.of("quiet") if r["id"] == record["id"]]
        if len(begun) > sum(r["id"] == record["id"] for r in self._log.of("quieted")):
            with suppress(KernelError):  # the directory itself is gone
                self._give_back(record, begun[-1])
                self._note(False, "quieted", id=record["id"])

    def _parent(self, record: dict[str, Any]) -> int:
        if record["mountpoint"] is None:
            return self._directory
        return self._host.below(raw(record["mountpoint"])).open(raw(record["directory"]))

    def shown(self, record: dict[str, Any]) -> str:
        """The path of an area, for messages."""
        if record["mountpoint"] is None:
            return "the journal's own area"
        directory = below(raw(record["mountpoint"]), raw(record["directory"]))
        return os.fsdecode(below(directory, raw(record["name"])))

    def open(self, number: int) -> Fd:
        """The area's directory, open for reading. Raises errors.Corrupt if it is not the one that was made."""
        found = self._open.get(number)
        if found is None:
            record = self._log.of("area")[number]
            try:
                found = self._found(record)
            except OSError as error:
                raise Corrupt(
                    f"open {self.shown(record)}: {os.strerror(error.errno or errno.EIO)}: what was set aside there "
                    "cannot be brought back",
                    remedy="find out who moved this directory, and put it back",
                ) from error
            self._open[number] = found
        return found

    def reopen(self, number: int) -> Fd:
        """`open`, but made anew if it is gone: for what needs a slot and has nothing in it."""
        if number not in self._open:
            record = self._log.of("area")[number]
            try:
                self._open[number] = self._found(record)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
                self._create(record)
        return self._open[number]

    def _found(self, record: dict[str, Any]) -> Fd:
        held = open_private(self._parent(record), raw(record["name"]))
        inos = [made["ino"] for made in self._log.of("made") if made["id"] == record["id"]]
        if inos and os.fstat(held).st_ino != inos[-1]:
            raise KernelError("open", errno.EPERM, self.shown(record), hint="another directory is there now")
        return held

    def sync(self, whole: bool) -> None:
        """Wait until what was staged is on the disk; *whole*: with everything in it, not only the names."""
        for held in self._open.values():
            if whole:
                self._hands.syncfs(held)
            else:
                self._hands.fsync(held)

    def drop_empty(self) -> None:
        """Remove the areas outside the journal in which nothing is left. Raises OSError."""
        for record in self._log.of("area"):
            number = record["id"]
            if (
                record["mountpoint"] is not None
                and number in self._open
                and not os.listdir(self._open[number])
            ):
                self._remove(record)

    def _remove(self, record: dict[str, Any]) -> None:
        with self._unnoticed(record, room=False):
            self._hands.rmdir(self._parent(record), raw(record["name"]))
        self._open.pop(record["id"]).close()

    def discard(self, keep: frozenset[int] = frozenset()) -> None:
        """Remove all areas with what is in them, but for those whose numbers are in *keep*. Raises OSError."""
        for record in self._log.of("area"):
            if record["id"] in keep:
                continue
            try:
                held = self._open.get(record["id"]) or self._found(record)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.ELOOP):
                    raise
                self._give_back_after_crash(record)  # never made, removed already, or no longer ours
                continue
            self._open[record["id"]] = held
            self._give_back_after_crash(record)
            if any(made["id"] == record["id"] for made in self._log.of("made")):
                empty(self._hands, held)
            elif os.listdir(held):
                continue  # a crash came right after it was made, so this is another one
            self._remove(record)

    def close(self) -> None:
        """Close what is open."""
        for held in self._open.values():
            held.close()
        self._open.clear()
