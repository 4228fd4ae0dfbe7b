"""Notes of where copies came from, which overlayfs leaves on the files it copies up ("origin")."""

from __future__ import annotations

import errno
import os
from stat import S_ISCHR

from lamina.engine.apply.places import GONE, Host
from lamina.linux.constants import AT_FDCWD
from lamina.linux.files import name_to_handle_at
from lamina.linux.xattrs import lgetxattr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from lamina.engine.apply.values import HostChange
    from lamina.overlay.spec import MountSpec

    Handle = tuple[bytes, bytes]  # the mount point, and name_to_handle_at(2)


class Origins:
    """What overlayfs noted about the files it copied up: whether their originals are still where they should be.

    A file that was copied up in one state and changed in a later one has a note of the copy, and that of the original.
    """

    def __init__(self, host: Host, changes: Iterable[HostChange], removed: AbstractSet[Handle]) -> None:
        self._host, self._changes, self._removed = host, changes, removed
        self._handles: set[Handle] | None = None
        self._copies: dict[
            bytes, dict[bytes, bytes]
        ] = {}  # by upper: handles of its states' files, and their paths

    def vanished(self, change: HostChange) -> bool:
        """Whether this addition is a copy of a lower file that is neither here nor where the container removed it."""
        if change.kind != "added" or change.spec.upperdir is None:
            return False
        origin = _noted(change)
        if origin is None:
            return False  # made by the container, or a path too long to look at
        if len(origin) <= ORIGIN_HEAD:  # a file system without handles: the note says no more than "copied"
            return not any(c.kind in ("deleted", "replaced") for c in self._changes)
        if self._handles is None:
            found = {handle for c in self._changes for handle in handles_of(self._host, c)}
            self._handles = found | self._removed
        seen: set[bytes] = set()
        while (change.mountpoint, origin[ORIGIN_HEAD:]) not in self._handles:
            copy = self._copies_of(change.spec).get(origin[ORIGIN_HEAD:])
            if copy is None or copy in seen:  # a copy of itself is of nothing that is here
                return True
            seen.add(copy)
            if (note := _origin_of(copy, change.spec)) is None or len(note) <= ORIGIN_HEAD:
                return False
            origin = note
        return False

    def _copies_of(self, spec: MountSpec) -> dict[bytes, bytes]:
        """The files in the layers of the container's earlier states: only looked for where there is a doubt."""
        assert spec.upperdir is not None
        if spec.upperdir not in self._copies:
            found = self._copies[spec.upperdir] = {}
            for layer in own_layers(spec)[1:]:
                for directory, _, files in os.walk(layer):
                    for name in files:
                        path = directory + b"/" + name
                        try:
                            found[name_to_handle_at(AT_FDCWD, path).handle] = path
                        except OSError:  # a file system without handles
                            continue
        return self._copies[spec.upperdir]


def handles_of(host: Host, change: HostChange) -> Iterator[Handle]:
    """The handles of the host's files that the container removed, changed, or gave another name to. Raises OSError."""
    paths = {change.change.path} if change.before is not None else set()
    if change.change.link_to is not None:
        paths.add(change.change.link_to)
    for path in paths:
        try:
            directory, name = host.below(change.mountpoint).parent(path)
            yield change.mountpoint, name_to_handle_at(directory, name).handle
        except OSError as error:
            if error.errno not in (*GONE, errno.EOPNOTSUPP):
                raise


def own_layers(spec: MountSpec) -> tuple[bytes, ...]:
    """Of the directories of *spec* those which the container wrote: its upper, and those of earlier states, top first.
    A container over the host has no others in the store.
    """
    assert spec.upperdir is not None
    # of a state it is a layer itself (engine/state_review)
    store = spec.upperdir.rpartition(b"/containers/")[0] or spec.upperdir.rpartition(b"/layers/")[0]
    layers = store + b"/layers/"
    return (spec.upperdir, *(lower for lower in spec.lowerdirs if lower.startswith(layers)))


def _noted(change: HostChange) -> bytes | None:
    """The note of the topmost copy of what *change* added. One that says no more than "copied", as without root every
    one does, speaks of the file of that name in the state below, if there is one.
    """
    note = None
    for layer in own_layers(change.spec):
        path = layer + b"/" + change.change.path
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
        if S_ISCHR(found.st_mode) and not found.st_rdev:  # deleted in that state
            break
        note = _origin_of(path, change.spec)
        if note is None or len(note) > ORIGIN_HEAD:
            break
    return note


def _origin_of(path: bytes, spec: MountSpec) -> bytes | None:
    prefix = b"user.overlay." if spec.userxattr else b"trusted.overlay."
    try:
        return lgetxattr(path, prefix + b"origin")
    except OSError:
        return None


# struct ovl_fb in fs/overlayfs/overlayfs.h: version, magic, len, flags, type (a byte each), uuid (16 bytes), handle
ORIGIN_HEAD = 21
