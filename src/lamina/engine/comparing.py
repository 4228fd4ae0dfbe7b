"""What leads from one state to another, whatever the two are: containers, snapshots, images."""

from __future__ import annotations

import os
import stat

from lamina.engine.apply.gather import without_idle_roots, without_mount_points
from lamina.engine.apply.selection import select, tree_order
from lamina.engine.apply.values import HostChange, below
from lamina.errors import LaminaError, Unsupported
from lamina.overlay.changes import between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.engine.viewing import View
    from lamina.engine.within import Maps
    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec
    from lamina.store.root import Store
    from lamina.store.squashing import Origins

    Pair = tuple[bytes, MountSpec, MountSpec]


def compare(
    store: Store,
    before: View,
    after: View,
    paths: Iterable[str | bytes] = (),
    exclude: Iterable[str | bytes] = (),
) -> list[HostChange]:
    """What leads from *before* to *after*, by path, or what of that *paths* select and *exclude* does not.

    Raises Unsupported where one is over the host and the other over an image, NotFound for a path that selects nothing,
    OSError.
    """
    from lamina.engine.within import reach

    made = made_of(store, before, after)
    found: list[HostChange] = reach(
        lambda: maps_of(before, after), changes_between, pairs(before, after), made=made, store=store.path
    )
    paths, exclude = list(paths), list(exclude)
    return list(select(found, paths, exclude).changes) if paths or exclude else found


def made_of(store: Store, *views: View) -> frozenset[bytes]:
    """The mount points that were made in *views*, or in those whose frozen layers they stand on."""
    from lamina.store.layers import find, layer_of

    found = {path for view in views for path in view.made}
    lowers = {lower for view in views for place in view.places for lower in place.spec.lowerdirs}
    for lower in lowers:
        identity = layer_of(store.layers, lower)
        if identity is None or not identity.startswith("x"):
            continue
        try:
            layer = find(store, identity)
        except LaminaError:
            continue  # then they are shown
        if layer is not None and isinstance(said := layer.extra.get("made"), list):
            found.update(os.fsencode(path) for path in said if isinstance(path, str))
    return frozenset(found)


def maps_of(*views: View) -> Maps | None:
    """The id maps with which the files of the *views* are reached; see engine/within."""
    from lamina.engine.within import maps_of as maps

    record = next((view.record for view in views if view.record), None)
    return maps(record)


def pairs(before: View, after: View) -> list[Pair]:
    """The stacks to compare, by their places. A place that one of them does not have is as it was before anything was
    written there. Raises Unsupported.
    """
    if before.over_host != after.over_host:
        host, image = (before, after) if before.over_host else (after, before)
        raise Unsupported(
            f"compare {before.name} with {after.name}: {host.name} is over this system and {image.name} is not",
            remedy="'lamina diff NAME' shows what each did by itself",
        )
    old = {place.at: place for place in before.places}
    new = {place.at: place for place in after.places}
    found = []
    for at in sorted({*old, *new}, key=tree_order):
        one, other = old.get(at), new.get(at)
        if one is None:
            assert other is not None
            found.append((at, other.base, other.spec))
        else:
            found.append((at, one.spec, one.base if other is None else other.spec))
    return found


def changes_between(
    stacks: Iterable[Pair], *, made: frozenset[bytes] = frozenset(), store: bytes = b""
) -> list[HostChange]:
    """The changes of all places, by path, parents before children. *made* as of `gather.changes_of`; *store* is the
    path of the store whose layers these are, if it is known. Raises OSError.
    """
    known = _Known(store) if store else None
    found = []
    for at, base, spec in stacks:
        if base == spec:
            continue
        for change in between(base, spec, known=known):
            if not change.path:
                change = _of_anybody(change)
                if not change.what:
                    continue
            found.append(HostChange(below(at, change.path), at, change, spec, base))
    found.sort(key=lambda change: tree_order(change.path))
    if made:
        found = without_mount_points(found, made, ("added", "deleted"))
    return without_idle_roots(found)


class _Known:
    """What stands for a file of a layer: the layer that it was first in, and its path. So a state that stands on a
    squashed layer is compared with one that stands on those which this was made of, and no file is read.
    """

    def __init__(self, store: bytes) -> None:
        self._store = store
        self._layers: dict[bytes, tuple[str, Origins | None] | None] = {}

    def __call__(self, directory: bytes, path: bytes) -> tuple[str, bytes] | None:
        if directory not in self._layers:
            self._layers[directory] = self._look(directory)
        found = self._layers[directory]
        if found is None:
            return None
        layer, origins = found
        if origins is None:
            return layer, path
        step = origins.step(path)
        return None if step is None else (str(step.get("layer")), path)

    def _look(self, directory: bytes) -> tuple[str, Origins | None] | None:
        from lamina.store.layers import find, layer_of
        from lamina.store.root import Store
        from lamina.store.squashing import origins

        identity = layer_of(self._store + b"/layers", directory)
        if identity is None:
            return None
        try:
            layer = find(Store(self._store), identity)
            return None if layer is None else (identity, origins(layer))
        except (LaminaError, OSError):
            return None  # then it is read


def _of_anybody(root: Change) -> Change:
    """The change of a root less what an ordinary user's engine could not copy there: see gather.of_the_container."""
    before, after = root.before, root.after
    if os.geteuid() == 0 or before is None or after is None:
        return root
    if os.geteuid() not in (before.uid, after.uid):
        return root
    same_mode = before.mode & ~stat.S_ISGID == after.mode & ~stat.S_ISGID
    return root._replace(what=root.what - ({"owner", "mode"} if same_mode else {"owner"}))
