"""Images of very many layers, as a container stands on them: the lowest layers made fewer, so that the kernel stacks
them, and there is room for what the container freezes.

    base ... ── AT_ONCE ──┬── AT_ONCE ──┬── ... ──┬── ON_TOP, as they are
              one layer     one layer     one layer

    cache/squashed/<sha256 of the ids of the run>     a symbolic link to the id of the layer

It is done once, by the first container over such an image, and found again as long as one stands on it. Each run is
made one by itself: a layer holds descriptors while it is read, of which a process may have few, and what is written is
written once.
"""

from __future__ import annotations

import os
from functools import partial

from lamina.overlay.spec import top_first
from lamina.store import layers
from lamina.store.root import make_directory, raise_storage_error
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.store.images import Held
    from lamina.store.leases import Lease
    from lamina.store.root import Store

MOST = 400  # of the 500 layers that overlayfs stacks; the others are for what a container freezes
ON_TOP = 50  # which stay as they are
AT_ONCE = 350  # layers that become one: as many descriptors are held, and a hundred more
_PLACE = b"/squashed"


def shallow(store: Store, held: Held) -> Held:
    """The image *held* with as few layers as a container takes; what is made for it is held as well. Raises
    Unsupported, KernelError.
    """
    found = held.record.layers
    if len(set(found)) <= MOST:
        return held
    from lamina.store.leases import Lease

    held.lease = Lease(store)
    try:
        held.record = replace(held.record, layers=fewer(store, found, held.lease))
    except OSError as error:
        raise_storage_error(error, "squash the layers of image", store.cache)
    return held


def fewer(store: Store, ids: Sequence[str], lease: Lease, *, bottom: bool = True) -> tuple[str, ...]:
    """The layers *ids* (base first), the lower ones made fewer, which *lease* keeps; *bottom*: nothing lies below them.
    Raises Unsupported, KernelError, OSError.
    """
    # what is in an image several times counts where it is topmost
    lower = tuple(reversed(top_first(ids[:-ON_TOP])))
    runs = [lower[start : start + AT_ONCE] for start in range(0, len(lower), AT_ONCE)]
    if len(runs) > 1 and len(runs[-1]) == 1:
        runs[-2:] = [(*runs[-2], *runs[-1])]
    made = [_made(store, run, lease, bottom=bottom and not number) for number, run in enumerate(runs)]
    return (*made, *ids[-ON_TOP:])


def _made(store: Store, run: Sequence[str], lease: Lease, *, bottom: bool) -> str:
    """The layer that reads as *run* does, found or made, and kept by *lease*; *bottom*: nothing lies below it."""
    import hashlib

    from lamina.engine.within import inside, maps_of
    from lamina.linux.procfs import has_trusted_attributes
    from lamina.store.claims import claim
    from lamina.store.squashing import squash

    # what hides something of the layers below is not written where there are none
    digest = hashlib.sha256("\n".join(run if bottom else (*run, "")).encode()).hexdigest()
    link = os.fsdecode(store.cache + _PLACE) + "/" + digest
    with claim(store, f"sha256:{digest}"):
        known = _read(link)
        if known is not None and lease.add_layer(known):
            return known
        maps = maps_of(None)
        made = squash(
            store,
            run,
            lease,
            userxattr=not has_trusted_attributes(),
            bottom=bottom,
            work=None if maps is None else partial(inside, maps),
        )
        make_directory(store.cache + _PLACE, 0o700, exist_ok=True)
        if known is not None:
            os.unlink(link)
        os.symlink(made.id, link)
        return made.id


def _read(link: str) -> str | None:
    try:
        found = os.readlink(link)
    except FileNotFoundError:
        return None
    return found if layers.is_id(found) else None
