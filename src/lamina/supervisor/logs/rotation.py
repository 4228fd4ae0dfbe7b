"""A file that is appended to, and has predecessors: `log`, `log.1` before that, `log.2` before that.

Whoever owns the directory may remove or cut the file at any time; then it is begun anew. A reader follows by inode
(following.py), so a file is only ever renamed or, where there is to be one alone, cut to nothing.
"""

from __future__ import annotations

import os
from errno import ENOSPC

# how often a directory is looked at that changes all the time
TRIES = 100
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Rotated:
    """Appends records to the file *path*, which is made, and rotates it when it would exceed *most* bytes (0: never),
    keeping *files* in all. A disk that is full ends it: `error` keeps what went wrong.
    """

    def __init__(self, path: bytes, most: int, files: int) -> None:
        self.path, self.most, self.files = path, most, files
        self.error: OSError | None = None
        self.fd = -1
        self._open()

    def _open(self) -> None:
        """Go on with the file that has the name now, or is made. Raises OSError; then with the one as before."""
        fd = os.open(self.path, _FLAGS, 0o600)
        os.fchmod(fd, 0o600)
        self.close()
        self.fd = fd

    def end_line(self) -> None:
        """A line that a crash cut short is ended, so that the next one is whole."""
        size = os.fstat(self.fd).st_size
        if size and os.pread(self.fd, 1, size - 1) != b"\n":
            self.append(b"\n")

    def append(self, *pieces: bytes) -> None:
        """Append one record, in one write: it is there whole or, when the disk is full, not at all."""
        if self.error is not None or self.fd < 0:
            return
        length = sum(map(len, pieces))
        try:
            status = os.fstat(self.fd)
            if not status.st_nlink:  # somebody removed it
                self._open()
            elif self.most and status.st_size and status.st_size + length > self.most:
                self._rotate()
            if (written := os.writev(self.fd, pieces)) != length:
                os.ftruncate(self.fd, os.fstat(self.fd).st_size - written)
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError as error:
            self.error = error

    def _rotate(self) -> None:
        if self.files == 1:
            os.ftruncate(self.fd, 0)
            return
        for number in range(self.files - 1, 1, -1):
            try:
                os.rename(b"%s.%d" % (self.path, number - 1), b"%s.%d" % (self.path, number))
            except FileNotFoundError:
                pass
        os.rename(self.path, self.path + b".1")
        self._open()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def files(path: bytes) -> list[tuple[bytes, int]]:
    """The files that there are at one moment and their inodes, the oldest first.

    A rotation is several renames, and in between there is a gap: so all of the directory is looked at, again until
    nothing has changed meanwhile. (A file's number only grows: what is the same twice was so all the time.)
    """
    before = None
    for _ in range(TRIES):
        found = _files(path)
        if found == before:
            break
        before = found
    return [(name, inode) for _, name, inode in sorted(before or [], reverse=True)]


def _files(path: bytes) -> list[tuple[int, bytes, int]]:
    directory, _, name = path.rpartition(b"/")
    found = []
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:  # the container was removed
        return []
    for entry in entries:
        if entry != name and not entry.startswith(name + b"."):
            continue
        number = entry[len(name) + 1 :]
        if not number.isdigit() and entry != name:
            continue
        place = directory + b"/" + entry
        try:
            found.append((int(number or b"0"), place, os.stat(place, follow_symlinks=False).st_ino))
        except FileNotFoundError:
            continue
    return sorted(found)
