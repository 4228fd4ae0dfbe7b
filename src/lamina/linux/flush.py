"""Several files put on the disk at once: fsync(2) of all of them, side by side.

One after the other, each but the first waits for the disk to empty its cache once more, though a journal had all of
them in one commit: on an ext4, seven took two to five times what one takes. Side by side they wait for the same commit.
In compiled code a thread costs some tens of microseconds; where that was not compiled they come one after the other.
"""

from __future__ import annotations

import os

try:
    from lamina.linux._native import flush as _flush
except ImportError:  # no compiler when the package was built: `lamina info` says so
    _flush = None  # type: ignore[assignment]


def flush(fds: list[int]) -> None:
    """Wait until the files *fds*, and the names in those that are directories, are on the disk. All are tried; raises
    OSError for the first in the list that failed.
    """
    if _flush is not None and len(fds) > 1:
        _flush(fds)
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
