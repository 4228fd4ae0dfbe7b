"""What a start left in an upper directory only to mount something on it: empty files and directories, and copies of
the directories above them of which nothing but the times differ.

Nothing is walked: what is looked at are the mount points, some ten, and the directories above them, so it costs the
same whatever else is in the upper.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENOENT, ENOTDIR, ENOTEMPTY

from lamina.overlay.layer import TRUSTED, USER, LayerFormat
from lamina.overlay.lookup import look, open_beneath
from lamina.overlay.stack import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.overlay.spec import MountSpec
    from lamina.overlay.tree import Tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GONE = (ENOENT, ENOTDIR, ELOOP)  # somebody removed it since, or put something else there: it is his


def idle(spec: MountSpec, made: Iterable[bytes]) -> list[bytes]:
    """Of the mount points *made* (paths from the root on, with or without "/" before), and of the directories above
    them, those in the upper of *spec* that hold nothing and change nothing: what is below comes first.

    An entry that the layers below show as well counts only if it is a directory with the same attributes, whose times
    may differ. Raises OSError.
    """
    if spec.upperdir is None:
        return []
    with Overlay(spec).open_below() as below:
        upper = os.open(spec.upperdir, _DIRECTORY)
        try:
            return _Looking(upper, below, USER if spec.userxattr else TRUSTED).at(made)
        finally:
            os.close(upper)


def clear(spec: MountSpec, made: Iterable[bytes]) -> list[bytes]:
    """Remove `idle` ones from the upper of *spec*, which nobody has mounted; which these were. What stays keeps its
    times. Raises OSError.
    """
    found = idle(spec, made)
    if found:
        assert spec.upperdir is not None
        upper = os.open(spec.upperdir, _DIRECTORY)
        try:
            for path in found:
                _remove(upper, path)
        finally:
            os.close(upper)
    return found


def _remove(upper: int, path: bytes) -> None:
    above, _, name = path.rpartition(b"/")
    with open_beneath(upper, above, os.O_RDONLY | os.O_DIRECTORY) as parent:
        before = os.fstat(parent)
        try:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.rmdir(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
        except OSError as error:
            if error.errno not in (*_GONE, ENOTEMPTY):
                raise
            return
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))


class _Looking:
    def __init__(self, upper: int, below: Tree, marks: LayerFormat) -> None:
        self.upper, self.below, self.marks = upper, below, marks
        self.found: dict[bytes, None] = {}

    def at(self, made: Iterable[bytes]) -> list[bytes]:
        places = {path.strip(b"/") for path in made} - {b""}
        gone = {top for top in {path.split(b"/")[0] for path in places} if not self._has(top)}
        places = {path for path in places if path.split(b"/")[0] not in gone}
        above = {
            b"/".join(parts[:n]) for parts in (p.split(b"/") for p in places) for n in range(1, len(parts))
        }
        for path in sorted(places | above, key=lambda path: (-path.count(b"/"), path)):
            if b".." in path.split(b"/"):
                continue
            try:
                is_idle = self._is_idle(path, path in places)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                continue
            if is_idle:
                self.found[path] = None
        return list(self.found)

    def _has(self, name: bytes) -> bool:
        """Whether *name* is in the upper itself: of one that was never started hardly any is."""
        try:
            os.stat(name, dir_fd=self.upper, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        return True

    def _is_idle(self, path: bytes, is_place: bool) -> bool:
        directory, _, name = path.rpartition(b"/")
        with open_beneath(self.upper, directory, os.O_PATH | os.O_DIRECTORY) as parent:
            status, names = look(parent, name)
        if stat.S_ISREG(status.st_mode):
            return is_place and self._is_empty_file(status, names) and self._shown(path) is None
        if not stat.S_ISDIR(status.st_mode):
            return False
        with open_beneath(self.upper, path, os.O_RDONLY | os.O_DIRECTORY) as opened:
            with os.scandir(opened) as entries:  # there may be many, and the first mostly tells
                if any(path + b"/" + os.fsencode(entry.name) not in self.found for entry in entries):
                    return False
            shown = self._shown(path)
            return shown is None or self._is_copy(opened, path, status, names, shown)

    def _shown(self, path: bytes) -> os.stat_result | None:
        """What the layers below show there."""
        try:
            return (self.below / path).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _is_empty_file(self, status: os.stat_result, names: list[str]) -> bool:
        return status.st_size == 0 and status.st_nlink == 1 and self.marks.whiteout not in names

    def _is_copy(
        self, opened: int, path: bytes, status: os.stat_result, names: list[str], shown: os.stat_result
    ) -> bool:
        """Whether the directory would look the same, but for its times, if the upper did not have it."""
        if self.marks.opaque in names or self.marks.redirect in names:
            return False
        if (status.st_mode, status.st_uid, status.st_gid) != (shown.st_mode, shown.st_uid, shown.st_gid):
            return False
        visible = {name: seen for name in names if (seen := self.marks.to_visible(name)) is not None}
        attributes = {seen: os.getxattr(opened, name) for name, seen in visible.items()}
        return attributes == (self.below / path).xattrs()
