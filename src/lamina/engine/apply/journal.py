"""The record of one apply, written so that a crash at any byte leaves something that can be understood.

    <journal>/                 one container's, mode 0700
    ├── lock                   flock: one apply or undo at a time
    ├── known                  what the host looked like after the last of them: not the host's own changes
    ├── 1/                     the first apply
    │   ├── log                the records below
    │   └── area/              staged and original entries, where this is the target's file system
    └── 2/ ...

`log` is an 8 byte magic and then records: length, number and CRC-32 of both (4 bytes each, little endian), then JSON.
It is only ever appended to. A record that a crash cut short ends it; damage before a record that was synced is
errors.Corrupt. Room for the records that must be writable on a full disk is allocated before the first change, so
zeros follow the last record.

    begin     number root time_ns                                    what this is
    area      id mountpoint directory name                           written before that directory is made
    quiet     id mtime / quieted id                                  around making and removing one: times to restore
    made      id ino                                                 it was made
    changes   paths                                                  what was asked for
    removed   mountpoint handles                                     the files that go, if not all was asked for
    unit      unit op mountpoint path area inos attributes           one for each rename to come
    directory mountpoint path ino old new what                       one for each directory around them
    linked    mountpoint path                                        a file of the host that gets another name
    applying                                                         everything is staged and durable
    intent    unit / done unit stamp                                 around each rename
    result    turn entries                                           what was there afterwards, for the next comparison
    applied
    undoing   asked force untouched                                  being taken back, because of an error if not asked
    remade    unit ino                                               a directory that had been removed
    back      left                                                   all is back, but for what the host has changed
    undone                                                           and the areas are gone
"""

from __future__ import annotations

import json
import os
import struct
import zlib

from lamina.engine.apply.hands import Hands
from lamina.errors import Corrupt
from lamina.linux.fd import Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]

MAGIC = b"LMNAPLY1"
FRAME = struct.Struct("<III")  # length of the content, number of the record, CRC-32 of both
START = b'{"is":"'
LONGEST = 1 << 26
STATES = {
    "begin": "planning",
    "applying": "applying",
    "applied": "applied",
    "undoing": "undoing",
    "undone": "undone",
}


def text(path: bytes) -> str:
    """A path as JSON can carry it; `raw` is the way back. Bytes that are no UTF-8 survive."""
    return path.decode("utf-8", "surrogateescape")


def raw(path: str) -> bytes:
    """The way back from `text`."""
    return path.encode("utf-8", "surrogateescape")


class Log:
    """The `log` of one apply, open for reading and appending. `records` are all that are valid."""

    def __init__(self, fd: Fd, records: list[Record], end: int, hands: Hands) -> None:
        self._fd, self._end, self._hands = fd, end, hands
        self.records = records

    @classmethod
    def create(cls, directory: int, hands: Hands) -> Log:
        """A new, empty log in *directory*. Raises OSError, FileExistsError."""
        fd = Fd(hands.create(directory, b"log"))
        hands.write(fd, MAGIC, 0)
        return cls(fd, [], len(MAGIC), hands)

    @classmethod
    def open(cls, directory: int, name: bytes, hands: Hands) -> Log:
        """An existing log. One that a crash cut short before its first record has no records. Raises errors.Corrupt."""
        fd = Fd(os.open(b"log", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory))
        with open(fd, "rb", closefd=False) as file:
            content = file.read()
        records, end = parse(content, name)
        if content[end:].strip(b"\0"):
            hands.truncate(fd, end)  # the torn tail must not look valid again behind what is appended now
        if end < len(MAGIC):
            hands.write(fd, MAGIC, 0)
            end = len(MAGIC)
        return cls(fd, records, end, hands)

    @property
    def state(self) -> str:
        """planning, applying, applied, undoing or undone."""
        for record in reversed(self.records):
            if record["is"] in STATES:
                return STATES[record["is"]]
        return "planning"

    def append(self, kind: str, *, durable: bool = False, **fields: Any) -> None:
        """Add one record; *durable*: and wait until it is on the disk. Raises OSError."""
        record = {"is": kind, **fields}
        content = json.dumps(record, separators=(",", ":")).encode()
        self._hands.write(self._fd, _frame(len(self.records), content) + content, self._end)
        if durable:
            self._hands.fsync(self._fd)
        self._end += FRAME.size + len(content)
        self.records.append(record)

    def reserve(self, size: int) -> None:
        """Make sure that *size* more bytes can be appended, even on a full disk."""
        self._hands.allocate(self._fd, self._end, size)

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        self._hands.fsync(self._fd)

    def of(self, kind: str) -> list[Record]:
        """All records of one kind, in order."""
        return [record for record in self.records if record["is"] == kind]

    def close(self) -> None:
        """Close the file."""
        self._fd.close()


def _frame(number: int, content: bytes) -> bytes:
    return FRAME.pack(len(content), number, zlib.crc32(content, number + 1))


def parse(content: bytes, name: bytes) -> tuple[list[Record], int]:
    """The records of a log and where the valid part ends. Raises errors.Corrupt naming *name*."""
    if content[: len(MAGIC)] != MAGIC:
        if MAGIC.startswith(content.rstrip(b"\0")):
            return [], 0
        raise Corrupt(f"read {text(name)}: not a journal of lamina apply")
    records: list[Record] = []
    at = len(MAGIC)
    while found := _record(content, at, len(records)):
        records.append(json.loads(found))
        at += FRAME.size + len(found)
    if _synced_behind(content, at):
        raise Corrupt(
            f"read {text(name)}: record {len(records)} at byte {at} is damaged, and later ones are not",
            remedy="restore this file from a backup; the originals that it describes are where they were",
        )
    return records, at


def _record(content: bytes, at: int, number: int | None) -> bytes:
    """The content of the valid record at *at*, which must be *number* (None: any); else b""."""
    body = at + FRAME.size
    head = content[at:body]
    if len(head) < FRAME.size:
        return b""
    length, said, _ = FRAME.unpack(head)
    found = content[body : body + length] if length <= LONGEST else b""
    good = len(found) == length and head == _frame(said if number is None else number, found)
    return found if good else b""


def _synced_behind(content: bytes, at: int) -> bool:
    """Whether there is a valid record of a new state behind *at*.

    Those are synced, so all before them was on the disk: then the gap is damage. The records of single renames are
    not: after a power cut some may be missing and later ones be there.
    """
    while (at := content.find(START, at + 1)) >= 0:
        found = _record(content, at - FRAME.size, None)
        if found and json.loads(found)["is"] in STATES:
            return True
    return False
