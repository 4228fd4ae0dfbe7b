"""File systems in files, and what is on such a "disk" when the power is cut at a step of the store: a copy of the file,
mounted anew in the same place. For a private mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lamina.store import trace


def maker_of(kind: str) -> str | None:
    """The program that makes file systems of that kind, if it is there."""
    return shutil.which(
        f"mkfs.{kind}", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    )


def make_disk(place: Path, size: int, *options: str, kind: str = "ext4") -> Path:
    """A new file with a file system of that many MiB."""
    with open(place, "xb") as file:
        file.truncate(size << 20)
    program = maker_of(kind)
    assert program is not None
    quiet = ("-q", "-F") if kind == "ext4" else ("-q",)
    subprocess.run([program, *quiet, *options, place], check=True)
    return place


@contextmanager
def mounted(disk: Path, place: Path, options: str = "") -> Iterator[Path]:
    """The file system in *disk* at *place*; whoever mounts it first replays its journal."""
    words = ",".join(["loop", *filter(None, [options])])
    subprocess.run(["mount", "-o", words, disk, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


class Cuts:
    """Copies of *disk*, which is mounted at *place*, as it was when each step of the store came: `copies`, with the
    names of the steps. Those that are as the one before are left out.

    What the kernel has not written by then is lost. With *journal* it has written the changes of names so far, and no
    content that nobody waited for: somebody else has just synced another file.
    """

    def __init__(self, disk: Path, place: Path, *, journal: bool) -> None:
        self._disk, self._place, self._journal = disk, place, journal
        self._thread = threading.get_ident()
        self.copies: list[tuple[str, Path]] = []

    def during(self, work: Callable[[], object]) -> None:
        """Do *work*, and cut the power at each step of it, and in the end."""
        trace.hook = self._cut
        try:
            work()
        finally:
            trace.hook = None
        self._journal = False  # who has returned has waited for it
        self._cut("end")

    def _cut(self, step: str) -> None:
        if threading.get_ident() != self._thread:  # what is removed in its own time
            return
        if self._journal:
            with open(self._place / f"other{len(self.copies)}", "xb") as other:
                other.write(b"other")
                other.flush()
                os.fsync(other.fileno())
        copy = self._disk.with_name(f"cut{len(self.copies)}")
        copied(self._disk, copy)
        if step != "end" and self.copies and _are_same(copy, self.copies[-1][1]):
            copy.unlink()
            return
        self.copies.append((step, copy))


def copied(source: Path, target: Path) -> Path:
    """*target*, which is *source* with its holes."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        size, at = os.fstat(reader.fileno()).st_size, 0
        writer.truncate(size)
        while at < size:
            try:
                begin = os.lseek(reader.fileno(), at, os.SEEK_DATA)
            except OSError:  # the rest is a hole
                break
            at = os.lseek(reader.fileno(), begin, os.SEEK_HOLE)
            os.lseek(writer.fileno(), begin, os.SEEK_SET)
            while begin < at:
                begin += os.sendfile(writer.fileno(), reader.fileno(), begin, at - begin)
    return target


def _are_same(one: Path, other: Path) -> bool:
    return subprocess.run(["cmp", "-s", one, other], check=False).returncode == 0
