"""Images of very many layers, as a container stands on them: the lowest layers made one, so that the kernel stacks
them, and there is room for what the container freezes.

    cache/squashed/<sha256 of the ids of the run>     a symbolic link to the id of the layer

It is done once, by the first container over such an image, and found again as long as one stands on it.
"""

from __future__ import annotations

import os
from functools import partial

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
        lowest = _made(store, found[:-ON_TOP], held.lease)
    except OSError as error:
        raise_storage_error(error, "squash the layers of image", store.cache)
    held.record = replace(held.record, layers=(lowest, *found[-ON_TOP:]))
    return held


def _made(store: Store, run: Sequence[str], lease: Lease) -> str:
    """The layer that reads as *run* does, found or made, and kept by *lease*."""
    import hashlib

    from lamina.engine.design import usual_ids
    from lamina.engine.within import inside, maps_of
    from lamina.linux.procfs import in_first_user_namespace
    from lamina.store.claims import claim
    from lamina.store.squashing import squash

    digest = hashlib.sha256("\n".join(run).encode()).hexdigest()
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
            userxattr=usual_ids() is not None or not in_first_user_namespace(),
            bottom=True,
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
