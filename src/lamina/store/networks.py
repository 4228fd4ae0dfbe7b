"""Networks: what is known of each, and who has which address and which port of this machine.

    networks/
    ├── <name>/
    │   ├── network.json      as `NetworkRecord`
    │   ├── addresses/        one symbolic link an address, to the id of the container that has it; it is called
    │   │                     addresses.away for the moment in which the network gets another subnet
    │   ├── names/            one directory a name, with one symbolic link a container that has it
    │   └── responder.N       held by the process that answers for them on the bridge, which is this host's Nth link
    └── .ports/               one a published port

A network appears with one rename and goes with one. The directory is made by the first of them. Those who make networks
take turns, so that no two get subnets that overlap; those who start containers do not. What is a free subnet is the
caller's to say: what this machine's routes are is nothing that the store knows.
"""

from __future__ import annotations

import os
import time
from errno import EEXIST, ENOTEMPTY

from lamina.errors import Conflict, Corrupt, InvalidInput, NotFound
from lamina.store import lock, names, record
from lamina.store.events import event, note
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.store.root import Store

DEFAULT = "bridge"
# never names of networks: what else `--network` may be
RESERVED = ("none", "host", "default", "container", "ns", "pasta", "slirp4netns", "cni")
PORTS = b"/.ports"
_AWAY = b"/addresses.away"


@value
class NetworkRecord:
    """A network as it is written down. `subnets` are (subnet, gateway, range), as text; `bridge` is its device's name,
    `created` in nanoseconds since 1970. `options` are as they were given (`-o KEY=VALUE`). With a `parent`, a link of
    this host, it is macvlan on that, and has no bridge. `by_itself`: nobody made it, it came when it was first used;
    `drawn`: nobody asked for these subnets.
    """

    name: str
    id: str
    created: int
    bridge: str
    subnets: tuple[tuple[str, str, str], ...]
    internal: bool
    mtu: int
    hidden: bool
    labels: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    parent: str = ""
    by_itself: bool = False
    drawn: bool = False

    @property
    def driver(self) -> str:
        """How it is made."""
        return "macvlan" if self.parent else "bridge"


def check_name(name: str) -> str:
    """*name*, if a network may have it: as that of a container, and none of RESERVED. Raises InvalidInput."""
    if not names.is_name(name) or name in RESERVED:
        raise InvalidInput(
            f"network name {name[:200]!r}: not a valid name",
            remedy="letters, digits, '_', '.' and '-', beginning with a letter or digit, and none of "
            + ", ".join(RESERVED),
        )
    return name


def place_of(store: Store, name: str) -> bytes:
    """The directory of a network, whether it is there or not. Raises InvalidInput."""
    return store.networks + b"/" + check_name(name).encode()


def addresses_of(store: Store, name: str) -> bytes:
    """The directory of its addresses. Raises InvalidInput."""
    return place_of(store, name) + b"/addresses"


def names_of(store: Store, name: str) -> bytes:
    """The directory of the names that its containers have for each other. Raises InvalidInput."""
    return place_of(store, name) + b"/names"


def no_such(name: str) -> NotFound:
    """The error for a network that is not there, or is none but a word of `run --network`."""
    kind = name.partition(":")[0]
    if kind == "none":
        return NotFound(
            "network none: it is no network at all",
            remedy="'lamina network disconnect NETWORK CONTAINER' takes a container out of one",
        )
    if kind in RESERVED and kind != "default":
        return NotFound(
            f"network {name}: it is no network by itself: a container has it from its start on, or never",
            remedy=f"'lamina run --network {name} ...' makes one that has it; 'lamina network ls' lists those that "
            "a container can be connected to",
        )
    return NotFound(f"network {name}: no such network", remedy="'lamina network ls' lists what there is")


def find(store: Store, name: str) -> NetworkRecord | None:
    """The network, None where there is none. Raises InvalidInput, Corrupt, KernelError."""
    place = place_of(store, name)
    try:
        found = record.read_of(place, b"network.json")
    except OSError as error:
        raise_storage_error(error, "read network", place)
    if found is None:
        return None
    try:
        return _of(found, name)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(
            f"network {name}: its network.json is damaged: {error}",
            remedy=f"remove {os.fsdecode(place)}, and make the network anew",
        ) from None


def _of(found: dict[str, Any], name: str) -> NetworkRecord:
    if found["name"] != name:
        raise ValueError(f"it is that of {found['name']}")
    return NetworkRecord(
        name=name,
        id=str(found["id"]),
        created=int(found["created"]),
        bridge=str(found["bridge"]),
        subnets=tuple((str(subnet), str(gateway), str(part)) for subnet, gateway, part in found["subnets"]),
        internal=bool(found["internal"]),
        mtu=int(found["mtu"]),
        hidden=bool(found["hidden"]),
        labels=tuple((str(key), str(text)) for key, text in dict(found["labels"]).items()),
        options=tuple((str(key), str(text)) for key, text in dict(found["options"]).items()),
        parent=str(found.get("parent") or ""),
        by_itself=bool(found.get("by_itself")),
        drawn=bool(found.get("drawn")),
    )


def identities(store: Store) -> list[str]:
    """The names of all networks, sorted."""
    try:
        entries = os.listdir(store.networks)
    except FileNotFoundError:
        return []
    return sorted(name for entry in entries if names.is_name(name := os.fsdecode(entry)))


