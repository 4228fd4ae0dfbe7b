"""Which pages a command copies, and the copying of them while a worker is parked.

A worker shares its memory with the warm process until it writes to it, and an interpreter writes to whatever it looks
at (reference counts): while somebody waits a `run` copies 600 pages, two milliseconds of its ten. Which ones hardly
differs from one to the next. So a worker that has done such a command notes, in memory that all share, which pages are
its own now, and the next one copies these before anybody waits for it. A listing of hundreds writes to others than a
`run`: each kind of command has pages of its own.

What goes from one command to the next is one bit a page, and of all which kind the last was; a page that is noted
without need costs a copy.
proc_pid_pagemap(5), madvise(2).
"""

from __future__ import annotations

import mmap
import os
import resource
from errno import EINVAL

from lamina.linux.call import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = mmap.PAGESIZE
MADV_POPULATE_WRITE = 23  # since Linux 5.14
ENTRY = 8  # bytes that pagemap has of a page
PRESENT, ALONE = 1 << 63, 1 << 56
# from so many copies on there is something to learn, from so many commands at most: it takes milliseconds
MANY, LESSONS = 100, 8
# pages that a worker has of its own, at most, before anybody needs them: 16 MB. A `run` has 2,000 in the end, which
# is counted, and only a part of them while somebody waits; what has more is forgotten, so this is well above
MOST = 4096
# kinds of commands: NONE is of those that copy few pages, or hardly the same ones
NONE, DRAWING_UP, LISTING = range(3)
KINDS = (DRAWING_UP, LISTING)
LAST = 0  # where the kind of the command that was taken last is noted, before the lessons of each kind


class Copies:
    """Made by the warm process when everything is imported, before it forks."""

    def __init__(self) -> None:
        self.places = _writable()
        self.pages = sum(size for _, size in self.places) // PAGE
        # by kind a byte for each page: whether it is to be copied
        self.noted = {kind: mmap.mmap(-1, self.pages) for kind in KINDS}
        # of what kind the command was that was taken last, as mostly the one that comes next is; then by kind how many
        # lessons there were
        self.told = mmap.mmap(-1, 1 + len(KINDS))
        self.learnt = bytes(self.told)
        self.ranges: dict[int, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
        self.prepared, self.met = NONE, 0

    # -- the warm process

    def learn(self) -> None:
        """Look at what was noted, before a worker is forked."""
        told = bytes(self.told)
        for kind in KINDS:
            if told[kind] != self.learnt[kind]:
                self.ranges[kind] = list(self._ranges(self.noted[kind]))
        self.learnt = told

    def _ranges(self, pages: mmap.mmap) -> Iterator[tuple[int, int]]:
        at = 0
        for start, size in self.places:
            noted = pages[at : at + size // PAGE] + b"\0"
            at += size // PAGE
            first = noted.find(1)
            while first >= 0:
                end = noted.index(0, first)
                yield start + first * PAGE, (end - first) * PAGE
                first = noted.find(1, end)

    # -- a worker

    def make(self) -> bool:
        """Copy what was noted, if it is likely to be needed; whether that was done."""
        kind = self.told[LAST]
        ranges = self.ranges.get(kind, [])
        for start, size in ranges:
            try:
                syscall("madvise", start, size, MADV_POPULATE_WRITE)
            except OSError as error:
                if error.errno == EINVAL:  # an older kernel
                    return False
        self.prepared = kind if ranges else NONE
        return bool(ranges)

    def count(self) -> None:
        """From here on copies are in somebody's way."""
        self.met = _faults()

    def expect(self, kind: int) -> None:
        """Tell the next worker what kind of command this one does, before it is parked."""
        self.told[LAST] = kind

    def note(self, kind: int) -> None:
        """Note what this process has copied for a command of *kind*, if it was not prepared for. One that was for
        another kind has that one's pages as well, and cannot say which of them it needed. Raises OSError.
        """
        if kind == NONE or self.prepared not in (NONE, kind):
            return
        if self.told[kind] >= LESSONS or _faults() - self.met < MANY:
            return
        own, noted = self._own(), self.noted[kind]
        if own.count(1) <= MOST:
            for page, one in enumerate(own):
                if one:  # one by one: another command may be noting as well
                    noted[page] = 1
        self.told[kind] += 1

    def _own(self) -> bytes:
        """A byte for each page: whether it is this process's alone."""
        file = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = [
                os.pread(file, size // PAGE * ENTRY, start // PAGE * ENTRY) for start, size in self.places
            ]
        finally:
            os.close(file)
        own = PRESENT | ALONE
        return bytes(entry & own == own for entry in memoryview(b"".join(found)).cast("Q"))


def _writable() -> list[tuple[int, int]]:
    """Start and size of each private mapping that may be written, but for the stack, which grows."""
    found = []
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            addresses, rights, *_ = line.split(None, 2)
            if rights == b"rw-p" and not line.endswith(b"[stack]\n"):
                start, _, end = addresses.partition(b"-")
                found.append((int(start, 16), int(end, 16) - int(start, 16)))
    return found


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
