"""Whether a file system keeps the order of changes of names: no disk has the later one without the earlier one, though
nobody waited for that. Then it is enough to wait once, for the last.

* **ext4 with a journal** does. Each rename is one handle of jbd2, which is part of the transaction that is running; a
  transaction is on the disk whole or not at all, and after those before it (Documentation/filesystems/journalling.rst,
  and ext4/journal.rst).
* **With fast commits** it is not known to: what is written is "the minimal delta" (ext4/journal.rst) of what changed,
  by another way for each kind of change. No option says so (fs/ext4/super.c has `fc_debug_force` in kernels for
  debugging), but /proc/fs/ext4/*/fc_info counts (fs/ext4/fast_commit.c): where they are on, each fsync(2) that had
  something to do was one, or was not eligible for it.
* **ext4 without a journal** writes the blocks of directories when it likes.
* **btrfs, f2fs and zfs** have logs of what was synced, in which other changes need not be.
* **xfs** does: what waits for a transaction has those before it written as well, and the log is replayed in their order
  (filesystems/xfs/xfs-delayed-logging-design.rst).
* Of everything else nobody here knows.

Contents are another matter: where a file lies is found out when it is written (delayed allocation), long after its name
has changed. It has to be synced first, everywhere.
"""

from __future__ import annotations

import os

PROC, SYS = b"/proc", b"/sys"
EXT4, XFS = "ext4", "xfs"
# which it is, if it keeps the order
_known: dict[tuple[int, int], str] = {}


def keeps_order(*places: bytes) -> bool:
    """Whether the directories *places* are on one file system that does, as far as the kernel shows it. Something of
    this process has been synced there since it was mounted. What was found out is kept as long as this program runs.
    """
    try:
        which = _which(places)
        if which is not None and which not in _known:
            _known[which] = _found_out(which[0])
        return which is not None and _known[which] != ""
    except (OSError, ValueError, IndexError):  # /proc or /sys is not there, or says something else
        return False


def commits_in_one(*places: bytes) -> bool:
    """Whether that file system is known by now to be an ext4 that keeps the order: see lamina/linux/flush.py."""
    try:
        which = _which(places)
        return which is not None and _known.get(which) == EXT4
    except (OSError, ValueError):
        return False


def _which(places: tuple[bytes, ...]) -> tuple[int, int] | None:
    """Device and id of the file system of *places*; None where these are several. Raises OSError, ValueError."""
    device, *others = {os.stat(place).st_dev for place in places}
    return None if others else (device, os.statvfs(places[0]).f_fsid)


def _found_out(device: int) -> str:
    """What is on *device*, if that keeps the order, else nothing. Raises OSError, ValueError, IndexError."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    name = os.path.basename(os.readlink(SYS + b"/dev/block/" + number))
    if os.path.lexists(SYS + b"/fs/xfs/" + name):
        return XFS
    return EXT4 if _has_journal(name) and not _has_fast_commits(name) else ""


def _has_journal(name: bytes) -> bool:
    """Whether the ext4 on the device *name* has one of its own. It is called after its inode: the name of another
    device's may begin as this one does.
    """
    journals = [entry.rpartition(b"-") for entry in os.listdir(PROC + b"/fs/jbd2")]
    is_there = any(whose == name and inode.isdigit() for whose, _, inode in journals)
    return is_there and os.path.lexists(PROC + b"/fs/ext4/" + name)


def _has_fast_commits(name: bytes) -> bool:
    shown = PROC + b"/fs/ext4/" + name
    if b"fc_debug_force" in _read(shown + b"/options").split():
        return True
    try:
        counted = _read(shown + b"/fc_info").splitlines()
    except FileNotFoundError:  # before Linux 5.10 there are none
        return False
    commits, ineligible = (int(line.split()[0]) for line in counted[1:3])
    return commits > 0 or ineligible > 0


def _read(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)
