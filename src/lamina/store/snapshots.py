"""Snapshots: states of one container that it can be put back into, as records in its directory.

    containers/<id>/snapshots/
    ├── <snapshot id>.json    which layers the state consists of, what it came from, when, and by which command
    ├── names/<name>          a symbolic link to the id; a name whose record is gone is free
    ├── gone/<snapshot id>    a symbolic link to the parent of one that was removed, "-" where it had none: what came
    │                         from it comes from there, and nobody has to be told
    └── forking               held, shared, by who makes forks, until these say which state they came from

A state is layers, and nothing else: its record refers to them, so they stay as long as it does. Snapshots are the
history of their container and go with it; a fork or an image refers to the layers by itself.

Whoever changes the layers that a container stands on, or its snapshots, or makes something that refers to the same
layers, has the turn: a lock on the directory. Lock order: the container's lock first, the turn second, and the locks
for single steps (`Home.change_asked`, a lease) last.
"""

from __future__ import annotations

import os

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.store import durable, layers, lock, names, record
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from lamina.store.containers import Home
    from lamina.store.root import Store

DIRECTORY, NAMES, GONE, FORKING = b"/snapshots", b"/names", b"/gone", b"/forking"
_NOBODY = "-"
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "container", "name", "parent", "message", "image", "image_id"), str),
    **dict.fromkeys(("command", "base_layers", "places", "volumes"), list),
    "config": dict,
    "created": int,
}
_NEEDED = ("id", "container", "created", "places")


@value
class PlaceState:
    """What a state consists of at one place of the container: `layers` are ids, BASE FIRST, above the image's own (at
    `/`) or the host's; `new` is the one that this state froze, None where nothing had been written since the parent.
    """

    at: bytes
    layers: tuple[str, ...]
    new: str | None = None


@value
class VolumeState:
    """What was in the volume `name`, mounted at `target`, when the state was made: a copy, kept as a layer."""

    name: str
    target: str
    layer: str


