"""Volumes: directories that containers share, and that outlive them.

    volumes/<name>/
    ├── _data/          what is mounted
    └── volume.json     labels, when it was made; held, shared, by a start until its container is written down

A volume appears with one rename and goes with one. Who uses it stands in the containers' records (references.py).
"""

from __future__ import annotations

import os
import time
from errno import EEXIST, ENOTEMPTY

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.linux.descriptors import LOCK_EX, LOCK_SH
from lamina.store import lock, names, record
from lamina.store.events import event, note
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point
from lamina.store.tree import remove_tree
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.store.references import ContainerUses
    from lamina.store.root import Store
    from lamina.store.scratch import Remove


@value
class Volume:
    """A volume. `path` is its data (absolute bytes), `created` in nanoseconds since 1970; an `anonymous` one was made
    for one container, which nobody gave a name.
    """

    name: str
    path: bytes
    created: int
    labels: dict[str, str]
    anonymous: bool


def check_name(name: str) -> str:
    """*name*, if a volume may have it: as that of a container. Raises InvalidInput."""
    if not names.is_name(name):
        raise InvalidInput(
            f"volume name {name[:200]!r}: not a valid name",
            remedy=f"letters, digits, '_', '.' and '-', beginning with a letter or digit, at most {names.LONGEST_NAME}",
        )
    return name


def place_of(store: Store, name: str) -> bytes:
    """The directory of a volume, whether it is there or not. Raises InvalidInput."""
    return store.volumes + b"/" + check_name(name).encode()


def data_of(store: Store, name: str) -> bytes:
    """The directory that is mounted, whether it is there or not. Raises InvalidInput."""
    return place_of(store, name) + b"/_data"


def no_such(name: str) -> NotFound:
    """The error for a volume that is not there."""
    return NotFound(f"volume {name}: no such volume", remedy="'lamina volume ls' lists what there is")


def find(store: Store, name: str) -> Volume | None:
    """The volume, None where there is none. Raises InvalidInput, Corrupt, KernelError."""
    place = place_of(store, name)
    try:
        found = record.read_of(place, b"volume.json")
    except Corrupt as error:
        raise _damaged(name, error.message.partition(": ")[2]) from None
    except OSError as error:
        raise_storage_error(error, "read volume", place)
    if found is None:
        return None
    return _volume(place, name, found)


