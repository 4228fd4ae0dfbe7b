"""States as something to look at: which stacks of directories a container, a snapshot or an image consists of.

Any two of these can be compared. What they have in common are the lowest layers of the same place, which is found by
their paths (`overlay.changes.between`); nobody has to know how one came from the other.
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.layers import inode_of, stacks_of
from lamina.overlay.spec import MountSpec, steady_options, top_first
from lamina.store.layers import tree_of
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home
    from lamina.store.images import ImageRecord
    from lamina.store.root import Store
    from lamina.store.snapshots import SnapshotRecord

CONTAINER, SNAPSHOT, IMAGE = "container", "snapshot", "image"


@value
class Place:
    """One stack of a state: where it is mounted, the stack, and the same without what the container itself wrote: the
    layers of its image, or the host's directory.
    """

    at: bytes
    spec: MountSpec
    base: MountSpec


@value
class View:
    """A state to be looked at.

    kind      "container", "snapshot" or "image"
    name      as people know it
    places    parents first; of an image one, b"/"
    image     the id of the image that is under it, "" over the host
    made      mount points that the engine made in the container: no doing of anybody's
    record    the container's record, by which its files are reached; {} of an image
    """

    kind: str
    name: str
    places: tuple[Place, ...]
    image: str
    made: frozenset[bytes]
    record: dict[str, Any]

    @property
    def over_host(self) -> bool:
        """Whether the host's files are under it."""
        return not self.image


def view_container(home: Home, asked: dict[str, Any] | None = None) -> View:
    """The container at *home* as it is now, or as its record *asked* has it. Raises NotFound, Corrupt."""
    return _view(home, home.asked() if asked is None else asked, CONTAINER)


def view_snapshot(home: Home, kept: SnapshotRecord) -> View:
    """The state *kept* of the container at *home*. Raises NotFound, Corrupt."""
    asked = chains.on_chain(over_its_image(home.asked(), kept), kept.chain, kept.id)
    overlays = [{**entry, "upper": None, "work": None} for entry in asked.get("overlays") or ()]
    found = _view(home, {**asked, "overlays": overlays}, SNAPSHOT)
    return replace(found, name=f"{found.name}@{kept.shown}")


def over_its_image(asked: dict[str, Any], kept: SnapshotRecord) -> dict[str, Any]:
    """The record *asked* over the image that was under it when *kept* was made, where it was put over another since
    (rebase).
    """
    if not kept.image_id or chains.own_layers(asked) == kept.base_layers:
        return asked
    lower = [chains.short_tree(layer) for layer in top_first(kept.base_layers)] or ["../../empty"]
    overlays = [
        {**{key: given for key, given in entry.items() if key != "frozen"}, "lower": lower}
        for entry in asked.get("overlays") or ()
    ]
    ids = list(kept.base_layers)
    found = {key: given for key, given in asked.items() if key != chains.SQUASHED}
    return {**found, "overlays": overlays, "layers": ids, "base_layers": ids, "image_id": kept.image_id}


def _view(home: Home, asked: dict[str, Any], kind: str) -> View:
    overlays = asked.get("overlays") or []
    places = []
    for (at, spec), entry in zip(stacks_of(overlays, home.path), overlays, strict=True):
        frozen = len(top_first(entry.get("frozen") or ()))
        below = _without_filler(spec.lowerdirs[frozen:], home.store)
        inode = int(entry.get("inode") or 0)
        if inode and inode_of(below[0]) != inode:
            # a file system that was unmounted since, or another program's directory: what was made there is all new
            below = (home.store.empty,)
        base = replace(spec, lowerdirs=below, upperdir=None, workdir=None)
        places.append(Place(at, replace(spec, lowerdirs=(*spec.lowerdirs[:frozen], *below)), base))
    return View(
        kind=kind,
        name=str(asked.get("name") or home.short_id),
        places=tuple(places),
        image=str(asked.get("image_id") or ""),
        made=frozenset(os.fsencode(place) for place in asked.get("made") or ()),
        record=asked,
    )


def _without_filler(lowers: tuple[bytes, ...], store: Store) -> tuple[bytes, ...]:
    """Less the empty directory that the kernel needs where one lower has no upper."""
    return lowers[:-1] if len(lowers) > 1 and lowers[-1] == store.empty else lowers


def view_image(store: Store, record: ImageRecord, name: str) -> View:
    """The image *record*, called *name*."""
    from lamina.linux.procfs import has_trusted_attributes

    userxattr = not has_trusted_attributes()
    lowers = top_first([tree_of(store, layer) for layer in record.layers]) or (store.empty,)
    spec = MountSpec(lowerdirs=lowers, userxattr=userxattr, options=steady_options(userxattr))
    return View(IMAGE, name, (Place(b"/", spec, spec),), record.id, frozenset(), {})
