"""Images: what an image's id stands for. Names for ids are in tags.py.

    images/
    ├── records/<id>.json     which layers, of which blobs it was made, what a start needs of its config.
    │                         The time of the file is when the image was last used.
    ├── names/<hash>.json     one for each name; the file is called after the sha256 of the name
    ├── pinned/<id>           an empty file: the image is never evicted
    ├── became/<id>           → id, a symbolic link: an image that had another one before it had its digests
    └── removed/              records that were removed or replaced while a start was reading them

A start holds the record it reads, shared, until its container's record is written, and takes no other lock:

    with hold(store, id) as held:
        held.record.layers ...          # stay, whatever is removed meanwhile

Whoever removes or replaces a record does not wait for them: the old file moves to removed/, and the collector keeps
what it refers to as long as somebody holds it. Those who change records and names take turns (the lock on images/).
"""

from __future__ import annotations

import os

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.linux.descriptors import LOCK_EX, LOCK_SH
from lamina.store import lock
from lamina.store import record as records
from lamina.store.digest import check_digest
from lamina.store.names import is_id, some
from lamina.store.root import raise_storage_error
from lamina.store.trace import point
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.store.durable import Batch
    from lamina.store.leases import Lease
    from lamina.store.references import ContainerUses
    from lamina.store.root import Store

_REPAIR = "'lamina system check --repair' takes it away; then pull or build the image again"


@value
class ImageRecord:
    """An image. `id` is the 64 digits of its config's digest, as docker and podman show it.

    An image with `pending` layers has a config of this store alone, which names these by their ids instead of digests;
    once they have digests it has another config, and with that another id (see successors.py).

    config        the digest of the config blob
    layers        ids of its layers, BASE FIRST
    blobs         the digests that are kept for it: manifest, config, compressed layers
    manifest      the digest of the manifest it came with or was pushed as, None if it has none
    indexes       the digests of the indexes by which the manifest was found
    size          bytes of all its layers
    created       nanoseconds since 1970, as the config says; 0 if it does not
    architecture os variant    as the config says
    run           what a start needs of the config: env, entrypoint, cmd, workdir, user, volumes, exposed_ports, labels,
                  stop_signal, healthcheck, shell, onbuild
    pinned        never evicted; see pins.py
    pending       those of `layers` whose digests nobody has needed yet; `size` is without them
    base          the digest of the manifest of the image that it was made from, if that is known: it names the
                  compressed forms of the first layers
    """

    id: str
    config: str
    layers: tuple[str, ...]
    blobs: tuple[str, ...]
    run: dict[str, Any]
    manifest: str | None = None
    indexes: tuple[str, ...] = ()
    size: int = 0
    created: int = 0
    architecture: str = ""
    os: str = ""
    variant: str = ""
    pinned: bool = False
    pending: tuple[str, ...] = ()
    base: str | None = None


def check_id(text: str) -> str:
    """*text*, if it is the id of an image. Raises InvalidInput."""
    if not is_id(text):
        raise InvalidInput(f"image {text[:200]!r}: not the id of an image")
    return text


def place_of(store: Store, identity: str) -> bytes:
    """The path of an image's record, whether it is there or not. Raises InvalidInput."""
    return store.images + b"/records/" + check_id(identity).encode() + b".json"


def no_such(reference: str) -> NotFound:
    """The error for an image that is not there, or not any more."""
    return NotFound(
        f"image {reference}: no such image",
        remedy="'lamina images' lists what there is; 'lamina pull' fetches",
    )


# -- reading


