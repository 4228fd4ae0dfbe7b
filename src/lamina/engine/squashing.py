"""Depth: of the layers that lie on each other in a container's chain so many are made one, time and again, that a mount
of it and a look-up in it cost the same after any number of snapshots (decision 0065).

It is done in the background, by a process of its own, when DEEP layers have come on top since the last time. Nothing
that is mounted changes, and no state that is written down: the record only notes that a run of layers reads as one
other layer does, and whoever freezes the container next takes that instead (`chains.shortened`).

    after_snapshot → a process: the claim → a lease → the layer (store/squashing.py) → the note → the lease ends
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.errors import Conflict, LaminaError
from lamina.store import snapshots
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.claims import Claim
    from lamina.store.containers import Home
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.snapshots import SnapshotRecord

    Record = dict[str, Any]

# A chain is looked at when so many layers have come on top. Measured (decision 0065): with as many layers the first
# look at a name that none of them has takes a few microseconds more, a mount less than a tenth of a millisecond.
DEEP = 16
# where the background does not keep up, whoever made the snapshot does it
DEEPEST = 250
# what a squash may take of the room that is left on the file system: 1/ROOM of it
ROOM = 4
# of so many inodes at most a squash is made in the background: it keeps in memory which step each of them is of
MOST_INODES = 1_000_000
ERROR = b"/squash.error"
NICE = 10  # by how much others come first
SQUASH = "squash"  # the mode of `isolated.py engine` (entry.py)


@value
class Squash:
    """What a squash did at the place `at`: `layers`, base first, read as the layer `id` does; `size` in bytes and
    `inodes` are what it takes.
    """

    at: bytes
    layers: tuple[str, ...]
    id: str
    size: int
    inodes: int


def wanted(asked: Record) -> bool:
    """Whether the chain of the container whose record is *asked* is deep enough to be looked at."""
    return any(_young(entry) >= DEEP for entry in chains.shortened(asked).get("overlays") or ())


def _young(entry: Record) -> int:
    """How many layers have come on top since the chain was squashed last."""
    depth = len(entry.get("frozen") or ())
    return depth - min(int(entry.get("settled") or 0), depth)


def after_snapshot(home: Home) -> None:
    """Have what is due for the container at *home* squashed, by a process of its own. Nothing is waited for, unless
    that has not kept up for long, and nothing is raised: without it everything is right as well.
    """
    try:
        asked = home.asked()
        if not wanted(asked) or (os.path.lexists(home.path + ERROR) and not _is_time(asked)):
            return
        if any(len(ids) >= DEEPEST for ids in chains.chain_of(chains.shortened(asked)).values()):
            _try(home, wait=True)
            return
        held = _claim(home)
        if held is None:
            return  # it is being done
        held.release()
        start(home)
    except (LaminaError, OSError):
        pass


def _is_time(asked: Record) -> bool:
    """Whether it is worth another try, where it failed before."""
    return any(_young(entry) % DEEP == 0 for entry in chains.shortened(asked).get("overlays") or ())


def start(home: Home) -> None:
    """A process that squashes what is due, and ends. Raises OSError, KernelError."""
    from lamina.engine.detaching import is_small, leave, spawn_in_background

    if is_small():
        if leave():
            try:
                os.nice(NICE)
                in_background(home.store, home.id)
            finally:
                os._exit(0)
    else:
        spawn_in_background(home.store, home.id, SQUASH)


def in_background(store: Store, identity: str) -> None:
    """What that process does. Raises nothing: nobody listens; what went wrong is put beside the container's record."""
    from lamina.store.containers import Home

    _try(Home(store, identity))


def _try(home: Home, *, wait: bool = False) -> None:
    """Squash what is due; where that cannot be, it is noted, and not tried again at once."""
    try:
        if not squash_due(home, wait=wait) and wanted(home.asked()) and (held := _claim(home)) is not None:
            held.release()  # or somebody does it just now
            raise LaminaError(
                f"squash container {home.shown}: too many files, or too little room on the disk"
            )
        if os.path.lexists(home.path + ERROR):
            os.unlink(home.path + ERROR)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as failure:
        _confess(home, failure)


def _confess(home: Home, failure: BaseException) -> None:
    import traceback

    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if home.exists():
            with open(os.open(home.path + ERROR, flags, 0o600), "wb") as file:
                file.write("".join(traceback.format_exception(failure)).encode(errors="replace"))
    except OSError:
        pass


