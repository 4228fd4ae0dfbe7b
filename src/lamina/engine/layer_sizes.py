"""How large a layer of a container is, also where its files are of subordinate ids (engine/within)."""

from __future__ import annotations

from lamina.errors import Corrupt
from lamina.store import layers, sizes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.containers import Home


def count(home: Home, identity: str) -> tuple[int, int]:
    """Bytes and inodes of the layer *identity*, which the container at *home* made; 0 where it is damaged or gone."""
    from lamina.engine.within import maps_of, reach

    try:
        found = layers.find(home.store, identity)
    except Corrupt:
        found = None
    if found is None:
        return 0, 0
    if found.counted:
        return found.size, found.inodes

    def tree(path: bytes) -> tuple[int, int]:
        size, inodes = reach(lambda: maps_of(home.read("container")), sizes.tree_size, path)
        return size, inodes

    return sizes.count(home.store, found, tree)
