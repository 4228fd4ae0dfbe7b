"""How large a layer of a container is, and all that it wrote, also where its files are of subordinate ids
(engine/within).
"""

from __future__ import annotations

import os

from lamina.errors import Corrupt, Unsupported
from lamina.store import layers, sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.container import Container
    from lamina.store.containers import Home


def count(home: Home, identity: str) -> tuple[int, int]:
    """Bytes and inodes of the layer *identity*, which the container at *home* made; 0 where it is damaged or gone."""
    try:
        found = layers.find(home.store, identity)
    except Corrupt:
        found = None
    if found is None:
        return 0, 0
    if found.counted:
        return found.size, found.inodes

    return sizes.count(home.store, found, lambda path: _tree(home, path))


def written_by(container: Container) -> int:
    """Bytes of the files that *container* wrote or changed, those of its snapshots that it stands on included: docker's
    SizeRw. Its records and its log are none of them. Nothing of what is damaged or was removed meanwhile.
    """
    home = container._home
    try:
        overlays = (home.read("container") or {}).get("overlays") or ()
    except Corrupt:
        return 0
    written = 0
    for overlay in overlays:
        written += sum(count(home, identity)[0] for identity in overlay.get("frozen") or ())
        upper = overlay.get("upper")
        if not upper:
            continue
        path = home.path + b"/" + os.fsencode(upper)
        try:
            written += _tree(home, path)[0]
        except (OSError, Unsupported):
            written += sizes.tree_size(path, strict=False)[0]
    return written


def _tree(home: Home, path: bytes) -> tuple[int, int]:
    from lamina.engine.within import maps_of, reach

    size, inodes = reach(lambda: maps_of(home.read("container")), sizes.tree_size, path)
    return size, inodes
