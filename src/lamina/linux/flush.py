"""Several files put on the disk at once: fsync(2) of all of them, side by side.

One after the other, each but the first waits for the disk to empty its cache once more, though a journal had all of
them in one commit: on an ext4, seven took two to five times what one takes. Side by side they wait for the same commit.
In compiled code a thread costs some tens of microseconds; where that was not compiled they come one after the other.

On an ext4 with a journal there is a shorter way. Its fsync(2) has two halves (fs/ext4/fsync.c): what is in the file is
written, and waited for; then the transaction is, of which the inode was last part, with those before it, and with that
the disk's cache. sync_file_range(2) with all three flags is the first half (since Linux 5.2 it passes nothing over). So
it is done for each, one of them is changed once more (its time, utimensat(2)), which makes it a part of the transaction
that runs by then, and that one is synced: two thirds of the time for six files.
"""

from __future__ import annotations

import os

try:
    from lamina.linux._native import flush as _flush
except ImportError:  # no compiler when the package was built: `lamina info` says so
    _flush = None  # type: ignore[assignment]


def flush(fds: list[int], *, in_one: bool = False) -> None:
    """Wait until the files *fds*, and the names in those that are directories, are on the disk. All are tried; raises
    OSError for the first in the list that failed. *in_one*: they are files, of the caller's own, on one ext4 with a
    journal and without fast commits.
    """
    if _flush is not None and len(fds) > 1:
        _flush(fds, in_one)
    else:
        flush_one_by_one(fds)


def flush_one_by_one(fds: list[int]) -> None:
    """As _native.flush."""
    failed: OSError | None = None
    for fd in fds:
        try:
            os.fsync(fd)
        except OSError as error:
            failed = failed or error
    if failed is not None:
        raise failed