@value
class SnapshotRecord:
    """A state of the container `container` (ids are 64 hexadecimal digits).

    name          unique in its container, "" without one
    parent        the id of the state that it came from, None of the first
    created       nanoseconds since 1970
    message       what whoever made it said of it
    command       what was executed since the parent, as far as that is known
    places        where it consists of what, parents first
    base_layers   the image's own layers, BASE FIRST; () over the host
    image         what it was made from, as it was asked for
    image_id      the id of that image, "" over the host
    config        what that image says of itself, as in the container's record
    volatile      what it froze may not have reached the disk (`--durability none`)
    volumes       the volumes that are part of it; () where that was not asked for
    """

    id: str
    container: str
    created: int
    places: tuple[PlaceState, ...]
    name: str = ""
    parent: str | None = None
    message: str = ""
    command: tuple[str, ...] = ()
    base_layers: tuple[str, ...] = ()
    image: str = ""
    image_id: str = ""
    config: dict[str, Any] | None = None
    volatile: bool = False
    volumes: tuple[VolumeState, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """What it consists of: the image's own layers and those above."""
        return (*self.base_layers, *(one for place in self.places for one in place.layers))

    @property
    def referred(self) -> tuple[str, ...]:
        """Everything that it refers to: its layers, and what was in its volumes."""
        return (*self.layers, *(one.layer for one in self.volumes))

    @property
    def chain(self) -> dict[bytes, tuple[str, ...]]:
        """The layers of each place, as `engine.chains` takes them."""
        return {place.at: place.layers for place in self.places}

    @property
    def new(self) -> tuple[str, ...]:
        """The layers that this state froze."""
        return tuple(place.new for place in self.places if place.new is not None)

    @property
    def shown(self) -> str:
        """As people know it."""
        return self.name or self.id[:12]


def referred_to(asked: dict[str, Any]) -> list[str]:
    """Every layer that the record *asked* of a container refers to: `layers`, those of what is under way with its
    states, and those that can take the place of others (engine/chains.py). Raises TypeError, AttributeError, KeyError
    for a damaged one.
    """
    found = list(asked.get("layers") or ())
    found += (asked.get("freezing") or {}).get("places", {}).values()
    found += [one for ids in (asked.get("rewinding") or {}).get("places", {}).values() for one in ids]
    found += [note["as"] for note in asked.get("squashed") or ()]
    return list(dict.fromkeys(found))


def directory_of(home: Home) -> bytes:
    """Where the snapshots of the container at *home* are, whether there are any or not."""
    return home.path + DIRECTORY


def turn(home: Home) -> lock.Lock:
    """Wait for the turn, see the module; released at the end of a `with`. Raises NotFound, KernelError."""
    from lamina.store.containers import no_such

    directory = directory_of(home)
    while True:
        try:
            return lock.turn(directory, lock.LOCK_EX)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise_storage_error(error, "wait for the turn of container", home.path)
        try:
            make_directory(directory, 0o700, exist_ok=True)
        except FileNotFoundError:
            raise no_such(home.short_id) from None
        except OSError as error:
            raise_storage_error(error, "make snapshots of container", home.path)


def forking(home: Home) -> lock.Lock:
    """For who makes forks of the container at *home*: of no state it is forgotten meanwhile what it came from. Needs
    the turn for a moment; released when the forks are written down. Raises KernelError.
    """
    held = _forking(home, lock.LOCK_SH)
    assert held is not None  # who has it alone has the turn
    return held


def nobody_forks(home: Home) -> lock.Lock | None:
    """Held while nobody makes forks of the container at *home*; None where somebody does. Needs the turn as long.

    Raises KernelError.
    """
    return _forking(home, lock.LOCK_EX)


def _forking(home: Home, how: int) -> lock.Lock | None:
    try:
        return lock.take(directory_of(home) + FORKING, how, wait=False, create=True)
    except OSError as error:
        raise_storage_error(error, "fork container", home.path)


def has_any(home: Home) -> bool:
    """Whether anybody ever made a snapshot of it, or began to: for who need not wait for the turn otherwise."""
    return os.path.lexists(directory_of(home))


def identities(home: Home) -> list[str]:
    """The ids of all snapshots, in no order."""
    return ids_in(directory_of(home))


def ids_in(directory: bytes) -> list[str]:
    """As `identities`, of the snapshots in *directory*. Raises OSError."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = (os.fsdecode(entry) for entry in entries if entry.endswith(b".json"))
    return [name[:-5] for name in found if names.is_id(name[:-5])]


def get(home: Home, identity: str) -> SnapshotRecord | None:
    """The snapshot with that whole id, None where there is none. Raises Corrupt, KernelError."""
    try:
        return read(directory_of(home), identity, home.id)
    except OSError as error:
        raise_storage_error(error, "read snapshot", directory_of(home))


def read(directory: bytes, identity: str, container: str) -> SnapshotRecord | None:
    """As `get`, in *directory*. Raises Corrupt, OSError."""
    if not names.is_id(identity):
        return None
    found = record.read_light(directory, identity.encode() + b".json")
    if found is None:
        return None
    kept = decode(found, identity, container)
    parent = there(directory, kept.parent)
    return kept if parent == kept.parent else replace(kept, parent=parent)


def there(directory: bytes, identity: str | None) -> str | None:
    """The snapshot *identity* in *directory*, or what it came from where it was removed; None where all of that is
    gone. Raises OSError.
    """
    while identity is not None and not os.path.lexists(directory + b"/%b.json" % identity.encode()):
        try:
            above = os.readlink(os.fsdecode(directory + GONE) + "/" + identity)
        except FileNotFoundError:
            return None
        identity = above if names.is_id(above) else None
    return identity


def current(home: Home, asked: dict[str, Any]) -> str | None:
    """The state that the container whose record is *asked* stands on: the id of a snapshot that is there, None before
    the first. Raises KernelError.
    """
    found = asked.get("snapshot")
    try:
        return there(directory_of(home), found) if isinstance(found, str) and names.is_id(found) else None
    except OSError as error:
        raise_storage_error(error, "read snapshot", directory_of(home))


def decode(found: dict[str, Any], identity: str, container: str) -> SnapshotRecord:
    """The record *found* of the snapshot *identity* of *container*. Raises Corrupt for anything else."""
    shown = f"snapshot {identity[:12]} of container {container[:12]}"
    record.check(found, _KINDS, _NEEDED, shown)
    if (found["id"], found["container"]) != (identity, container):
        raise Corrupt(f"{shown}: its record is that of {str(found['id'])[:12]}")
    if (parent := found.get("parent")) is not None and not names.is_id(parent):
        raise Corrupt(f"{shown}: its record is damaged: parent {parent[:80]!r}")
    if (name := found.get("name") or "") and not names.is_name(name):
        raise Corrupt(f"{shown}: its record is damaged: name {name[:80]!r}")
    try:
        places = tuple([
            PlaceState(os.fsencode(one["at"]), _ids(one["layers"]), None if one.get("new") is None else str(one["new"]))
            for one in found["places"]
        ])  # fmt: skip
        base = _ids(found.get("base_layers") or ())
        mounted = tuple([
            VolumeState(str(one["name"]), str(one["target"]), layers.check_id(str(one["layer"])))
            for one in found.get("volumes") or ()
        ])  # fmt: skip
    except (KeyError, TypeError, AttributeError, InvalidInput) as error:
        raise Corrupt(f"{shown}: its record is damaged: {error}") from None
    return SnapshotRecord(
        id=identity,
        container=container,
        created=found["created"],
        places=places,
        name=name,
        parent=parent,
        message=found.get("message") or "",
        command=tuple(map(str, found.get("command") or ())),
        base_layers=base,
        image=found.get("image") or "",
        image_id=found.get("image_id") or "",
        config=found.get("config"),
        volatile=bool(found.get("volatile")),
        volumes=mounted,
    )


def _ids(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list | tuple):
        raise TypeError("its layers are no list")
    return tuple([layers.check_id(str(one)) for one in found])


def _encoded(kept: SnapshotRecord) -> dict[str, Any]:
    places = [{"at": one.at, "layers": list(one.layers), "new": one.new} for one in kept.places]
    return {**vars(kept), "places": places, "volumes": [vars(one) for one in kept.volumes]}


def put(home: Home, kept: SnapshotRecord, *, sync: bool = False, batch: durable.Batch | None = None) -> None:
    """Write *kept*, new or changed, and take its name; with *sync* it is on the disk then, with *batch* it is there
    when that is published. Needs the turn.

    Raises Conflict where another snapshot of the container has the name, KernelError.
    """
    directory = directory_of(home)
    own = durable.Batch(sync=sync) if batch is None else batch
    try:
        if kept.name:
            _take_name(home, kept.name, kept.id)
            own.needs(directory + NAMES, what="snapshot")
        own.write(directory, kept.id.encode() + b".json", _encoded(kept), what="snapshot")
        if batch is None:
            own.publish()
    except OSError as error:
        raise_storage_error(error, "write snapshot", directory)


def check_name(home: Home, name: str) -> str:
    """*name*, if a new snapshot of the container may have it. Raises InvalidInput, Conflict."""
    if not names.is_name(name):
        raise InvalidInput(
            f"snapshot name {name[:200]!r}: not a valid name",
            remedy="letters, digits, '_', '.' and '-', beginning with a letter or digit, at most "
            f"{names.LONGEST_NAME}",
        )
    if (owner := _holder(home, name)) is not None:
        raise _taken(home, name, owner)
    return name


def _taken(home: Home, name: str, owner: str) -> Conflict:
    return Conflict(
        f"snapshot {name}: the snapshot {owner[:12]} of container {home.shown} has that name",
        remedy="choose another name, or remove that one ('lamina snapshot rm')",
    )


def _holder(home: Home, name: str) -> str | None:
    """The snapshot that has the checked *name*."""
    try:
        found = os.readlink(os.fsdecode(directory_of(home) + NAMES) + "/" + name)
    except OSError:
        return None
    there = names.is_id(found) and os.path.lexists(directory_of(home) + b"/%b.json" % found.encode())
    return found if there else None


def _take_name(home: Home, name: str, identity: str) -> None:
    if (owner := _holder(home, name)) is not None:
        if owner != identity:
            raise _taken(home, name, owner)
        return
    place = directory_of(home) + NAMES
    make_directory(place, 0o700, exist_ok=True)
    link = os.fsdecode(place) + "/" + name
    point("snapshot.name")
    try:
        os.symlink(identity, link)
    except FileExistsError:  # of one that is gone
        os.unlink(link)
        os.symlink(identity, link)


def find(home: Home, reference: str) -> SnapshotRecord:
    """The snapshot with the id, the name, or the only one whose id begins with *reference*, which is never used as a
    path unchecked. Raises NotFound, InvalidInput when several ids begin so, Corrupt, KernelError.
    """
    identity: str | None = reference if names.is_id(reference) else None
    if identity is None and names.is_name(reference):
        identity = _holder(home, reference)
    if identity is None and names.is_id_prefix(reference):
        identity = names.only_one("snapshot", reference, identities(home))
    kept = None if identity is None else get(home, identity)
    if kept is None:
        raise no_such(home, reference)
    return kept


def no_such(home: Home, reference: str) -> NotFound:
    """The error for a *reference* to a snapshot that is not there, or not any more."""
    return NotFound(
        f"snapshot {reference[:200]}: container {home.shown} has none of that name or id",
        remedy="'lamina snapshot ls CONTAINER' lists what there is",
    )


def all_of(home: Home) -> list[SnapshotRecord]:
    """All snapshots, oldest first. Raises Corrupt for one that is damaged, KernelError."""
    found = [kept for identity in identities(home) if (kept := get(home, identity)) is not None]
    return sorted(found, key=lambda kept: (kept.created, kept.id))


def remove(home: Home, kept: SnapshotRecord, *, sync: bool = False) -> None:
    """Remove the record *kept*, and let go of its name; its layers are garbage unless something else refers to them.
    What came from it comes from its parent. Needs the turn. Raises KernelError.
    """
    directory = directory_of(home)
    try:
        make_directory(directory + GONE, 0o700, exist_ok=True)
        point("snapshot.bequeath")
        try:
            os.symlink(kept.parent or _NOBODY, os.fsdecode(directory + GONE) + "/" + kept.id)
        except FileExistsError:  # somebody began with that, and was killed
            pass
        point("snapshot.unlink")
        try:
            os.unlink(directory + b"/%b.json" % kept.id.encode())
        except FileNotFoundError:
            pass
        if kept.name and _link_of(home, kept.name) == kept.id:
            point("snapshot.unlink-name")
            os.unlink(os.fsdecode(directory + NAMES) + "/" + kept.name)
        if sync:
            durable.sync_directory(directory, what="snapshot")
    except OSError as error:
        raise_storage_error(error, "remove snapshot", directory)


def forget_gone(home: Home, needed: Container[str] = ()) -> None:
    """Have every record name the parent that it has now, and forget what came from where of those that were removed,
    but for the ids *needed*: somebody else's records name these (forks'). Needs the turn, and that the container's
    record names a state that is there. Raises Corrupt, KernelError.
    """
    directory = directory_of(home)
    try:
        entries = os.listdir(directory + GONE)
    except FileNotFoundError:
        return
    gone = {os.fsdecode(entry) for entry in entries}
    try:
        for kept in all_of(home):
            file = kept.id.encode() + b".json"
            if ((record.read_light(directory, file) or {}).get("parent") or "") in gone:
                point("snapshot.adopt")
                record.write(directory, file, _encoded(kept))
        for identity in sorted(gone):
            if identity in needed and (now := there(directory, identity)) is not None:
                _bequeath(directory, identity, now)
        for identity in sorted(gone):
            if identity in needed and there(directory, identity) is not None:
                continue
            point("snapshot.forget")
            os.unlink(os.fsdecode(directory + GONE) + "/" + identity)
    except OSError as error:
        raise_storage_error(error, "remove snapshot", directory)


def _bequeath(directory: bytes, identity: str, parent: str) -> None:
    """What came from the removed *identity* comes from *parent*, whatever was said of that before. Raises OSError."""
    link = os.fsdecode(directory + GONE) + "/" + identity
    if os.readlink(link) == parent:
        return
    point("snapshot.bequeath")
    try:
        os.symlink(parent, link + ".new")
    except FileExistsError:  # of somebody who began with that, and was killed
        os.unlink(link + ".new")
        os.symlink(parent, link + ".new")
    os.rename(link + ".new", link)


def idle_names(home: Home) -> list[str]:
    """Names of snapshots that are gone: left by somebody who was killed. Raises OSError."""
    try:
        entries = os.listdir(directory_of(home) + NAMES)
    except FileNotFoundError:
        return []
    return sorted(name for name in map(os.fsdecode, entries) if _holder(home, name) is None)


def sweep(store: Store) -> None:
    """Forget the names of snapshots that are gone, of containers in whose states nobody is at work. Raises OSError."""
    from lamina.store.containers import Home, identities

    for identity in identities(store):
        home = Home(store, identity)
        if not idle_names(home):
            continue
        try:
            turn = lock.free_turn(directory_of(home))
        except FileNotFoundError:
            continue
        if turn is not None:
            with turn:
                for name in idle_names(home):
                    point("snapshot.sweep")
                    os.unlink(directory_of(home) + NAMES + b"/" + os.fsencode(name))


def _link_of(home: Home, name: str) -> str | None:
    try:
        return os.readlink(os.fsdecode(directory_of(home) + NAMES) + "/" + name)
    except OSError:
        return None
