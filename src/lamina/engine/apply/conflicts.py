"""What the host itself changed since the container started: compared with what the container saw.

While a container runs, its lower directories are the host's, so what it saw is not recorded anywhere. The evidence:

* An inode's ctime is set, by the kernel alone, whenever its content, attributes, links or name change. An entry whose
  ctime is not older than the container's start (`engine.moment`) was changed since. Times of file systems with coarse
  stamps (whole seconds on old ext4, say) are compared as coarsely: what cannot be told apart counts as changed.
* Directories change whenever something in them comes or goes, so their ctime counts only where it matters: when they
  are to be deleted or replaced, or get other permissions, owners or attributes. Entries of a deleted directory that the
  container never deleted, because it never saw them, count too.
* A copy that overlayfs made of a lower file carries a note of that file ("origin"). An addition with such a note,
  whose original is neither here nor at a name that the container removed (or that was removed by applying that), was a
  change to a file that the host has deleted, moved or replaced.
* What an earlier apply or undo of this container left behind, still exactly so (inode and ctime), is not the host's.

Beyond detection: file systems that do not set ctime (some FUSE ones), network file systems whose server's clock is
behind, and the name under which a file with several hard links was changed (all of them have its ctime).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import NamedTuple

from lamina.engine.apply.origins import Origins
from lamina.engine.apply.places import Host
from lamina.engine.apply.values import Clash, HostChange
from lamina.errors import HostChanged, KernelError
from lamina.overlay.changes import Entry, entry_of
from lamina.overlay.layer import WHITEOUT_DEV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from lamina.engine.apply.origins import Handle

    Known = dict[bytes, "Stamp"]  # by absolute path

SECOND = 1_000_000_000
SHOWN = 20
CHANGED = "changed on the host"
MOUNTED = "a file system was mounted on it"
VANISHED = "deleted, moved or replaced on the host"


class Stamp(NamedTuple):
    """What tells whether an entry is still the same, and unchanged."""

    ino: int
    ctime_ns: int
    mtime_ns: int


def stamp(status: os.stat_result) -> Stamp:
    """The stamp of what lstat(2) said."""
    return Stamp(status.st_ino, status.st_ctime_ns, status.st_mtime_ns)


def changed_since(ctime_ns: int, started_ns: int) -> bool:
    """Whether an inode with this ctime was changed at or after *started_ns*, as far as its file system can tell.

    A stamp that ends in zeros is taken to be that coarse: 12 s exactly is not before 12.7 s, nor after it.
    """
    unit = 1
    while unit < SECOND and ctime_ns % (unit * 10) == 0:
        unit *= 10
    return ctime_ns >= started_ns - started_ns % unit


def seen_entry(status: os.stat_result | None) -> Entry | None:
    """An overlay's `Entry` from what lstat(2) said, None for nothing."""
    return None if status is None else entry_of(status)


def is_mark(status: os.stat_result | None) -> bool:
    """Whether this is a whiteout: of another overlay, whose layers lie on the host. No overlay shows it."""
    return status is not None and stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEV


