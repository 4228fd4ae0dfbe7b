"""Pins: an image that has one is never evicted, nor removed with what is unused.

    images/pinned/<id>       an empty file

Whether an image has one is read with its record, by `images`: that takes one lstat(2) of each start.
"""

from __future__ import annotations

import os

from lamina.store import images
from lamina.store.durable import sync_directory
from lamina.store.names import is_id
from lamina.store.root import raise_storage_error
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.root import Store


def pin(store: Store, identity: str, pinned: bool = True) -> None:
    """Never evict the image, nor remove it with what is unused; or do so again. Raises NotFound, KernelError."""
    from lamina.store.successors import current

    place = images.place_of(store, identity)
    try:
        with images.turn(store):
            (pin_it if pinned else unpin_it)(store, current(store, identity))
            sync_directory(store.images + b"/pinned", what="pin")
    except OSError as error:
        raise_storage_error(error, f"pin image {identity[:12]}", place)


def pin_it(store: Store, identity: str) -> None:
    """As `pin`, for the holder of the turn. Raises OSError."""
    point("pin.create")
    path = store.images + b"/pinned/" + identity.encode()
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def unpin_it(store: Store, identity: str) -> None:
    """The opposite; of one that has no pin nothing. Raises OSError."""
    point("pin.unlink")
    try:
        os.unlink(store.images + b"/pinned/" + identity.encode())
    except FileNotFoundError:
        pass


def sweep(store: Store) -> None:
    """Remove the pins of images that are gone. For the holder of the turn. Raises OSError."""
    for entry in os.listdir(store.images + b"/pinned"):
        identity = os.fsdecode(entry)
        if not is_id(identity) or not os.path.lexists(images.place_of(store, identity)):
            os.unlink(store.images + b"/pinned/" + entry)