def every(store: Store) -> list[NetworkRecord]:
    """All networks, by name. One that is damaged, or goes meanwhile, is left out."""
    found = []
    for name in identities(store):
        try:
            one = find(store, name)
        except (Corrupt, InvalidInput):
            continue
        if one is not None:
            found.append(one)
    return found


def create(
    store: Store,
    name: str,
    draw: Callable[[list[NetworkRecord], str], NetworkRecord],
    *,
    exist_ok: bool = False,
) -> NetworkRecord:
    """Make the network *name*. *draw* says, given all networks and an id, what it is to be; nobody else makes one
    meanwhile. With *exist_ok* one that is there is as good.

    Raises Conflict when the name is taken, InvalidInput, KernelError, what *draw* raises.
    """
    place = place_of(store, name)
    try:
        prepare(store)
        with lock.turn(store.networks, lock.LOCK_EX):
            if (found := find(store, name)) is not None:
                if exist_ok:
                    return found
                raise Conflict(
                    f"make network {name}: there is one of that name", remedy="choose another name"
                )
            wanted = draw(every(store), names.new_id())
            _make(store, place, wanted)
            return wanted
    except OSError as error:
        raise_storage_error(error, "make network", store.networks)


def prepare(store: Store) -> None:
    """Make the directory that networks and published ports are in, if it is not there. Raises OSError."""
    for directory in (store.networks, store.networks + PORTS):
        make_directory(directory, 0o700, exist_ok=True)


def _make(store: Store, place: bytes, wanted: NetworkRecord) -> None:
    from lamina.store.durable import sync_directory, write_unseen
    from lamina.store.scratch import Scratch

    facts = _facts(wanted)
    with Scratch(store) as scratch:
        stage = scratch.path + b"/network"
        make_directory(stage, 0o700)
        make_directory(stage + b"/addresses", 0o700)
        make_directory(stage + b"/names", 0o700)
        write_unseen(stage + b"/network.json", facts, what="network")
        sync_directory(stage, what="network")
        point("network.rename")
        try:
            os.rename(stage, place)
        except OSError as error:
            if error.errno in (EEXIST, ENOTEMPTY):
                raise Conflict(
                    f"make network {wanted.name}: {os.fsdecode(place)} is in the way",
                    remedy="remove that directory",
                ) from None
            raise
        note(store, event("network", "create", wanted.id, {"name": wanted.name, "type": wanted.driver}))
    sync_directory(store.networks, what="network")


def change(
    store: Store,
    wanted: NetworkRecord,
    unless_used: Callable[[bytes], list[str]],
    leave: Callable[[], None],
) -> bool:
    """Write down what has become of a network, unless *unless_used*, given the directory of its addresses, tells of
    somebody who uses it; whether that was done. *leave* takes away what there is of it outside of the store. For who
    has the turn of those who make networks.

    Nobody takes an address meanwhile: the directory is called something else (`wait_for_change`). Raises KernelError.
    """
    from lamina.store.durable import write_record

    place = place_of(store, wanted.name)
    try:
        _come_back(place)
        os.rename(place + b"/addresses", place + _AWAY)
        try:
            point("network.change")
            if unless_used(place + _AWAY):
                return False
            leave()
            write_record(place, b"network.json", _facts(wanted), what="network")
            return True
        finally:
            point("network.changed")
            _come_back(place)
    except OSError as error:
        raise_storage_error(error, "change network", place)


def wait_for_change(store: Store, name: str) -> bool:
    """Of a network without addresses: wait until whoever changes it is done, and do for him what he was killed before.
    Whether it is there. Raises OSError.
    """
    with lock.turn(store.networks, lock.LOCK_EX):
        place = place_of(store, name)
        _come_back(place)
        return os.path.lexists(place + b"/addresses")


def _come_back(place: bytes) -> None:
    try:
        os.rename(place + _AWAY, place + b"/addresses")
    except FileNotFoundError:
        pass


def _facts(wanted: NetworkRecord) -> dict[str, Any]:
    return {**vars(wanted), "labels": dict(wanted.labels), "options": dict(wanted.options)}


def remove(
    store: Store, name: str, unless_used: Callable[[bytes], list[str]], undo: Callable[[NetworkRecord], None]
) -> None:
    """Remove the network. *unless_used*, given the directory of its addresses, tells who uses it; *undo* takes away
    what there is of it outside of the store.

    Who takes an address afterwards finds that the directory is gone. Raises NotFound, Conflict, InvalidInput.
    """
    from lamina.store.durable import sync_directory
    from lamina.store.scratch import Scratch

    place = place_of(store, name)
    try:
        if not os.path.lexists(place):
            raise no_such(name)
        with lock.turn(store.networks, lock.LOCK_EX), Scratch(store) as scratch:
            found = find(store, name)
            if found is None:
                raise no_such(name)
            point("network.remove")
            _come_back(place)
            gone = scratch.path + b"/network"
            users = unless_used(place + b"/addresses")
            if not users:
                os.rename(place, gone)
                if users := unless_used(gone + b"/addresses"):  # somebody has just taken one
                    os.rename(gone, place)
            if users:
                raise Conflict(
                    f"remove network {name}: in use by {names.some(users)}",
                    remedy="stop or remove these containers first",
                )
            sync_directory(store.networks, what="network")
            undo(found)
            note(store, event("network", "destroy", found.id, {"name": name, "type": found.driver}))
            scratch.remove()
    except OSError as error:
        raise_storage_error(error, "remove network", place)


def now() -> int:
    """The time of `created`."""
    return time.time_ns()