class Comparison:
    """The host's side of a selection of changes. `seen` is what was found: it must still be there when it counts."""

    def __init__(
        self, host: Host, started_ns: int, known: Known, removed: AbstractSet[Handle] = frozenset()
    ) -> None:
        """*known*: what earlier applies and undos left; *removed*: the files that earlier applies took away."""
        self._host, self._started_ns, self._known, self._removed = host, started_ns, known, removed
        self.seen: dict[bytes, os.stat_result] = {}
        self._moved: dict[tuple[int, int], int] = {}
        self.clashes: dict[bytes, Clash] = {}

    @property
    def stale(self) -> bool:
        """Whether entries came or went, or became another type, after the changes were listed: they must be anew."""
        return any(clash.reason != CHANGED and clash.reason != VANISHED for clash in self.clashes.values())

    def compare(self, selected: Sequence[HostChange], changes: Iterable[HostChange]) -> list[Clash]:
        """The clashes of the *selected* among all *changes*, sorted by path. Raises OSError."""
        deleted = {change.path for change in selected if change.kind == "deleted"}
        origins = Origins(self._host, changes, self._removed)
        for change in selected:
            status = self._host.below(change.mountpoint).status(change.change.path)
            if status is not None:
                self.seen[change.path] = status
            reason = self._reason(change, status)
            if not reason and status is None and origins.vanished(change):
                reason = VANISHED
            if reason:
                self._clash(change.path, reason, status, change)
            if status is not None and change.kind in ("deleted", "replaced") and stat.S_ISDIR(status.st_mode):
                self._unseen(change, deleted)
        return [self.clashes[path] for path in sorted(self.clashes)]

    def changed(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the host changed the entry *path*, of which lstat(2) says *status*."""
        if self._known.get(path) == stamp(status):
            return False
        return changed_since(status.st_ctime_ns, self._started_ns)

    def busy(self, path: bytes, status: os.stat_result) -> bool:
        """Whether something of the host's own came or went in the directory *path*.

        By its mtime: making and removing an area there leaves that alone, but not the ctime. An mtime of the future
        says nothing while the ctime is from before.
        """
        known = self._known.get(path)
        if known is not None and (known.ino, known.mtime_ns) == (status.st_ino, status.st_mtime_ns):
            return False
        return all(changed_since(time, self._started_ns) for time in (status.st_mtime_ns, status.st_ctime_ns))

    def moved(self, status: os.stat_result | None) -> None:
        """Remember that we set the ctime of this inode ourselves: it may have further names that are to go."""
        if status is not None:
            self._moved[status.st_dev, status.st_ino] = status.st_ctime_ns

    def is_as_seen(self, status: os.stat_result | None, seen: os.stat_result | None) -> bool:
        """Whether an entry is, unchanged, the one that was compared."""
        if status is None or seen is None:
            return status is seen
        inode = (status.st_dev, status.st_ino)
        ours = self._moved.get(inode, seen.st_ctime_ns)
        return inode == (seen.st_dev, seen.st_ino) and status.st_ctime_ns in (seen.st_ctime_ns, ours)

    def _reason(self, change: HostChange, status: os.stat_result | None) -> str:
        if status is None:
            return "" if change.kind in ("added", "deleted") else "deleted on the host"
        if change.before is None:
            return "created on the host"
        if entry_of(status).type != change.before.type:
            return "replaced on the host"
        if not self.changed(change.path, status):
            return ""
        if change.kind == "changed" and change.before.type == "directory":
            return CHANGED if change.what & {"mode", "owner", "xattrs"} else ""
        return CHANGED

    def _unseen(self, change: HostChange, deleted: set[bytes]) -> None:
        """Entries of a directory that is to go which are in no change: they came after the changes were gathered."""
        directories = self._host.below(change.mountpoint)
        try:
            names = directories.names(change.change.path)
        except KernelError as error:
            if error.errno != errno.EXDEV:
                raise
            self._clash(change.path, MOUNTED, self.seen[change.path], change)
            return
        for name in names:
            path = change.path + b"/" + name
            if path not in deleted:
                status = directories.status(change.change.path + b"/" + name)
                if not is_mark(status):
                    self._clash(path, "created on the host", status, None)

    def _clash(
        self, path: bytes, reason: str, status: os.stat_result | None, change: HostChange | None
    ) -> None:
        self.clashes[path] = Clash(
            path=path,
            reason=reason,
            host=seen_entry(status),
            container=change.after if change else None,
            host_changed_ns=status.st_ctime_ns if status else 0,
        )


def refuse(verb: str, clashes: Sequence[Clash], since: str, *, forcible: bool = True) -> HostChanged:
    """The error that names every clash, with both sides (the first few in the text, all in `clashes`)."""
    lines = [f"{verb}: the host changed {_count(len(clashes))} since {since}"]
    for clash in clashes[:SHOWN]:
        lines.append(f"  {os.fsdecode(clash.path)}: {clash.reason}")
        lines.append(f"    host:      {describe(clash.host, clash.host_changed_ns)}")
        lines.append(f"    container: {describe(clash.container)}")
    if len(clashes) > SHOWN:
        lines.append(f"  and {len(clashes) - SHOWN} more")
    remedy = "look at the changes again"
    if forcible:
        remedy = "override the host's changes with --force" + ", or exclude these paths" * (verb == "apply")
    return HostChanged("\n".join(lines), clashes=tuple(clashes), remedy=remedy)


def _count(number: int) -> str:
    return "1 path" if number == 1 else f"{number} paths"


def describe(entry: Entry | None, changed_ns: int = 0) -> str:
    """One side of a clash in words."""
    if entry is None:
        return "nothing"
    text = f"{entry.type} {entry.mode:04o} {entry.uid}:{entry.gid}"
    if entry.type == "file":
        text += f", {entry.size} bytes"
    if entry.type == "symlink" and entry.target is not None:
        text += f" to {os.fsdecode(entry.target)}"
    moment, what = (changed_ns, "changed") if changed_ns else (entry.mtime_ns, "modified")
    return f"{text}, {what} {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(moment // SECOND))}"
