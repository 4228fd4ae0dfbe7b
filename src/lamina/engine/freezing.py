"""What a container wrote becomes layers, in constant time: each upper directory moves into the store, and a new empty
one takes its place.

    a lease on the new layers → the record says what is under way → [runs: its mounts are replaced] → rename
    → the record has the longer chain → the lease ends

The record of what is under way is on the disk before the rename, and the layer before the record that names it, unless
what the container writes need not be. Everything that is to be on the disk at the same point is waited for together
(store/durable.py). Of one that does not run all of that is known, and written, before anything is moved; so where the
file system keeps the order in which names change, the disk is waited for twice (decision 0108). Of one that runs
everything written has to be synced anyhow: the directories are moved before that.

Whoever is killed in between has left a record that says what was under way, and whoever holds the container next
finishes it (`settle`): one that does not run always shows the same files, whether the last step was done or not.
Something that runs over the old mounts still is only finished where these were replaced.
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.burials import sweep
from lamina.engine.keeping import said_of
from lamina.engine.layers import stacks_of
from lamina.engine.next_uppers import make_uppers, make_uppers_early, stage_of, upper_of
from lamina.engine.options import NONE
from lamina.engine.unwritten import is_idle
from lamina.errors import Corrupt, Unsupported
from lamina.overlay.spec import MOST_LAYERS
from lamina.store import layers, record, snapshots
from lamina.store.containers import no_such
from lamina.store.durable import Batch, sync_directory
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.stage import write_facts
from lamina.store.trace import point
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.engine.state_turn import StateTurn
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.leases import Lease

    Record = dict[str, Any]
    Stacks = list[tuple[bytes, MountSpec]]
    Early = Callable[[Record, dict[bytes, str], Batch], None]
    Noted = Callable[["Frozen", Batch], None]

# beside the record, what it says when a freezing has ended
AFTER = b".after.new"


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
    besides: Callable[[], None] | None = None,
    early: Early | None = None,
    noted: Noted | None = None,
    is_clear: bool = False,
) -> Frozen:
    """Freeze what the container of *turn* wrote since it was last frozen; places where nothing was written stay.

    The new layers are kept by *held*, and say where they came from, *origin*. *besides* is called while the container
    stands still, perhaps several times: the last one is that of the state. *early* is called with the record, the ids
    of the layers to be, and what is on the disk before anything is moved; *noted* when they are there, with what is
    published with the container's record, and before it. *snapshot* is the state on which the container stands then
    (None: as before). *is_clear*: what starts left to mount something on was taken away. Raises Conflict (processes,
    with "refuse"), Unsupported, KernelError.
    """
    home, asked = turn.home, turn.asked
    stacks = stacks_of(asked.get("overlays") or [], home.path)
    try:
        if not turn.living and not is_clear:
            _clear(asked, stacks)
        busy = [(at, spec) for at, spec in stacks if spec.upperdir is not None and not is_idle(spec)]
        made = {at: layers.new_id() for at, _ in busy}
        _check_depth(home, asked, busy)
        for identity in made.values():
            held.add_layer(identity)
        if turn.living and made:
            batch = batch_for(home, asked)
            if early is not None:
                early(asked, made, batch)
            before = snapshot or asked.get("snapshot")
            return _living(turn, asked, made, before, batch, origin, consistency, besides, noted)
        if besides is not None:
            _standing_still(turn, besides)
        if made:
            return _at_rest(home, made, snapshot, origin, early, noted)
        return _noted(home, asked, Frozen(chains.chain_of(asked), {}), snapshot, noted)
    except OSError as error:
        if not home.exists():
            raise no_such(home.short_id) from error
        raise_storage_error(error, "freeze container", home.path)


def _noted(home: Home, asked: Record, frozen: Frozen, snapshot: str | None, noted: Noted | None) -> Frozen:
    """Nothing was to be frozen: it only stands on another state, if at all."""
    batch = batch_for(home, asked)
    if noted is not None:
        noted(frozen, batch)
    change(home, asked, lambda asked: None if snapshot is None else {**asked, "snapshot": snapshot}, batch)
    return frozen


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


def _at_rest(
    home: Home,
    made: dict[bytes, str],
    snapshot: str | None,
    origin: dict[str, Any] | None,
    early: Early | None,
    noted: Noted | None,
) -> Frozen:
    """Nothing of it runs, and nobody else changes its record meanwhile. So everything can be written beforehand, what
    its record says in the end as well, and then only names change.
    """
    point("state.change-record")
    with home.turn():
        asked = home.asked()
        batch = batch_for(home, asked)
        under_way = chains.with_freezing(asked, made, snapshot or asked.get("snapshot"))
        after = chains.with_frozen(under_way, made, snapshot or asked.get("snapshot"))
        if early is not None:
            early(asked, made, batch)
        for at, identity in made.items():
            batch.content(make_stage(home, asked, at, identity, origin) + b"/layer.json", what="state")
        make_uppers_early(home, asked, made)
        large = _is_large(home)
        batch.write(home.path, b"container.json", under_way, what="record", lasting=large)
        if large:
            batch.wait()
        batch.move(lambda: _move(home, under_way, made, batch))
        batch.wait()
        frozen = Frozen(chains.chain_of(after), made)
        if noted is not None:
            noted(frozen, batch)
        # its name is waited for: where a disk has the layer, and its container's directory as it was, one directory has
        # two names, and what is written to the upper, or swept away, is the layer's
        batch.write(home.path, b"container.json", after, what="record", beside=AFTER)
        batch.publish()
    sweep(home, after)
    return frozen


def _living(
    turn: StateTurn,
    asked: Record,
    made: dict[bytes, str],
    snapshot: str | None,
    batch: Batch,
    origin: dict[str, Any] | None,
    consistency: str,
    besides: Callable[[], None] | None,
    noted: Noted | None,
) -> Frozen:
    """Something of it runs: what it stands on is replaced under it, or, where that cannot be, copied."""
    from lamina.engine.restacking import restack

    home = turn.home
    before = stacks_of(asked.get("overlays") or [], home.path)
    after = restacked(home, chains.shortened(asked), made)
    asked = begin(home, asked, made, snapshot, batch)
    try:
        done = restack(
            home,
            before,
            after,
            consistency=consistency,
            ready=lambda: make_uppers(home, asked, list(made)),
            each=besides,
            copy=lambda: _copy(home, asked, made, origin),
            move=lambda: _move_uppers(home, asked, made, origin),
        )
    except BaseException:
        settle(home, living=True)
        raise
    if done.swapped:
        turn.notes += [f"something goes on in the state before: {one}" for one in done.holders]
        return finish(home, asked, origin=origin, noted=noted, described=done.synced)
    turn.notes += _said(done.holders)
    chain, batch = chains.chain_of(asked), batch_for(home, asked)
    frozen = Frozen({at: (*chain[at], made[at]) if at in made else chain[at] for at in chain}, made, True)
    if noted is not None:
        noted(frozen, batch)
    drop(home, asked, lambda asked: {**asked, "snapshot": snapshot}, batch)
    return frozen


def _standing_still(turn: StateTurn, work: Callable[[], None]) -> None:
    """Do *work* while nothing of the container runs: nothing of its root is to be replaced."""
    if not turn.living:
        work()
        return
    from lamina.engine.standstill import Standstill

    with Standstill(turn.home, f"take the state of container {turn.asked['name']}") as still:
        still.stop()
        work()


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


def _check_depth(home: Home, asked: Record, busy: Stacks) -> None:
    places = {os.fsdecode(at) for at, _ in busy}
    for entry in chains.shortened(asked).get("overlays") or []:
        if entry["at"] in places and len(entry["lower"]) >= MOST_LAYERS:
            from lamina.engine.squashing import last_failure

            why = last_failure(home)
            raise Unsupported(
                f"freeze container {asked.get('name')}: {entry['at']} consists of {len(entry['lower'])} layers, "
                f"and an overlay takes {MOST_LAYERS}{f'; fewer could not be made of them: {why}' if why else ''}",
                remedy=f"lamina squash {asked.get('name')}",
            )


# -- the steps, each of which can be done once more


def begin(home: Home, asked: Record, made: dict[bytes, str], snapshot: str | None, batch: Batch) -> Record:
    """Write down, at the end of *batch*, that the uppers at the places of *made* become these layers; it is on the disk
    before their names are gone.
    """
    return change(
        home, asked, lambda asked: chains.with_freezing(asked, made, snapshot), batch, lasting=_is_large(home)
    )


def _is_large(home: Home) -> bool:
    """Whether a change of the record has to be waited for before an upper loses its name.

    Both are names of one directory, and usually in one block of it. What a disk has of a block is all of one moment,
    and a journal keeps the order; so it is only waited for where there are more blocks.
    """
    found = os.stat(home.path)
    return found.st_size > found.st_blksize


def finish(
    home: Home,
    asked: Record,
    *,
    origin: dict[str, Any] | None = None,
    noted: Noted | None = None,
    described: bool = False,
) -> Frozen:
    """Do what is still to be done of the freezing in the record *asked*; *described*: what is said of the layers is on
    the disk. Raises OSError, KernelError.
    """
    under_way = asked[chains.FREEZING]
    made: dict[bytes, str] = chains.places_of(under_way, str)
    batch = batch_for(home, asked)
    _move(home, asked, made, batch, origin, described=described)
    make_uppers(home, asked, list(made))
    chain = chains.chain_of(chains.shortened(asked))
    frozen = Frozen({at: (*chain[at], made[at]) if at in made else chain[at] for at in chain}, made)
    state = under_way["snapshot"]
    if noted is not None:
        noted(frozen, batch)
    elif state is not None and snapshots.there(snapshots.directory_of(home), state) is None:
        # its maker was killed before it was written down: what comes next comes from the one before
        state = asked.get("snapshot")
    asked = change(home, asked, lambda asked: chains.with_frozen(asked, made, state), batch)
    sweep(home, asked)
    return frozen


def _move(
    home: Home,
    asked: Record,
    made: dict[bytes, str],
    batch: Batch,
    origin: dict[str, Any] | None = None,
    *,
    described: bool = True,
) -> None:
    """The uppers at the places of *made* are these layers, if they are not yet; *batch* needs that."""
    _move_uppers(home, asked, made, origin, described=described)
    for identity in made.values():
        _take_place(home, identity, sync=not described and not is_volatile(asked))
        batch.needs(layers.place_of(home.store, identity), what="state")
    batch.needs(home.store.layers, what="state")


def _move_uppers(
    home: Home,
    asked: Record,
    made: dict[bytes, str],
    origin: dict[str, Any] | None,
    *,
    described: bool = False,
) -> None:
    """The uppers at the places of *made* are in the stages of these layers, unless they are layers already.
    *described*: it is in the stages what is said of these.
    """
    for at, identity in made.items():
        stage = layers.place_of(home.store, identity)
        if not os.path.lexists(stage):
            stage = stage_of(home, identity) if described else make_stage(home, asked, at, identity, origin)
        if not os.path.lexists(stage + b"/fs"):
            from lamina.engine.within import maps_of, reach

            point("state.rename-upper")
            # whoever moves a directory has to be allowed to write to it: the container's root may have made it
            # read-only
            reach(lambda: maps_of(asked), os.rename, upper_of(home, asked, at), stage + b"/fs")


def _take_place(home: Home, identity: str, *, sync: bool) -> None:
    """What is staged is the layer *identity*, which appears whole, with *sync* also after a power cut; without, its
    record is on the disk already, or need not be.
    """
    place, stage = layers.place_of(home.store, identity), stage_of(home, identity)
    if os.path.lexists(place):
        return
    if sync:
        point("state.fsync-stage")
        record.make_durable(stage, b"layer.json")
    point("state.rename-layer")
    os.rename(stage, place)


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
            if chains.is_copied(asked) or (living and not _may_be_swapped(home, asked, made)):
                drop(home)
            else:
                finish(home, asked)
        if home.asked().get(chains.REWINDING):
            from lamina.engine.rewinding import settle as settle_rewinding

            settle_rewinding(home, living=living)
    except OSError as error:
        raise_storage_error(error, "finish what was begun with container", home.path)


def _may_be_swapped(home: Home, asked: Record, made: dict[bytes, str]) -> bool:
    from lamina.engine.restacking import swapped_to

    return swapped_to(home, restacked(home, asked, made), made) is not False


def drop(
    home: Home,
    asked: Record | None = None,
    how: Callable[[Record], Record] = lambda asked: asked,
    batch: Batch | None = None,
) -> None:
    """Nothing was replaced: it stays as it was, in one change of the record with what *how* makes of that."""
    asked = asked or home.asked()
    numbers = chains.numbers_for(asked, chains.chain_of(asked)).values()
    asked = change(home, asked, lambda asked: how(chains.settled(asked)), batch)
    sweep(home, asked, [b"%b-%d" % (kind, number) for number in numbers for kind in (b"upper", b"work")])


def change(
    home: Home,
    asked: Record,
    how: Callable[[Record], Record | None],
    batch: Batch | None = None,
    *,
    lasting: bool = True,
) -> Record:
    """Change the record, which was *asked*, as `home.change_asked` does, at the end of *batch*; it is on the disk then,
    unless what the container writes need not be either.
    """
    point("state.change-record")
    return home.change_asked(how, batch=batch or batch_for(home, asked), lasting=lasting)


def batch_for(home: Home, asked: Record) -> Batch:
    """Of records that are as durable as the container at *home*, whose record is *asked*."""
    store = home.store
    return Batch(sync=not is_volatile(asked), places=(home.path, store.layers, store.blobs, store.images))
