"""Removing images that nobody uses: by wish (`lamina system prune`), or to stay below a limit (`--store-limit`).

Records and names go; layers and blobs follow with the garbage. An image that is pinned, over which there is a
container, or which somebody is about to use, stays.
"""

from __future__ import annotations

from lamina.errors import Conflict, Corrupt, NotFound
from lamina.store import garbage, images, lock
from lamina.store.garbage import names_by_image
from lamina.store.references import References
from lamina.store.root import raise_storage_error
from lamina.store.tree import remove_tree
from lamina.store.usage import Amount, total
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lamina.store.images import ImageRecord
    from lamina.store.root import Store
    from lamina.store.scratch import Remove

    Wanted = Callable[[ImageRecord], bool]


@value
class Gone:
    """An image that was removed: its id, the names that stood for it, when it was last used (ns since 1970)."""

    id: str
    names: tuple[str, ...]
    last_used: int


@value
class Evicted:
    """What a limit cost. `over`: how many bytes the store is above it all the same (in use, pinned)."""

    images: tuple[Gone, ...]
    freed: int
    amount: Amount
    over: int


def prune_images(store: Store, *, everything: bool = False, wanted: Wanted | None = None) -> list[Gone]:
    """Remove the images without a name, with *everything* all that no container uses; only those that are *wanted*.

    Raises KernelError.
    """
    names = names_by_image(store)
    found = _references(store)
    gone = []
    for record in found.records.values():
        if (names.get(record.id) and not everything) or (wanted is not None and not wanted(record)):
            continue
        if (one := _remove(store, record, found, names)) is not None:
            gone.append(one)
    return gone


def enforce(store: Store, limit: int, *, remove: Remove = remove_tree) -> Evicted:
    """Keep layers and blobs below *limit* bytes: collect garbage, then evict images, the longest unused first.

    Raises KernelError.
    """
    try:
        before = total(store).bytes
        if before <= limit:
            return Evicted((), 0, total(store), 0)
        freed = garbage.collect(store, remove=remove).freed
        gone: list[Gone] = []
        while (excess := total(store).bytes - limit) > 0:
            evicted = _evict(store, excess)
            if not evicted:
                break
            gone += evicted
            freed += garbage.collect(store, remove=remove).freed
        amount = total(store)
    except OSError as error:
        raise_storage_error(error, "keep the store below its limit", store.path)
    return Evicted(tuple(gone), freed, amount, max(0, amount.bytes - limit))


def _evict(store: Store, excess: int) -> list[Gone]:
    """Remove images, the longest unused first, until about *excess* bytes belong to nobody any more."""
    found, names = _references(store), names_by_image(store)
    users = _users(found.records.values())
    used: set[str] = {layer for use in found.containers for layer in use.layers}
    order = sorted(found.records.values(), key=lambda record: images.last_used(store, record.id))
    gone: list[Gone] = []
    for record in order:
        if excess <= 0:
            break
        if (one := _remove(store, record, found, names)) is None:
            continue
        gone.append(one)
        for what in {*record.layers, *record.blobs}:
            users[what].discard(record.id)
            if not users[what] and what not in used:
                excess -= _size(store, what)
    return gone


def _users(records: Iterable[ImageRecord]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        for what in (*record.layers, *record.blobs):
            found.setdefault(what, set()).add(record.id)
    return found


def _size(store: Store, what: str) -> int:
    from lamina.store.blobs import size_of

    return (size_of(store, what) or 0) if ":" in what else garbage.size_of_layer(store, what)[0]


def _references(store: Store) -> References:
    try:
        with lock.turn(store.leases, lock.LOCK_SH):  # whoever adds meanwhile is no matter here
            return References(store)
    except OSError as error:
        raise_storage_error(error, "look for unused images", store.path)


def _remove(store: Store, record: ImageRecord, found: References, names: dict[str, list[str]]) -> Gone | None:
    """None where it stays: somebody uses it, or removed it meanwhile."""
    if images.is_pinned(store, record.id) or record.id in found.images:
        return None
    used = images.last_used(store, record.id)
    try:
        images.remove(store, record.id, unless_used=found.containers)
    except (Conflict, NotFound, Corrupt):
        return None
    return Gone(record.id, tuple(names.get(record.id, ())), used)
