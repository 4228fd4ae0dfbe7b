"""What a container wrote becomes layers, in constant time: each upper directory moves into the store, and a new empty
one takes its place.

    a lease on the new layers → the record says what is under way → [runs: its mounts are replaced] → rename
    → the record has the longer chain → the lease ends

Each of these steps is on the disk before the next one begins, unless what the container writes need not be. Of one that
runs everything written has to be synced anyhow: the directories are moved before that, and need no sync of their own.

Whoever is killed in between has left a record that says what was under way, and whoever holds the container next
finishes it (`settle`): one that does not run always shows the same files, whether the last step was done or not.
Something that runs over the old mounts still is only finished where these were replaced.
"""

from __future__ import annotations

import os
from errno import EACCES, ENODATA, ENOTSUP, EPERM

from lamina.engine import chains
from lamina.engine.keeping import said_of
from lamina.engine.layers import is_mark, resemble, stacks_of
from lamina.engine.options import NONE
from lamina.errors import Corrupt, Unsupported
from lamina.overlay.spec import MOST_LAYERS
from lamina.store import layers, record, snapshots
from lamina.store.containers import no_such
from lamina.store.durable import sync_directory
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.stage import write_facts
from lamina.store.trace import point
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from lamina.engine.state_turn import StateTurn
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.leases import Lease

    Record = dict[str, Any]
    Stacks = list[tuple[bytes, MountSpec]]


@value
class Frozen:
    """What came of freezing: `chain` are the layers of each place, BASE FIRST, above the image's own; `made` those that
    are new. Where something kept the mounts of a running container from being replaced, `copied` says that the new
    layers are copies, and the container itself goes on as it was.
    """

    chain: dict[bytes, tuple[str, ...]]
    made: dict[bytes, str]
    copied: bool = False


def freeze(
    turn: StateTurn,
    held: Lease,
    *,
    snapshot: str | None = None,
    origin: dict[str, Any] | None = None,
    consistency: str = "auto",
    noted: Callable[[Frozen], None] | None = None,
) -> Frozen:
    """Freeze what the container of *turn* wrote since it was last frozen; places where nothing was written stay.

    The new layers are kept by *held*, and say where they came from, *origin*. *noted* is called when they are there,
    before the container's record says so: whatever it writes is there first. *snapshot* is the state on which the
    container stands then (None: as before). Raises Conflict (processes, with "refuse"), Unsupported, KernelError.
    """
    home, asked = turn.home, turn.asked
    stacks = stacks_of(asked.get("overlays") or [], home.path)
    try:
        if not turn.living:
            _clear(asked, stacks)
        busy = [(at, spec) for at, spec in stacks if spec.upperdir is not None and not is_idle(spec)]
        made = {at: layers.new_id() for at, _ in busy}
        _check_depth(asked, busy)
        for identity in made.values():
            held.add_layer(identity)
        if turn.living and made:
            before = snapshot or asked.get("snapshot")
            return _living(turn, asked, made, before, origin, consistency, noted)
        if made:
            before = snapshot or asked.get("snapshot")
            asked = change(home, asked, lambda asked: chains.with_freezing(asked, made, before))
            return finish(home, asked, origin=origin, noted=noted)
        frozen = Frozen(chains.chain_of(asked), {})
        if noted is not None:
            noted(frozen)
        if snapshot is not None:
            change(home, asked, lambda asked: {**asked, "snapshot": snapshot})
        return frozen
    except OSError as error:
        if not home.exists():
            raise no_such(home.short_id) from error
        raise_storage_error(error, "freeze container", home.path)


def _clear(asked: Record, stacks: Stacks) -> None:
    """A start leaves empty files and directories in the root's upper, only to mount something on them: a container that
    wrote nothing else has written nothing.
    """
    from lamina.engine.within import maps_of, reach
    from lamina.overlay.mount_points import clear

    made = [os.fsencode(place) for place in asked.get("made") or ()]
    spec = stacks[0][1] if stacks else None
    if made and spec is not None and spec.upperdir is not None and asked.get("image_id"):
        reach(lambda: maps_of(asked), clear, spec, made)


