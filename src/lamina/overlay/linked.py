"""Which entries of a tree are names of one file, as far as the layers say so that the other tree does not have.

Each of these layers is searched once for files with several names, when the first such file of it is met. Of the names
of one file, that which the other tree has unchanged is taken as the one the others are links to, else the first.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.overlay.layer import WHITEOUT_DEV
from lamina.overlay.lookup import Found, Layers, at, look

if TYPE_CHECKING:
    from lamina.overlay.difference import Difference


File = tuple[int, int, int]  # the layer, and in it device (of which a btrfs has several) and inode


class Linked:
    """The hard links of one comparison: those on its right side."""

    def __init__(self, difference: Difference) -> None:
        """Looks at nothing yet."""
        self._difference = difference
        self._names: dict[int, dict[File, list[bytes]]] = {}  # of own layers, by their number
        self._first: dict[File, bytes] = {}

    def to(self, path: bytes, found: Found) -> bytes | None:
        """Another name of what was found at *path*, which is unchanged or comes before it; None if there is none."""
        hit = found.hits[0]
        if hit.status.st_nlink < 2 or stat.S_ISDIR(hit.status.st_mode):
            return None
        file = hit.layer, hit.status.st_dev, hit.status.st_ino
        first = self._first.get(file)
        if first is None:
            # all that own layers show is met, in the order of paths; of common layers what shows at a new place
            first = (self._unchanged(file) if self._difference.right.is_own(hit) else None) or path
            self._first[file] = first
        return None if first == path else first

    def is_new(self, before: Found, other: bytes) -> bool:
        """Whether what was there before is not the file that *other* was: only then is being its link a change."""
        known = at(self._difference.left.view, other)
        if known is None:
            return True
        return not os.path.samestat(before.hits[0].status, known.hits[0].status)

    def _unchanged(self, file: File) -> bytes | None:
        """The first of its names under which the left side has the same."""
        layer = file[0]
        if layer not in self._names:
            self._names[layer] = self._search(layer)
        names = self._names[layer].get(file, [])
        for name in names if len(names) > 1 else ():
            after = at(self._difference.right.view, name)
            if after is None or after.hits[0].layer != layer or after.hits[0].path != name:
                continue  # hidden by what is above
            before = at(self._difference.left.view, name)
            if before is not None and self._difference.same(before, after):
                return name
        return None

    def _search(self, layer: int) -> dict[File, list[bytes]]:
        """Every name of every file with several names, as the layer has them."""
        found: dict[File, list[bytes]] = {}
        for path, status in self._files(layer):
            # overlayfs links its whiteouts to one another
            if status.st_nlink > 1 and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == WHITEOUT_DEV):
                found.setdefault((layer, status.st_dev, status.st_ino), []).append(path)
        for names in found.values():
            names.sort()
        return found

    def _files(self, layer: int) -> Iterator[tuple[bytes, os.stat_result]]:
        layers = self._difference.right.layers
        pending = [b""]
        while pending:
            directory = pending.pop()
            with layers.open(layer, directory, os.O_RDONLY | os.O_DIRECTORY) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    path = b"%b/%b" % (directory, name) if directory else name
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    else:
                        yield path, entry.stat(follow_symlinks=False)


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