def last_failure(home: Home) -> str:
    """Why the last squash in the background came to nothing, in a line; "" where it did not. Raises OSError."""
    try:
        with open(os.open(home.path + ERROR, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            lines = file.read(1 << 16).decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return lines[-1] if lines else ""


def _claim(home: Home) -> Claim | None:
    """Of several who would squash its chain one does. A key of its own: commit claims by the container's id."""
    from lamina.store.claims import try_claim

    return try_claim(home.store, _key(home))


def _key(home: Home) -> str:
    return "x" + home.id[1:]


def squash_due(home: Home, *, wait: bool = False) -> list[Squash]:
    """Squash what is due at every place of the container at *home*, until nothing is. Nothing is done where somebody
    does it, unless with *wait*. Raises LaminaError, OSError.
    """
    from lamina.store.claims import claim

    held = claim(home.store, _key(home)) if wait else _claim(home)
    if held is None:
        return []
    done: list[Squash] = []
    with held:
        while wanted(asked := home.asked()):
            found = [
                made for entry in chains.shortened(asked)["overlays"] if (made := _due(home, asked, entry))
            ]
            done += found
            if not found:
                break
    return done


def _due(home: Home, asked: Record, entry: Record) -> Squash | None:
    from lamina.engine.layer_sizes import count as size_of
    from lamina.store.leases import lease
    from lamina.store.squashing import cost, due

    young = _young(entry)
    if young < DEEP:
        return None
    ids = list(entry["frozen"])
    with lease(home.store) as held:
        for identity in ids:
            held.add_layer(identity)
        sizes = [size_of(home, identity) for identity in ids]
        count = max(due([cost(size, inodes) for size, inodes in sizes]), young)
        while sum(inodes for _, inodes in sizes[-count:]) > MOST_INODES and count > 1:
            count -= 1
        if count < 2 or not _has_room(home.store, sum(size for size, _ in sizes[-count:])):
            return None
        return squash_run(home, asked, os.fsencode(entry["at"]), ids[-count:], held)


def _has_room(store: Store, size: int) -> bool:
    found = os.statvfs(store.path)
    return size * ROOM <= found.f_bavail * found.f_frsize


def squash_run(home: Home, asked: Record, at: bytes, run: list[str], held: Lease) -> Squash:
    """Make one layer of *run* (base first), which is part of the chain at the place *at*, and note that it reads the
    same. Raises LaminaError.
    """
    made = squashed(home.store, asked, at, run, held)
    # whoever freezes meanwhile has read already how it is going to be mounted
    with snapshots.turn(home):
        home.change_asked(lambda asked: chains.with_squashed(asked, at, run, made.id))
    return Squash(at, tuple(run), made.id, made.size, made.inodes)


def squashed(store: Store, asked: Record, at: bytes, run: list[str], held: Lease) -> Layer:
    """The layers *run* of a container whose record is *asked*, as one new layer that *held* keeps. Raises
    LaminaError.
    """
    from functools import partial

    from lamina.engine.within import inside, maps_of
    from lamina.store import squashing

    entry = next(one for one in asked["overlays"] if os.fsencode(one["at"]) == at)
    maps = maps_of(asked)
    work = None if maps is None else partial(inside, maps)
    return squashing.squash(store, run, held, userxattr=bool(entry["userxattr"]), work=work)


# -- when somebody asks for it


def squash_container(home: Home, since: SnapshotRecord | None = None) -> list[Squash]:
    """See `BranchVerbs.squash`."""
    from lamina.engine.freezing import change
    from lamina.engine.state_turn import StateTurn
    from lamina.store.claims import claim
    from lamina.store.leases import lease

    done: list[Squash] = []
    with claim(home.store, _key(home)), lease(home.store) as held:
        asked = home.asked()
        for entry in chains.shortened(asked).get("overlays") or ():
            at = os.fsencode(entry["at"])
            run = _above(home, at, tuple(entry.get("frozen") or ()), since)
            if len(run) > 1:
                done.append(squash_run(home, asked, at, list(run), held))
        with StateTurn(home, SQUASH) as turn:
            if not turn.living:  # what is mounted stays as it is until it is frozen next
                change(home, turn.asked, chains.shortened)
    return done


def _above(home: Home, at: bytes, ids: tuple[str, ...], since: SnapshotRecord | None) -> tuple[str, ...]:
    """The layers of a chain that came after the state *since*. Raises Conflict where one is from both before and
    after.
    """
    if since is None:
        return ids
    below = since.chain.get(at, ())
    if ids[: len(below)] == below:
        return ids[len(below) :]
    wanted = expanded(home.store, below)
    found: tuple[str, ...] = ()
    for count, identity in enumerate(ids):
        if found == wanted:
            return ids[count:]
        found = (*found, *expanded(home.store, (identity,)))
    if found == wanted:
        return ()
    raise Conflict(
        f"squash container {home.shown}: what it wrote before and after the snapshot {since.shown} is in one layer "
        "already, or it does not come from there",
        remedy="squash all of it, or name a later snapshot",
    )


def expanded(store: Store, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The layers of a chain with each that was squashed taken apart again, as far as it says."""
    from lamina.store import layers
    from lamina.store.squashing import made_of

    found: list[str] = []
    for identity in ids:
        layer = layers.find(store, identity)
        inner = () if layer is None else made_of(layer)
        found += expanded(store, inner) if inner else [identity]
    return tuple(found)


def squash_snapshot(home: Home, identity: str) -> list[Squash]:
    """Make one layer of what the snapshot with that id consists of above the image; it refers to that layer alone then,
    at each place. Raises NotFound, LaminaError.
    """
    from lamina.store.leases import lease

    done: list[Squash] = []
    with lease(home.store) as held:
        kept = snapshots.find(home, identity)
        asked = home.asked()
        places = []
        for place in kept.places:
            if len(place.layers) > 1:
                made = squashed(home.store, asked, place.at, list(place.layers), held)
                done.append(Squash(place.at, place.layers, made.id, made.size, made.inodes))
                place = replace(place, layers=(made.id,), new=None if place.new is None else made.id)
            places.append(place)
        if done:
            with snapshots.turn(home):
                now = snapshots.get(home, kept.id)
                if now is None:
                    raise snapshots.no_such(home, kept.id[:12])
                if now.places != kept.places:  # somebody else did it, and this one is garbage
                    return []
                # its parent may have been removed meanwhile, and forgotten
                snapshots.put(home, replace(now, places=tuple(places)), sync=not kept.volatile)
    return done
