"""An image whose layers got their digests has another config, and with that another id. What it was is not forgotten.

    images/became/<old id> → <new id>        a symbolic link

Whoever holds the old id, a container, a script, somebody's terminal, still finds the image by it: `images.get` and
`hold` follow the link where there is no record. One image takes the place of the other in this order, in one turn:

    the new record → the link → names and pin → the old record goes

Both are whole as long as both are there. Killed after the link, what is left is done by the collector (`sweep`), or by
the next one who makes the digests.
"""

from __future__ import annotations

import os

from lamina.store import images, pins
from lamina.store.names import is_id
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.images import ImageRecord
    from lamina.store.leases import Lease
    from lamina.store.root import Store


def successor(store: Store, identity: str) -> str | None:
    """The id of the image that *identity* became, None if there is no such image (any more). Raises InvalidInput."""
    try:
        now = os.fsdecode(os.readlink(_link_of(store, identity)))
    except OSError:  # as for nearly all images
        return None
    return now if is_id(now) and os.path.lexists(images.place_of(store, now)) else None


def now_called(store: Store, identity: str) -> str:
    """The id that the image has now which *identity* is, or was, the id of; for whoever only shows or compares it, also
    of one that is gone, or "" for none.
    """
    return (successor(store, identity) or identity) if is_id(identity) else identity


def current(store: Store, identity: str) -> str:
    """*identity*, or the id of what that became. For the holder of the turn, if it shall stay so. Raises NotFound."""
    if os.path.lexists(images.place_of(store, identity)):
        return identity
    now = successor(store, identity)
    if now is None:
        raise images.no_such(identity[:12])
    return now


def every(store: Store) -> dict[str, str]:
    """Which image became which, also where one of them is gone. Raises OSError."""
    directory = store.images + b"/became"
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return {}
    found = {}
    for entry in entries:
        try:
            now = os.fsdecode(os.readlink(directory + b"/" + entry))
        except OSError:
            continue
        if is_id(now) and is_id(os.fsdecode(entry)):
            found[os.fsdecode(entry)] = now
    return found


def predecessors(store: Store, identity: str) -> set[str]:
    """The ids that the image had before. Raises OSError."""
    return {old for old, now in every(store).items() if now == identity}


def known(store: Store) -> list[str]:
    """The ids of all images, those that they had before among them. Raises OSError."""
    there = images.identities(store)
    old = {before for before, now in every(store).items() if now in set(there)}
    return [*there, *(old - set(there))]


def succeed(store: Store, old: str, record: ImageRecord, *, lease: Lease) -> ImageRecord:
    """Keep *record*, and let it stand for all that the image *old* stood for; what is kept now.

    Everything that *record* refers to must be there; *lease* keeps it meanwhile. Raises NotFound where *old* was
    removed meanwhile, KernelError.
    """
    images.lease_all(record, lease)
    moved = None
    try:
        with images.turn(store):
            if (now := current(store, old)) != old:  # somebody else did it
                return images.get(store, now) or record
            record = images.write(store, record)
            _link(store, old, record.id)
            moved = _move(store, old, record.id)
    except OSError as error:
        raise_storage_error(error, "keep image", images.place_of(store, record.id))
    images.forget(moved)
    return record


def _link_of(store: Store, identity: str) -> bytes:
    return store.images + b"/became/" + images.check_id(identity).encode()


def _link(store: Store, old: str, now: str) -> None:
    from lamina.store.durable import sync_directory

    directory = store.images + b"/became"
    if not os.path.lexists(directory):
        make_directory(directory, 0o700, exist_ok=True)
        sync_directory(store.images, what="became")
    point("became.symlink")
    place = directory + b"/" + old.encode()
    try:
        os.symlink(now, place)
    except FileExistsError:  # of an attempt that was killed, with other layers since
        os.unlink(place)
        os.symlink(now, place)
    sync_directory(directory, what="became")


def _move(store: Store, old: str, now: str) -> bytes:
    """Names and pin go to the image *now*; where the old record is now. For the holder of the turn. Raises OSError."""
    from lamina.store import tags

    for name in list(tags.list_names(store)):
        if name.id == old:
            tags.write(store, name.name, now, name.digests)
    if images.is_pinned(store, old):
        pins.pin_it(store, now)
    used = os.stat(images.place_of(store, old))
    os.utime(images.place_of(store, now), ns=(used.st_atime_ns, used.st_mtime_ns))
    return images.retire(store, old)


def sweep(store: Store) -> None:
    """Finish what those left who were killed; forget what became of images that are gone. For the holder of the turn.

    Raises OSError.
    """
    for old, now in every(store).items():
        if not os.path.lexists(images.place_of(store, now)):
            point("became.unlink")
            os.unlink(_link_of(store, old))
        elif os.path.lexists(images.place_of(store, old)):
            images.forget(_move(store, old, now))


def unfinished(store: Store) -> list[str]:
    """The ids of what `sweep` has something to do about. Raises OSError."""
    return [
        old
        for old, now in sorted(every(store).items())
        if not os.path.lexists(images.place_of(store, now)) or os.path.lexists(images.place_of(store, old))
    ]