class Held:
    """A record that is held: its layers stay until `release()`, or the end of the `with`, and so does what `lease`
    keeps, if somebody set that.
    """

    __slots__ = ("_lock", "lease", "record")

    def __init__(self, held: lock.Lock, record: ImageRecord) -> None:
        self._lock, self.record = held, record
        self.lease: Lease | None = None

    def touch(self) -> None:
        """The image was used now: for the order of eviction. Takes no lock; never fails."""
        try:
            os.utime(self._lock.fd)
        except OSError:
            pass

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self.lease is not None:
            self.lease.close()
        self._lock.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(store: Store, identity: str) -> Held:
    """The record of an image, and everything it refers to, for as long as it is held. Waits for nobody.

    Raises NotFound, InvalidInput, Corrupt, KernelError.
    """
    held = None
    while held is None:
        path = place_of(store, identity)
        try:
            held = lock.take(path, LOCK_SH)
        except FileNotFoundError:
            from lamina.store.successors import successor

            if (now := successor(store, identity)) is None:
                raise no_such(identity[:12]) from None
            identity = now
        except OSError as error:
            raise_storage_error(error, "read image", path)
    try:
        data = records.content(held.fd, path)
        return Held(held, _record(store, identity, records.decode_light(data, os.fsdecode(path))))
    except BaseException:
        held.release()
        raise


def get(store: Store, identity: str) -> ImageRecord | None:
    """The record of an image, None where there is none; that of the id it has now, if *identity* is what it had before
    it had its digests. Raises InvalidInput, Corrupt, KernelError.
    """
    now: str | None = identity
    while now is not None:
        identity, path = now, place_of(store, now)
        try:
            found = records.read_light(*os.path.split(path))
        except OSError as error:
            raise_storage_error(error, "read image", path)
        if found is not None:
            return _record(store, identity, found)
        from lamina.store.successors import successor

        now = successor(store, identity)
    return None


def _record(store: Store, identity: str, found: dict[str, Any]) -> ImageRecord:
    record = decode(found, identity)
    return replace(record, pinned=True) if is_pinned(store, identity) else record


def is_pinned(store: Store, identity: str) -> bool:
    """Whether the image is pinned (pins.py): one lstat(2)."""
    return os.path.lexists(store.images + b"/pinned/" + check_id(identity).encode())


