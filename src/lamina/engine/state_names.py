"""How a state is called: a container by its name or id; a snapshot as CONTAINER@SNAPSHOT, or by its whole id alone."""

from __future__ import annotations

from lamina.errors import InvalidReference, NotFound
from lamina.store import containers, names, snapshots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.engine.container import Container
    from lamina.engine.snapshots import Snapshot
    from lamina.engine.view_verbs import ViewVerbs
    from lamina.store.root import Store

SEPARATOR = "@"


def find_state(store: Store, reference: str) -> Container | Snapshot:
    """The container, or the snapshot of one, that *reference* names. Raises NotFound, InvalidInput, Corrupt."""
    from lamina.engine.container import Container
    from lamina.engine.recover import recover
    from lamina.engine.snapshots import Snapshot

    recover(store)
    name, separator, snapshot = reference.partition(SEPARATOR)
    if separator:
        home = containers.find(store, name)
        return Snapshot(home, snapshots.find(home, snapshot))
    try:
        return Container(containers.find(store, reference))
    except NotFound:
        if (found := _by_id(store, reference)) is None:
            raise NotFound(
                f"container {reference[:200]}: no such container or snapshot",
                remedy="a snapshot is CONTAINER@SNAPSHOT; 'lamina ps -a' and 'lamina snapshot ls' list what there is",
            ) from None
        return found


def _by_id(store: Store, reference: str) -> Snapshot | None:
    """The snapshot with that whole id, whosever it is."""
    from lamina.engine.snapshots import Snapshot

    if not names.is_id(reference):
        return None
    for identity in containers.identities(store):
        home = containers.Home(store, identity)
        if (kept := snapshots.get(home, reference)) is not None:
            return Snapshot(home, kept)
    return None


def find_anything(store: Store, reference: str) -> ViewVerbs:
    """What `find_state` finds, or else the image that *reference* names: all that can be looked at.

    Raises NotFound, InvalidInput where an id's beginning fits several, Corrupt.
    """
    from lamina.engine.images import image

    try:
        return find_state(store, reference)
    except NotFound as missing:
        try:
            return image(store, reference)
        except (NotFound, InvalidReference):
            if SEPARATOR in reference and "@sha256:" not in reference:
                raise missing from None
        raise NotFound(
            f"find {reference[:200]}: no such container, snapshot or image",
            remedy="'lamina ps -a', 'lamina snapshot ls' and 'lamina images' list what there is",
        ) from missing
