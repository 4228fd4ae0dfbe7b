"""How much of a directory each layer brings, hides and deletes: the sum of what `explain` says of everything in it.

Two walks: one of what the stack shows, for what shines through, and one of each layer by itself. So it costs what is in
the directory, in all layers together.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from lamina.overlay.difference import LONGEST_PATH, too_deep
from lamina.overlay.explain import forbidden
from lamina.overlay.layer import WHITEOUT_DEV
from lamina.overlay.lookup import Found, Layers, OpenDir, View, at
from lamina.overlay.spec import MountSpec

if TYPE_CHECKING:
    from lamina.overlay.explain import Explanation

    Enter = Callable[[bytes], None]


class Share(NamedTuple):
    """What one layer has below a directory. The directory itself does not count.

    layer         its number, as in Answer
    shown         entries of it that a mount shows; a merged directory is the topmost layer's
    shown_bytes   of the regular files among these, by their sizes
    merged        directories that only add to one above
    hidden        entries that something above hides
    hidden_bytes  of the regular files among these
    deletes       whiteouts
    """

    layer: int
    shown: int = 0
    shown_bytes: int = 0
    merged: int = 0
    hidden: int = 0
    hidden_bytes: int = 0
    deletes: int = 0


def shares(spec: MountSpec, explanation: Explanation) -> tuple[Share, ...]:
    """One for each layer that has a directory there, top first; *explanation* is that of the directory.

    Raises OSError: a layer that cannot be read; Unsupported for paths that are longer than anybody's.
    """
    rows = [row for row in explanation.rows if row.answer == "directory" and row.role != "data"]
    layers = Layers(spec)
    try:
        found: dict[int, Share] = {}
        if explanation.exists and explanation.type == "directory":
            _shown(layers, explanation.resolved, found)
        whole = [(row.layer, _of_layer(layers, row.layer, row.path)) for row in rows]
        return tuple(_share(layer, found.get(layer, Share(layer)), *counted) for layer, counted in whole)
    finally:
        layers.close()


def _share(layer: int, seen: Share, entries: int, size: int, deletes: int) -> Share:
    # what came along with a directory that was moved here is counted there, and not in what is hidden here
    hidden = max(entries - seen.shown - seen.merged, 0)
    return seen._replace(
        layer=layer, hidden=hidden, hidden_bytes=max(size - seen.shown_bytes, 0), deletes=deletes
    )


def _shown(layers: Layers, path: bytes, found: dict[int, Share]) -> None:
    view = View(layers)
    top = at(view, path)
    pending: list[tuple[bytes, Found]] = [] if top is None or not top.is_dir else [(path, top)]
    while pending:
        directory, here = pending.pop()
        with OpenDir(layers, here.hits) as within:
            for name in within.names():
                try:
                    entry = view.find(within, name)
                except OSError as error:
                    if forbidden(error):
                        raise
                    continue  # a mount fails there as well: it shows nothing
                if entry is None:
                    continue
                _count(entry, found)
                if entry.is_dir:
                    pending.append((_checked(directory, name), entry))


def _count(entry: Found, found: dict[int, Share]) -> None:
    hit = entry.hits[0]
    share = found.setdefault(hit.layer, Share(hit.layer))
    size = hit.status.st_size if stat.S_ISREG(hit.status.st_mode) else 0
    found[hit.layer] = share._replace(shown=share.shown + 1, shown_bytes=share.shown_bytes + size)
    for below in entry.hits[1:]:
        share = found.setdefault(below.layer, Share(below.layer))
        found[below.layer] = share._replace(merged=share.merged + 1)


def _of_layer(layers: Layers, layer: int, path: bytes) -> tuple[int, int, int]:
    """Of one layer's directory: how many entries are below it, how large its regular files are, how many whiteouts."""
    entries = size = deletes = 0
    pending = [path]
    for status, is_whiteout in _statuses(layers, layer, pending):
        if is_whiteout:
            deletes += 1
            continue
        entries += 1
        if stat.S_ISREG(status.st_mode):
            size += status.st_size
    return entries, size, deletes


def _statuses(layers: Layers, layer: int, pending: list[bytes]) -> Iterator[tuple[os.stat_result, bool]]:
    while pending:
        directory = pending.pop()
        with layers.open(layer, directory, os.O_RDONLY | os.O_DIRECTORY) as fd, os.scandir(fd) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(_checked(directory, os.fsencode(entry.name)))
                yield status, _is_whiteout(layers, fd, entry.name, status)


def _is_whiteout(layers: Layers, fd: int, name: str, status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev == WHITEOUT_DEV
    if not stat.S_ISREG(status.st_mode) or status.st_size:
        return False
    try:
        names = os.listxattr(b"/proc/self/fd/%d/%b" % (fd, os.fsencode(name)), follow_symlinks=False)
    except OSError:
        return False
    return layers.format.is_whiteout(status, names)


def _checked(directory: bytes, name: bytes) -> bytes:
    path = b"%b/%b" % (directory, name) if directory else name
    if len(path) > LONGEST_PATH:
        raise too_deep(path)
    return path