def decode(found: dict[str, Any], identity: str) -> ImageRecord:
    """The record of the image *identity* from its JSON. Raises Corrupt."""
    from lamina.store.layers import check_id as check_layer

    try:
        record = ImageRecord(
            id=check_id(found["id"]),
            config=check_digest(found["config"]),
            layers=tuple([check_layer(layer) for layer in found["layers"]]),
            blobs=tuple([check_digest(blob) for blob in found["blobs"]]),
            run=dict(found["run"]),
            manifest=None if found["manifest"] is None else check_digest(found["manifest"]),
            indexes=tuple([check_digest(index) for index in found["indexes"]]),
            size=int(found["size"]),
            created=int(found["created"]),
            architecture=str(found["architecture"]),
            os=str(found["os"]),
            variant=str(found["variant"]),
            pending=tuple([check_layer(layer) for layer in found.get("pending") or ()]),
            base=None if found.get("base") is None else check_digest(found["base"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"image {identity[:12]}: its record is damaged: {error}", remedy=_REPAIR) from None
    if record.id != identity:
        raise Corrupt(f"image {identity[:12]}: its record is that of {record.id[:12]}", remedy=_REPAIR)
    return record


def identities(store: Store) -> list[str]:
    """The ids of all images, in no order."""
    found = [os.fsdecode(entry) for entry in os.listdir(store.images + b"/records")]
    return [name[:-5] for name in found if name.endswith(".json") and is_id(name[:-5])]


def last_used(store: Store, identity: str) -> int:
    """When the image was last used, in nanoseconds since 1970; 0 if it is gone."""
    try:
        return os.stat(place_of(store, identity)).st_mtime_ns
    except FileNotFoundError:
        return 0


def touch(store: Store, identity: str) -> None:
    """The image was used now. Takes no lock; one that is gone is none."""
    try:
        os.utime(place_of(store, identity))
    except OSError:
        pass


# -- changing


def put(
    store: Store,
    record: ImageRecord,
    names: Iterable[str] = (),
    *,
    lease: Lease,
    digests: Iterable[str] = (),
    batch: Batch | None = None,
) -> ImageRecord:
    """Keep *record*, and let *names* (canonical) stand for it. What is kept now: an image that was there already keeps
    its blobs as well. *digests* are those under which the names' registry knows it. *batch* needs what the record does,
    and is published.

    Everything it refers to must be there; *lease* keeps it meanwhile. Raises NotFound, InvalidInput, KernelError.
    """
    from lamina.store.durable import Batch

    try:
        with turn(store):
            batch = batch or Batch()
            try:
                record = add(store, record, names, lease=lease, digests=digests, batch=batch)
                batch.publish()
            finally:
                batch.close()
    except OSError as error:
        raise_storage_error(error, "keep image", place_of(store, record.id))
    return record


def add(
    store: Store,
    record: ImageRecord,
    names: Iterable[str] = (),
    *,
    lease: Lease,
    digests: Iterable[str] = (),
    batch: Batch,
) -> ImageRecord:
    """As `put`, for the holder of the turn, who publishes *batch* with what else belongs to it, and closes it. Raises
    OSError as well.
    """
    from lamina.store import tags

    names = [tags.check_name(name) for name in names]
    digests = [check_digest(digest) for digest in digests]
    lease_all(record, lease)
    record = write(store, record, batch)
    for name in names:
        tags.write(store, name, record.id, digests, batch)
    return record


def lease_all(record: ImageRecord, lease: Lease) -> None:
    """Have *lease* keep all that *record* refers to. Raises NotFound where something is not there, KernelError."""
    missing = lease.add_all(record.layers, record.blobs)
    if missing is not None:
        kind, what = missing
        raise NotFound(
            f"keep image {record.id[:12]}: its {kind} {what[:12] if kind == 'layer' else what} is not in this store"
        )


def write(store: Store, record: ImageRecord, batch: Batch | None = None) -> ImageRecord:
    """As `put` without names, for the holder of the turn, whose lease keeps everything; it is there when *batch*, if
    that is given, is published. Raises OSError.
    """
    old = _old(store, record.id)
    record = record if old is None else _merged(store, record, old)
    if record == old:
        touch(store, record.id)
    else:
        _replace(store, place_of(store, record.id), encoded(record), batch)
    if record.pinned:
        from lamina.store.pins import pin_it

        pin_it(store, record.id)
    return record


def _old(store: Store, identity: str) -> ImageRecord | None:
    try:
        found = get(store, identity)
    except Corrupt:
        return None
    return found if found is not None and found.id == identity else None


def _merged(store: Store, record: ImageRecord, old: ImageRecord) -> ImageRecord:
    """*record* with what an older one of the same image knows besides."""
    from lamina.store.blobs import has

    pinned = record.pinned or old.pinned
    if old.layers != record.layers:  # frozen uppers got their digests: both are right, the newer one counts
        return replace(record, pinned=pinned)
    kept = [blob for blob in old.blobs if blob in record.blobs or has(store, blob)]
    return replace(
        record,
        blobs=tuple(dict.fromkeys((*kept, *record.blobs))),
        indexes=tuple(dict.fromkeys((*old.indexes, *record.indexes))),
        manifest=record.manifest or old.manifest,
        pinned=pinned,
    )


def forget_blobs(store: Store, identity: str) -> None:
    """Take the blobs that are missing out of the image's record: it runs without, and cannot be pushed.

    Raises NotFound, Corrupt, KernelError.
    """
    from lamina.store.blobs import has

    place = place_of(store, identity)
    try:
        with turn(store):
            record = get(store, identity)
            if record is None:
                raise no_such(identity[:12])
            left = tuple([blob for blob in record.blobs if has(store, blob)])
            manifest = record.manifest if record.manifest in left else None
            indexes = tuple([blob for blob in record.indexes if blob in left])
            mended = replace(record, blobs=left, manifest=manifest, indexes=indexes)
            _replace(store, place_of(store, record.id), encoded(mended))
    except OSError as error:
        raise_storage_error(error, "mend image", place)


def encoded(record: ImageRecord) -> dict[str, Any]:
    """The content of its file."""
    content = dict(vars(record))
    del content["pinned"]
    return content


def _replace(store: Store, place: bytes, content: dict[str, Any], batch: Batch | None = None) -> None:
    from lamina.store.durable import Batch as Own

    own = batch or Own()
    directory, name = os.path.split(place)
    old = _removed(store, name)
    try:
        need_referred(store, content["blobs"], own)
        own.write(directory, name, content, what="image")
        own.then(lambda: forget(old))
        try:
            point("image.keep-old")
            os.link(place, old)
        except FileNotFoundError:
            pass
        if batch is None:
            own.publish()
    finally:
        if batch is None:
            own.close()


def need_referred(store: Store, blobs: Iterable[str], batch: Batch) -> None:
    """What a record refers to may have been made by others, who wait for its names still: *batch* needs these."""
    algorithms = {blob.partition(":")[0].encode() for blob in blobs}
    for names in (store.layers, *(b"%s/%s" % (store.blobs, one) for one in sorted(algorithms))):
        batch.needs(names, what="image")


def forget(old: bytes) -> None:
    """Remove a record that was moved away, if no start reads it; else it is the collector who does so later.

    A start that has opened it and not locked it yet finds that it is gone, and looks for another (lock.take).
    """
    try:
        held = lock.take(old, LOCK_EX, wait=False)
        if held is not None:
            with held:
                point("image.forget")
                os.unlink(old)
    except OSError:  # there was none, or it stays for the collector
        pass


def _removed(store: Store, name: bytes) -> bytes:
    return store.images + b"/removed/%s.%s" % (name, os.urandom(8).hex().encode())


def remove(store: Store, identity: str, *, unless_used: ContainerUses | None = None) -> list[str]:
    """Remove the image's record, and all names that stand for it, which are returned. Its layers and blobs stay until
    they are collected. Waits for nobody.

    With *unless_used*, which is asked once more, it is removed only if no container is over it or about to be.
    Raises NotFound, Conflict (it is used), InvalidInput, KernelError.
    """
    from lamina.store import tags
    from lamina.store.successors import current

    guard = None
    try:
        with turn(store):
            identity = current(store, identity)
            if unless_used is not None:
                guard = _not_used(place_of(store, identity), identity, unless_used)
            gone = [found.name for found in tags.list_names(store) if found.id == identity]
            for name in gone:
                tags.unlink(store, name)
            old = retire(store, identity)
        if guard is not None:
            guard.release()
        forget(old)
        return gone
    except OSError as error:
        raise_storage_error(error, "remove image", place_of(store, identity))
    finally:
        if guard is not None:
            guard.release()


def retire(store: Store, identity: str) -> bytes:
    """Move the image's record to removed/, for the holder of the turn, who has seen to its names; where it is now.

    Raises OSError.
    """
    from lamina.store.durable import sync_directory
    from lamina.store.pins import unpin_it

    place = place_of(store, identity)
    point("image.remove")
    old = _removed(store, os.path.basename(place))
    os.rename(place, old)
    unpin_it(store, identity)
    sync_directory(store.images + b"/records", what="image")
    return old


def _not_used(place: bytes, identity: str, containers: ContainerUses) -> lock.Lock:
    """The record, locked against starts that would begin now."""
    held = lock.take(place, LOCK_EX, wait=False)
    if held is None:
        raise Conflict(
            f"remove image {identity[:12]}: a container is being started from it",
            remedy="try again in a moment",
        )
    if users := containers.refresh().of_image(identity):
        held.release()
        shown = some([user.shown for user in users])
        raise Conflict(
            f"remove image {identity[:12]}: it is used by {len(users)} container{'s' * (len(users) > 1)} ({shown})",
            remedy="remove these first, or force it",
        )
    return held


def turn(store: Store) -> lock.Lock:
    """The turn to change records, names and pins: held for a few system calls."""
    return lock.turn(store.images, LOCK_EX)