def _living(
    turn: StateTurn,
    asked: Record,
    made: dict[bytes, str],
    snapshot: str | None,
    origin: dict[str, Any] | None,
    consistency: str,
    noted: Callable[[Frozen], None] | None,
) -> Frozen:
    """Something of it runs: what it stands on is replaced under it, or, where that cannot be, copied."""
    from lamina.engine.restacking import restack

    home = turn.home
    before = stacks_of(asked.get("overlays") or [], home.path)
    after = restacked(home, chains.shortened(asked), made)
    asked = change(home, asked, lambda asked: chains.with_freezing(asked, made, snapshot))
    try:
        done = restack(
            home,
            before,
            after,
            consistency=consistency,
            ready=lambda: make_uppers(home, asked, list(made)),
            copy=lambda: _copy(home, asked, made, origin),
            move=lambda: _move_uppers(home, asked, made, origin),
        )
    except BaseException:
        settle(home, living=True)
        raise
    if done.swapped:
        turn.notes += [f"something goes on in the state before: {one}" for one in done.holders]
        return finish(home, asked, origin=origin, noted=noted, synced=done.synced)
    turn.notes += _said(done.holders)
    chain = chains.chain_of(asked)
    frozen = Frozen({at: (*chain[at], made[at]) if at in made else chain[at] for at in chain}, made, True)
    if noted is not None:
        noted(frozen)
    drop(home)
    change(home, asked, lambda asked: {**asked, "snapshot": snapshot})
    return frozen


def _said(holders: Sequence[object]) -> list[str]:
    """Why files were copied: who has them open, as far as a line goes."""
    if not holders:
        return []
    more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
    return [f"the files were copied, because of {', '.join(map(str, holders[:3]))}{more}"]


def restacked(home: Home, asked: Record, made: dict[bytes, str]) -> Stacks:
    """The stacks that replace those of a running container: the uppers at the places of *made*, where they are now,
    are the topmost lower directories, below new ones.
    """
    numbers = chains.numbers_for(asked, made)
    found = []
    for at, spec in stacks_of(asked.get("overlays") or [], home.path):
        if at in numbers and spec.upperdir is not None:
            spec = replace(
                spec,
                lowerdirs=(spec.upperdir, *spec.lowerdirs),
                upperdir=home.path + b"/upper-%d" % numbers[at],
                workdir=home.path + b"/work-%d" % numbers[at],
                volatile=is_volatile(asked),
            )
        found.append((at, spec))
    return found


def is_volatile(asked: Record) -> bool:
    """Whether a crash of the machine may lose what the container whose record is *asked* writes."""
    given = said_of(asked).get("durability") or ""
    return given == NONE if given else bool(asked.get("rm"))


def is_idle(spec: MountSpec) -> bool:
    """Whether nothing was written into the upper of *spec*: it is empty, and its own attributes are those of the
    directory below, but for the times, and for an owner that whoever made it could not give it.
    """
    assert spec.upperdir is not None
    try:
        with os.scandir(spec.upperdir) as entries:
            if next(entries, None) is not None:
                return False
        return is_same_root(spec)
    except PermissionError:
        return False


def is_same_root(spec: MountSpec) -> bool:
    """Whether the upper of *spec* itself has the attributes of the directory below, as far as `is_idle` asks.

    Raises OSError.
    """
    assert spec.upperdir is not None
    try:
        upper, lower = os.stat(spec.upperdir), os.stat(spec.lowerdirs[0])
        if upper.st_mode != lower.st_mode or _shown(spec.upperdir, spec) != _shown(spec.lowerdirs[0], spec):
            return False
    except PermissionError:
        return False
    if (upper.st_uid, upper.st_gid) == (lower.st_uid, lower.st_gid):
        return True
    return os.geteuid() != 0 and (upper.st_uid, upper.st_gid) == (os.geteuid(), os.getegid())


def _shown(directory: bytes, spec: MountSpec) -> dict[str, bytes]:
    """What a mount shows of its attributes."""
    try:
        names = [name for name in os.listxattr(directory) if not is_mark(name, spec.userxattr)]
        return {name: os.getxattr(directory, name) for name in names}
    except OSError as error:
        if error.errno not in (ENOTSUP, EPERM, ENODATA, EACCES):
            raise
        return {}


def _check_depth(asked: Record, busy: Stacks) -> None:
    for at, spec in stacks_of(chains.shortened(asked).get("overlays") or [], b""):
        if at in {place for place, _ in busy} and len(spec.lowerdirs) >= MOST_LAYERS:
            raise Unsupported(
                f"freeze container {asked.get('name')}: {os.fsdecode(at)} consists of {len(spec.lowerdirs)} layers, "
                f"and an overlay takes {MOST_LAYERS}",
                remedy=f"lamina squash {asked.get('name')}",
            )


# -- the steps, each of which can be done once more


