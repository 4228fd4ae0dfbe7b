"""The instant a container starts, in the file systems' own clock."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike


def moment(mark: str | bytes | PathLike[str]) -> int:
    """Touch the file *mark* (made if missing, mode 0600) and return that instant, in ns, as file systems will stamp.

    Every change to a file before this call has a ctime of at most the result (less, from Linux 6.13 on), every
    change after it one of at least the result. It is not `time.time_ns()`: inode times are taken from a clock
    that stands still for up to 10 ms, and a change made just after would seem to be older. Raises OSError.

    Linux 6.13 stamps an inode finely once its time was looked at ("Multigrain Timestamps" in the kernel's
    documentation), and nothing that is stamped later may seem older: hence the second touch after a look.
    """
    held = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.utime(held)
        os.fstat(held)
        os.utime(held)
        return os.fstat(held).st_ctime_ns
    finally:
        os.close(held)
