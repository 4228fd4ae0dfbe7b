"""Which entries of a stack are names of one file, as far as its upper directory says so.

The upper directory is searched once for files with several names, when the first such file is met. Of the names of
one file, that which the layers below have unchanged is taken as the one the others are links to, else the first.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.overlay.layer import WHITEOUT_DEV
from lamina.overlay.lookup import Found, Layers, OpenDir, View, look

if TYPE_CHECKING:
    from lamina.overlay.difference import Difference


class Linked:
    """The hard links of one comparison."""

    def __init__(self, difference: Difference) -> None:
        """Looks at nothing yet."""
        self._difference = difference
        # of the upper directory, by device (of which a btrfs has several) and inode
        self._names: dict[tuple[int, int], list[bytes]] | None = None
        self._first: dict[tuple[int, int], bytes] = {}
        self._met: dict[tuple[int, int, int], bytes] = {}  # of lower layers that show at a new place, by file

    def to(self, path: bytes, found: Found) -> bytes | None:
        """Another name of what was found at *path*, which is unchanged or comes before it; None if there is none."""
        hit = found.hits[0]
        if hit.status.st_nlink < 2 or stat.S_ISDIR(hit.status.st_mode):
            return None
        if hit.layer != 0:
            first = self._met.setdefault((hit.layer, hit.status.st_dev, hit.status.st_ino), path)
            return None if first == path else first
        if self._names is None:
            self._names = self._search()
        file = hit.status.st_dev, hit.status.st_ino
        names = self._names.get(file, [])
        if len(names) < 2:
            return None
        first = self._first.get(file) or self._choose(file, names)
        return None if first == path else first

    def is_new(self, before: Found, other: bytes) -> bool:
        """Whether what was there before is not the file that *other* was: only then is being its link a change."""
        known = _at(self._difference.below, other)
        if known is None:
            return True
        a, b = before.hits[0].status, known.hits[0].status
        return (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino)

    def _choose(self, file: tuple[int, int], names: list[bytes]) -> bytes:
        for name in names:
            before, after = _at(self._difference.below, name), _at(self._difference.merged, name)
            if before is not None and after is not None and self._difference.same(before, after):
                self._first[file] = name
                return name
        self._first[file] = names[0]
        return names[0]

    def _search(self) -> dict[tuple[int, int], list[bytes]]:
        """Every name of every file with several names: what is in the upper directory shows, whatever is below."""
        found: dict[tuple[int, int], list[bytes]] = {}
        for path, status in self._upper_files():
            # overlayfs links its whiteouts to one another
            if status.st_nlink > 1 and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEV):
                found.setdefault((status.st_dev, status.st_ino), []).append(path)
        for names in found.values():
            names.sort()
        return found

    def _upper_files(self) -> Iterator[tuple[bytes, os.stat_result]]:
        layers = self._difference.layers
        pending = [b""]
        while pending:
            directory = pending.pop()
            with layers.open(0, directory, os.O_RDONLY | os.O_DIRECTORY) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    path = b"%b/%b" % (directory, name) if directory else name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    else:
                        yield path, entry.stat(follow_symlinks=False)


def _at(view: View, path: bytes) -> Found | None:
    """What a path without symbolic links leads to."""
    found: Found | None = view.root
    for name in path.split(b"/"):
        if found is None or not found.is_dir:
            return None
        with OpenDir(view.layers, found.hits) as within:
            found = view.find(within, name)
    return found


def joined_by_index(layers: Layers) -> int:
    """How many files the upper directory changed under names that it does not have: `index=on` joins these by inode.

    overlayfs.rst, "Non-standard behavior"; ovl_get_nlink() and ovl_set_nlink_common() in fs/overlayfs/inode.c: the
    attribute says by how much the names in a mount are more or less than those of the upper file, the index being one
    of them. 0 without an index. Raises OSError where it may not be read.
    """
    spec, marks = layers.spec, layers.format
    if not layers.rules.index or spec.workdir is None:
        return 0
    try:
        index = layers.open_directory(os.path.join(spec.workdir, b"index"), os.O_RDONLY)
    except FileNotFoundError:
        return 0
    count = 0
    with index:
        for name in map(os.fsencode, os.listdir(index)):
            status, names = look(index, name)
            if stat.S_ISDIR(status.st_mode) or marks.is_whiteout(status, names):
                continue
            place = b"/proc/self/fd/%d/%b" % (index, name)
            note = os.getxattr(place, marks.nlink, follow_symlinks=False) if marks.nlink in names else b""
            count += (
                re.fullmatch(rb"U-[1-9][0-9]*", note) is None
            )  # fewer than the upper file's by the index itself
    return count
