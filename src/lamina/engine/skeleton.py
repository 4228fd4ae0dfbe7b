"""The host's directories that have mounts below them, for a user namespace; see lamina/engine/host.py.

Only the directories on the way to a mount become skeletons; everything beside that way is overlaid whole. Files in such
a directory are copied if they are small and readable, else bound read-only, which a warning says; sockets and devices
are absent.
"""

from __future__ import annotations

import os
from stat import S_IMODE

from lamina.engine.host import ABSENT, COVERED, FRESH, OVERLAY, READ_ONLY, at_or_below, kind_of
from lamina.engine.places import COPY, DIRECTORY, HostImage, Place, Stub
from lamina.linux.mountinfo import prefixes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lamina.linux.mountinfo import Mount

# files bound into one directory of a skeleton: each costs a mount
MOST_BOUND = 256
LARGEST_COPY = 1 << 20
MOST_COPIED = 32 << 20  # bytes in all


def compose_with_skeletons(
    seen: Sequence[Mount],
    mounts: Sequence[Mount],
    verdicts: dict[bytes, str],
    hide: Sequence[bytes],
    refused: Mapping[bytes, str],
) -> HostImage:
    """The image of the *seen* mounts, on which the *verdicts* are given by mount point. *mounts* are all of them."""
    points = {m.mount_point for m in mounts}
    builder = _Builder({m.mount_point: m for m in seen}, points, verdicts, hide, refused)
    builder.mount(seen[0])
    return HostImage(
        tuple(builder.places), tuple(builder.readonly), (), tuple(builder.stubs), tuple(builder.warnings)
    )


class _Builder:
    def __init__(
        self,
        seen: dict[bytes, Mount],
        points: set[bytes],
        verdicts: dict[bytes, str],
        hide: Sequence[bytes],
        refused: Mapping[bytes, str],
    ) -> None:
        self.seen, self.verdicts, self.hide = seen, verdicts, hide
        self.on_the_way = {above for point in points for above in prefixes(point) if above != point}
        self.refused = refused
        self.places: list[Place] = []
        self.readonly: list[bytes] = []
        self.stubs: list[Stub] = []
        self.warnings: list[str] = []
        self.skeletons = 0
        self.copied = 0

    def mount(self, mount: Mount) -> None:
        """One overlaid mount: as it is, or as a skeleton of its own."""
        point, writable = mount.mount_point, not mount.read_only or mount.mount_point == b"/"
        if not self._blocked(point):
            self.places.append(Place(point, point, writable))
            return
        number = self.skeletons
        self.skeletons += 1
        self.places.append(Place(point, point, writable, skeleton=number))
        self.stubs.append(Stub(number, point, DIRECTORY, _mode(point)))
        self._entries(point, number)

    def _blocked(self, directory: bytes) -> bool:
        """Whether anything, even something covered, is mounted below."""
        return directory in self.on_the_way

    def _entries(self, directory: bytes, number: int) -> None:
        try:
            with os.scandir(directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            entries = []  # nothing of it can be seen on the host either
        bound = 0
        for entry in entries:
            path = os.path.join(directory, entry.name)
            if path in self.seen:
                self._mounted(path, number)
            elif entry.is_symlink():
                self._link(path, number)
            elif entry.is_dir(follow_symlinks=False):
                self._directory(path, number)
            elif entry.is_file(follow_symlinks=False) and not self._copy(path, number):
                bound += 1
                if bound <= MOST_BOUND:
                    self.stubs.append(Stub(number, path, "file", 0o644))
                    self.readonly.append(path)
        why = "large or unreadable, and something is mounted below the directory"
        if bound:
            self.warnings.append(
                f"{_text(directory)}: {min(bound, MOST_BOUND)} of its files are read-only: {why}"
            )
        if bound > MOST_BOUND:
            self.warnings.append(
                f"{_text(directory)}: {bound - MOST_BOUND} of its files are not there: {why}"
            )

    def _link(self, path: bytes, number: int) -> None:
        try:
            target = os.readlink(path)
        except OSError:
            return  # gone meanwhile
        self.stubs.append(Stub(number, path, "link", target=target))

    def _directory(self, path: bytes, number: int) -> None:
        self.stubs.append(Stub(number, path, DIRECTORY, _mode(path)))
        if path in FRESH or any(at_or_below(path, hidden) for hidden in self.hide):
            return
        if path in self.refused:
            self.readonly.append(path)
            self.warnings.append(f"{_text(path)} is read-only: {self.refused[path]}")
        elif self._blocked(path):
            self._entries(path, number)
        else:
            self.places.append(Place(path, path, writable=self._writable(path)))

    def _mounted(self, path: bytes, number: int) -> None:
        """An entry on which something is mounted that can be seen."""
        verdict = self.verdicts[path]
        kind = kind_of(path)
        if kind == DIRECTORY:
            self.stubs.append(Stub(number, path, DIRECTORY, _mode(path)))
        elif verdict != ABSENT:
            self.stubs.append(Stub(number, path, "file", 0o644))
        if verdict == OVERLAY:
            self.mount(self.seen[path])
        elif verdict in (READ_ONLY, COVERED):
            self.readonly.append(path)

    def _copy(self, path: bytes, number: int) -> bool:
        """Have the file copied, if it is worth it."""
        try:
            found = os.stat(path, follow_symlinks=False)
        except OSError:
            return False
        size = found.st_size
        if size > LARGEST_COPY or self.copied + size > MOST_COPIED or not os.access(path, os.R_OK):
            return False
        self.copied += size
        self.stubs.append(Stub(number, path, COPY, S_IMODE(found.st_mode)))
        return True

    def _writable(self, path: bytes) -> bool:
        above = path
        while above not in self.seen:
            above = os.path.dirname(above)
        return not self.seen[above].read_only or above == b"/"


def _mode(path: bytes) -> int:
    try:
        return S_IMODE(os.stat(path).st_mode) | 0o700
    except OSError:
        return 0o755


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