def finish(
    home: Home,
    asked: Record,
    *,
    origin: dict[str, Any] | None = None,
    noted: Callable[[Frozen], None] | None = None,
    synced: bool = False,
) -> Frozen:
    """Do what is still to be done of the freezing in the record *asked*; *synced*: the uppers are in their stages, and
    that is on the disk. Raises OSError, KernelError.
    """
    under_way = asked[chains.FREEZING]
    made: dict[bytes, str] = chains.places_of(under_way, str)
    sync = not is_volatile(asked)
    _move_uppers(home, asked, made, origin)
    for identity in made.values():
        _take_place(home, identity, sync=sync and not synced)
    if sync:
        sync_directory(home.store.layers, what="state")
    make_uppers(home, asked, list(made))
    chain = chains.chain_of(chains.shortened(asked))
    frozen = Frozen({at: (*chain[at], made[at]) if at in made else chain[at] for at in chain}, made)
    if noted is not None:
        noted(frozen)
    state = under_way["snapshot"]
    if state is not None and snapshots.there(snapshots.directory_of(home), state) is None:
        # its maker was killed before it was written down: what comes next comes from the one before
        state = asked.get("snapshot")
    asked = change(home, asked, lambda asked: chains.with_frozen(asked, made, state))
    sweep(home, asked)
    return frozen


def _move_uppers(home: Home, asked: Record, made: dict[bytes, str], origin: dict[str, Any] | None) -> None:
    """The uppers at the places of *made* are in the stages of these layers, unless they are layers already."""
    for at, identity in made.items():
        if os.path.lexists(layers.place_of(home.store, identity)):
            continue
        stage = make_stage(home, asked, at, identity, origin)
        if not os.path.lexists(stage + b"/fs"):
            from lamina.engine.within import maps_of, reach

            point("state.rename-upper")
            # whoever moves a directory has to be allowed to write to it: the container's root may have made it
            # read-only
            reach(lambda: maps_of(asked), os.rename, upper_of(home, asked, at), stage + b"/fs")


def _take_place(home: Home, identity: str, *, sync: bool) -> None:
    """What is staged is the layer *identity*, which appears whole; with *sync* its record and the name of its tree are
    on the disk before.
    """
    place, stage = layers.place_of(home.store, identity), stage_of(home, identity)
    if os.path.lexists(place):
        return
    if sync:
        point("state.fsync-stage")
        record.make_durable(stage, b"layer.json")
    point("state.rename-layer")
    os.rename(stage, place)


def stage_of(home: Home, identity: str) -> bytes:
    """Where the layer *identity* is on its way into the store."""
    return home.path + b"/freezing-" + identity.encode()


def make_stage(home: Home, asked: Record, at: bytes, identity: str, origin: dict[str, Any] | None) -> bytes:
    """The stage of the layer *identity*, with everything but its tree; where it is. It need not be on the disk."""
    stage = stage_of(home, identity)
    point("state.mkdir-stage")
    make_directory(stage, 0o700, exist_ok=True)
    extra = {
        "origin": {"container": home.id, "at": os.fsdecode(at), **(origin or {})},
        "made": list(asked.get("made") or ()),
        "volatile": is_volatile(asked),
    }
    if not _is_described(stage):
        write_facts(stage, identity, None, None, None, extra, sync=False)
    return stage


def _is_described(stage: bytes) -> bool:
    """Whether somebody before wrote its layer.json, and came to the end of it."""
    try:
        return record.read_light(stage, b"layer.json") is not None
    except Corrupt:
        return False


def upper_of(home: Home, asked: Record, at: bytes) -> bytes:
    """The upper at the place *at*. Raises Corrupt."""
    for place, spec in stacks_of(asked.get("overlays") or [], home.path):
        if place == at and spec.upperdir is not None:
            return spec.upperdir
    raise Corrupt(
        f"container {home.short_id}: its record freezes {os.fsdecode(at)}, where nothing is written"
    )


def make_uppers(home: Home, asked: Record, places: list[bytes]) -> None:
    """The next uppers and work directories of *places*, as far as they are not there: they look as the place does now,
    for a merged directory looks as its upper does. Raises OSError.
    """
    numbers = chains.numbers_for(asked, places)
    going: dict[bytes, str] = {}
    if asked.get(chains.FREEZING):
        going = chains.places_of(asked[chains.FREEZING], str)
    for at, number in numbers.items():
        for path in (home.path + b"/work-%d" % number, home.path + b"/upper-%d" % number):
            if os.path.lexists(path):
                continue
            point("state.mkdir-upper")
            if b"/work-" in path:
                os.mkdir(path, 0o700)
                continue
            below = _top(home, asked, at, going)
            made = path + b".new"
            make_directory(made, 0o700, exist_ok=True)
            resemble_wholly(made, below, asked)
            os.rename(made, path)


def _top(home: Home, asked: Record, at: bytes, going: dict[bytes, str]) -> bytes:
    """The topmost directory of the place below its new upper: what is being frozen, wherever that is just now."""
    if at in going:
        for found in (
            layers.tree_of(home.store, going[at]),
            stage_of(home, going[at]) + b"/fs",
            upper_of(home, asked, at),
        ):
            if os.path.lexists(found):
                return found
    return next(
        spec for place, spec in stacks_of(asked.get("overlays") or [], home.path) if place == at
    ).lowerdirs[0]