def _volume(place: bytes, name: str, found: dict[str, Any]) -> Volume:
    try:
        labels = {str(key): str(text) for key, text in dict(found["labels"]).items()}
        volume = Volume(
            str(found["name"]), place + b"/_data", int(found["created"]), labels, bool(found["anonymous"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(name, f"its volume.json is damaged: {error}") from None
    if volume.name != name:
        raise _damaged(name, f"its volume.json is that of {volume.name}")
    return volume


def _damaged(name: str, why: str) -> Corrupt:
    return Corrupt(
        f"volume {name}: {why}", remedy="'lamina system check --repair' keeps the data and writes it anew"
    )


def identities(store: Store) -> list[str]:
    """The names of all volumes, sorted."""
    return sorted(name for entry in os.listdir(store.volumes) if names.is_name(name := os.fsdecode(entry)))


def create(
    store: Store, name: str | None = None, labels: dict[str, str] | None = None, *, anonymous: bool = False
) -> Volume:
    """The volume *name* (None: a random one), made if it is not there; one that is there stays as it is, as in docker.

    Raises InvalidInput, Corrupt, KernelError.
    """
    name = names.new_id() if name is None else check_name(name)
    for _ in range(3):
        if (found := find(store, name)) is not None:
            return found
        try:
            _make(store, name, labels or {}, anonymous)
        except OSError as error:
            raise_storage_error(error, "make volume", store.volumes)
    raise Conflict(f"make volume {name}: others remove it again and again")


def _make(store: Store, name: str, labels: dict[str, str], anonymous: bool) -> None:
    from lamina.store.durable import sync_directory
    from lamina.store.scratch import Scratch

    with Scratch(store) as scratch:
        stage = scratch.path + b"/volume"
        point("volume.mkdir")
        make_directory(stage, 0o700)
        make_directory(stage + b"/_data", 0o755)
        write_facts(stage, name, labels, anonymous)
        sync_directory(stage, what="volume")
        point("volume.rename")
        try:
            os.rename(stage, place_of(store, name))
        except OSError as error:
            if error.errno not in (EEXIST, ENOTEMPTY):  # somebody else has just made it
                raise
        else:
            note(store, event("volume", "create", name, driver="local"))
        sync_directory(store.volumes, what="volume")


def write_facts(place: bytes, name: str, labels: dict[str, str], anonymous: bool) -> None:
    """Write volume.json in a directory that nobody else sees, or that has none. Raises OSError."""
    from lamina.store.durable import write_unseen

    facts = {"name": name, "created": time.time_ns(), "labels": labels, "anonymous": anonymous}
    write_unseen(place + b"/volume.json", facts, what="volume")


def hold(
    store: Store,
    name: str,
    *,
    create: bool = False,
    labels: dict[str, str] | None = None,
    anonymous: bool = False,
) -> lock.Lock:
    """Keep the volume from being removed until the lock is released, or its holder ends: for a start, until its
    container is written down. With *create* it is made if it is not there.

    Raises NotFound, InvalidInput, Corrupt, KernelError.
    """
    place = place_of(store, name)
    for _ in range(3):
        try:
            held = lock.take(place + b"/volume.json", LOCK_SH, named=True)
            assert held is not None
            return held
        except FileNotFoundError:
            if not create:
                find(
                    store, name
                )  # says if it is damaged; if it has come this moment, it is as if it came later
                raise no_such(name) from None
        except OSError as error:
            raise_storage_error(error, "hold volume", place)
        _create(store, name, labels, anonymous=anonymous)
    raise Conflict(f"hold volume {name}: others remove it again and again")


_create = create


def hold_alone(store: Store, name: str, *, anonymous: bool = False) -> lock.Lock:
    """As `hold`, and nobody begins to use the volume meanwhile; it is made if it is not there. Who uses it already
    stands in the containers' records. Raises Conflict (a container is being started with it), InvalidInput, Corrupt,
    KernelError.
    """
    place = place_of(store, name)
    create(store, name, anonymous=anonymous)
    try:
        held = lock.take(place + b"/volume.json", LOCK_EX, wait=False, named=True)
    except OSError as error:
        raise_storage_error(error, "hold volume", place)
    if held is None:
        raise Conflict(f"volume {name}: a container is being started with it", remedy="try again")
    return held


def remove(
    store: Store, name: str, *, unless_used: ContainerUses | None = None, remove: Remove = remove_tree
) -> None:
    """Remove the volume and what is in it; gone at once, with *unless_used* only if no container mounts it.

    *remove* removes one tree. Raises NotFound, Conflict (it is used, or about to be), InvalidInput, KernelError.
    """
    from lamina.store.durable import sync_directory
    from lamina.store.scratch import Scratch

    place = place_of(store, name)
    try:
        if not os.path.lexists(place):
            raise no_such(name)
        held = lock.take(place + b"/volume.json", LOCK_EX, wait=False, create=True)
        if held is None:
            raise Conflict(
                f"remove volume {name}: a container is being started with it", remedy="try again in a moment"
            )
        with held, Scratch(store) as scratch:
            if unless_used is not None and (users := unless_used.refresh().of_volume(name)):
                shown = names.some([user.shown for user in users])
                raise Conflict(
                    f"remove volume {name}: in use by {shown}", remedy="remove these containers first"
                )
            point("volume.remove")
            os.rename(place, scratch.path + b"/volume")
            sync_directory(store.volumes, what="volume")
            note(store, event("volume", "destroy", name, driver="local"))
            held.release()
            scratch.remove(remove)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.lexists(place):
            raise no_such(name) from None
        raise_storage_error(error, "remove volume", place)


def prune(
    store: Store,
    containers: ContainerUses,
    *,
    named: bool = False,
    wanted: Callable[[Volume], bool] | None = None,
    remove: Remove = remove_tree,
) -> list[str]:
    """Remove the volumes that no container mounts: those without a name that somebody gave, with *named* all; of these
    those that are *wanted*.

    The names of those removed. Raises KernelError.
    """
    gone = []
    for name in identities(store):
        try:
            found = find(store, name)
            if found is None or not (named or found.anonymous) or containers.of_volume(name):
                continue
            if wanted is not None and not wanted(found):
                continue
            _remove(store, name, unless_used=containers, remove=remove)
            gone.append(name)
        except (NotFound, Conflict, Corrupt):
            continue
    return gone


_remove = remove
