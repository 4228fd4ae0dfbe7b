"""The changes of all overlays of a container, as changes of one host."""

from __future__ import annotations

import os
import stat

from lamina.engine.apply.selection import ancestors, tree_order
from lamina.engine.apply.values import HostChange, below
from lamina.overlay.changes import changes
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec


def changes_of(
    overlays: Iterable[tuple[bytes, MountSpec]],
    *,
    made: Collection[bytes] = (),
    nowhere: bytes = b"",
    frozen: Mapping[bytes, int] | None = None,
) -> list[HostChange]:
    """All changes of a container, by host path, parents before children.

    *overlays* are (mount point, stack) pairs. *made* are absolute paths of mount points which the engine itself had
    to create in the container: they and their parents are left out as long as nothing else is in them. *nowhere* is the
    lower directory of stacks whose own is not there any more. *frozen* says how many of a stack's lower directories,
    from the top, are the container's as well: states of it. Raises OSError, errors.Corrupt.
    """
    found = []
    for mountpoint, stack in overlays:
        own = (frozen or {}).get(mountpoint, 0)
        spec, what = _read(stack, nowhere, own)
        base = replace(spec, lowerdirs=spec.lowerdirs[own:], upperdir=None, workdir=None) if own else None
        for change in what:
            if not change.path:
                if spec.lowerdirs[own:] == (nowhere,):
                    continue  # what it had before cannot be told
                change = of_the_container(change, spec)
                if not change.what:
                    continue
            found.append(HostChange(below(mountpoint, change.path), mountpoint, change, spec, base))
    found.sort(key=lambda change: tree_order(change.path))
    if made:
        found = without_mount_points(found, made)
    return without_idle_roots(found)


def _read(spec: MountSpec, nowhere: bytes, own: int) -> tuple[MountSpec, list[Change]]:
    """The changes of one stack; over *nowhere* if its lower directory goes while it is being looked at."""
    try:
        return spec, list(changes(spec, above=1 + own))
    except OSError:
        if not nowhere or os.path.lexists(spec.lowerdirs[own]):
            raise
        spec = replace(spec, lowerdirs=(*spec.lowerdirs[:own], nowhere))
        return spec, list(changes(spec, above=1 + own))


def of_the_container(root: Change, spec: MountSpec) -> Change:
    """The change of an overlay's own *root* less what the engine could not copy there when it made the upper directory.

    Without root that is the owner, and a set-group-id bit with a foreign group (chown(2), chmod(2)). The directory that
    the uppers lie in tells who made them.
    """
    before, after = root.before, root.after
    if root.kind != "changed" or before is None or after is None or spec.upperdir is None:
        return root
    maker = os.stat(os.path.dirname(spec.upperdir))
    if maker.st_uid == 0 or (after.uid, after.gid) != (maker.st_uid, maker.st_gid):
        return root
    same_mode = before.mode & ~stat.S_ISGID == after.mode & ~stat.S_ISGID
    return root._replace(what=root.what - ({"owner", "mode"} if same_mode else {"owner"}))


def without_idle_roots(found: list[HostChange]) -> list[HostChange]:
    """*found* less the times of the overlays' own roots in which nothing happened: they are the upper directory's."""
    busy = {ancestors(change.path)[0] for change in found if len(change.path) > 1}
    return [c for c in found if not (c.incidental and c.path == c.mountpoint and c.path not in busy)]


def without_mount_points(
    found: list[HostChange], made: Collection[bytes], kinds: Collection[str] = ("added",)
) -> list[HostChange]:
    """*found* (parents first) less the empty files and directories that were made to mount something on them. *kinds*:
    and less their deletion, where what is compared begins with a state that has them.
    """
    places = {*made, *(above for path in made for above in ancestors(path))}
    with_content: set[bytes] = set()  # directories in which something real happened
    touched: set[bytes] = set()  # directories in which a mount point was made
    kept: list[HostChange] = []
    for change in reversed(found):
        directory = ancestors(change.path)[:1]
        entry = change.after or change.before
        if (
            change.path in places
            and change.kind in kinds
            and change.path not in with_content
            and entry is not None
            and (entry.type == "directory" or (entry.type == "file" and entry.size == 0))
        ):
            touched.update(directory)
        elif change.incidental and change.path in touched and change.path not in with_content:
            pass  # its times differ only because of the mount point
        else:
            kept.append(change)
            if not change.incidental:
                with_content.update(directory)
    return kept[::-1]