def resemble_wholly(upper: bytes, lower: bytes, asked: Record) -> None:
    """As `layers.resemble`, with the owner also where that takes the container's ids. Raises OSError."""
    resemble(upper, lower, userxattr=any(entry["userxattr"] for entry in asked["overlays"]))
    found, wanted = os.stat(upper), os.stat(lower)
    if (found.st_uid, found.st_gid) != (wanted.st_uid, wanted.st_gid) and os.geteuid() != 0:
        from lamina.engine.within import maps_of, reach

        try:
            reach(lambda: maps_of(asked), os.chown, upper, wanted.st_uid, wanted.st_gid)
        except OSError:
            pass  # this machine's own, which no container of this user could be given


def _copy(home: Home, asked: Record, made: dict[bytes, str], origin: dict[str, Any] | None) -> None:
    """The uppers at the places of *made*, as copies, become layers: nothing writes to them meanwhile.

    The record says first that they are copies. The container goes on in its uppers, also if we are killed half-way:
    whoever finishes that must not take a copy, whole or not, for what was written (`settle`).
    """
    from lamina.engine.discard import remover
    from lamina.engine.upper_copy import copy_upper

    change(home, asked, chains.with_copies)
    try:
        for at, identity in made.items():
            stage = make_stage(home, asked, at, identity, origin)
            copy_upper(upper_of(home, asked, at), stage + b"/fs", asked)
            point("state.rename-layer")
            os.rename(stage, layers.place_of(home.store, identity))
    except BaseException:
        # the disk may be full because of it, and then nothing else that is to be done could be written either
        remove = remover(asked)
        for identity in made.values():
            if os.path.lexists(stage_of(home, identity)):
                remove(stage_of(home, identity))
        raise
    if not is_volatile(asked):
        sync_directory(home.store.layers, what="state")


# -- what was left half done


def settle(home: Home, *, living: bool) -> None:
    """Finish, or take back, what the record says is under way. For whoever has the turn; *living*: it runs. Raises
    KernelError, Corrupt.
    """
    asked = home.asked()
    try:
        if asked.get(chains.FREEZING):
            made = chains.places_of(asked[chains.FREEZING], str)
            # one that ended meanwhile is as one that does not run: nobody can tell what was written last into which
            if chains.is_copied(asked) or (
                living and is_swapped(home, restacked(home, asked, made)) is False
            ):
                drop(home)
            else:
                finish(home, asked)
        if home.asked().get(chains.REWINDING):
            from lamina.engine.rewinding import settle as settle_rewinding

            settle_rewinding(home, living=living)
    except OSError as error:
        raise_storage_error(error, "finish what was begun with container", home.path)


def is_swapped(home: Home, after: Stacks) -> bool | None:
    """Whether the container, which ran, stands on *after* already; None where it does not run any more."""
    from lamina.engine.restacking import swapped_to

    return swapped_to(home, after)


def drop(home: Home) -> None:
    """Nothing was replaced: it stays as it was."""
    asked = home.asked()
    numbers = chains.numbers_for(asked, chains.chain_of(asked)).values()
    asked = home.change_asked(chains.settled)
    sweep(home, asked, [b"%b-%d" % (kind, number) for number in numbers for kind in (b"upper", b"work")])


def sweep(home: Home, asked: Record, further: Iterable[bytes] = ()) -> None:
    """Remove what the last change of the chain left behind, the *further* entries of the container's directory, and
    layers on their way that did not get there; but nothing that the record names. Uppers may be large, and go in their
    own time (burials.py).
    """
    named = {spec for _, stack in stacks_of(asked.get("overlays") or [], home.path) for spec in _own(stack)}
    entries = {*map(os.fsencode, asked.get("left") or ()), *further}
    entries |= {
        entry for entry in os.listdir(home.path) if entry.startswith(b"freezing-") or entry.endswith(b".new")
    }
    left = [
        home.path + b"/" + entry
        for entry in sorted(entries)
        if entry.startswith((b"upper-", b"work-", b"freezing-")) and b"/" not in entry
    ]
    left = [path for path in left if path not in named and os.path.lexists(path)]
    if left:
        from lamina.engine.burials import bury

        bury(home, asked, left)


def _own(stack: MountSpec) -> list[bytes]:
    return [path for path in (stack.upperdir, stack.workdir) if path is not None]


def change(home: Home, asked: Record, how: Callable[[Record], Record]) -> Record:
    """Change the record, which was *asked*, as `home.change_asked` does; it is on the disk then, unless what the
    container writes need not be either.
    """
    point("state.change-record")
    return home.change_asked(how, sync=not is_volatile(asked))
