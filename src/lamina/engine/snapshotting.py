"""Making and removing snapshots: see store/snapshots.py for what they are, freezing.py for how what was written becomes
layers.
"""

from __future__ import annotations

from time import time_ns

from lamina.engine import chains
from lamina.engine.consistency import AUTO, check_consistency
from lamina.engine.freezing import freeze, is_volatile
from lamina.engine.options import VOLUME
from lamina.engine.snapshots import Snapshot
from lamina.engine.state_turn import StateTurn
from lamina.errors import InvalidInput
from lamina.store import snapshots
from lamina.store.events import about, note
from lamina.store.leases import lease
from lamina.store.names import new_id
from lamina.store.snapshots import PlaceState, SnapshotRecord
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lamina.engine.freezing import Frozen
    from lamina.engine.volume_states import Copies
    from lamina.store.containers import Home
    from lamina.store.durable import Batch
    from lamina.store.leases import Lease

# from this depth on somebody looks whether layers should be put together (engine/squashing)
DEEP = 16
# in the record of a container of whose volumes was told
TOLD = "told_of_volumes"
# as long as it was told of those alone that never are part of a state
BINDS = "binds"


def snapshot(
    home: Home,
    name: str | None = None,
    *,
    message: str = "",
    command: Sequence[str] = (),
    consistency: str = AUTO,
    volumes: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> Snapshot:
    """See `StateVerbs.snapshot`; *command* is what was executed since the last one, if it is known."""
    check_consistency(consistency)
    with StateTurn(home, "snapshot") as turn:
        if name is not None:
            snapshots.check_name(home, name)
        with lease(home.store) as held:
            made = taken(
                turn, held, name, message=message, command=command, consistency=consistency, volumes=volumes
            )
        asked = turn.asked
        said = about(asked, "snapshot", snapshot=made.id, snapshotName=name)
        warnings = [*turn.notes, *_warnings(home, asked, volumes=volumes)]
    note(home.store, said)
    if on_warning is not None:
        for warning in warnings:
            on_warning(warning)
    if any(len(place.layers) >= DEEP for place in made.places):
        from lamina.engine.squashing import after_snapshot

        after_snapshot(home)
    return Snapshot(home, made)


def taken(
    turn: StateTurn,
    held: Lease,
    name: str | None = None,
    *,
    message: str = "",
    command: Sequence[str] = (),
    consistency: str = AUTO,
    volumes: bool = False,
) -> SnapshotRecord:
    """As `snapshot`, for who has the turn; *held* keeps its layers."""
    home, asked = turn.home, turn.asked
    kept = begun(home, asked, name, message=message, command=command or _command(home, asked))
    made: list[SnapshotRecord] = []
    origin = _origin(kept, asked)

    def freeze_with(copies: Copies | None) -> None:
        def noted(frozen: Frozen, batch: Batch) -> None:
            places = [PlaceState(at, ids, frozen.made.get(at)) for at, ids in frozen.chain.items()]
            mounted = () if copies is None else copies.keep(origin)
            made.append(replace(kept, places=tuple(places), volumes=mounted))
            snapshots.put(home, made[0], batch=batch)

        besides = None if copies is None else copies.take
        freeze(
            turn, held, snapshot=kept.id, origin=origin, consistency=consistency, besides=besides, noted=noted
        )

    if volumes:
        from lamina.engine.volume_states import Copies

        with Copies(home, asked, held) as copies:
            freeze_with(copies)
    else:
        freeze_with(None)
    return made[0]


def begun(
    home: Home,
    asked: dict[str, Any],
    name: str | None = None,
    *,
    message: str = "",
    command: Sequence[str] = (),
) -> SnapshotRecord:
    """A new record of a state of the container at *home*, whose record is *asked*, that comes from the one on which it
    stands; what it consists of is still to be said.
    """
    return SnapshotRecord(
        id=new_id(),
        container=home.id,
        created=time_ns(),
        places=(),
        name=name or "",
        parent=snapshots.current(home, asked),
        message=message,
        command=tuple(command),
        base_layers=chains.own_layers(asked),
        image=str(asked.get("image") or ""),
        image_id=str(asked.get("image_id") or ""),
        config=asked.get("config"),
        volatile=is_volatile(asked),
    )


def _command(home: Home, asked: dict[str, Any]) -> list[str]:
    """The container's own command, if that was started since the state on which it stands; else nobody knows."""
    parent = snapshots.current(home, asked)
    kept = None if parent is None else snapshots.get(home, parent)
    started = int((home.read("state") or {}).get("started") or 0)
    since = kept.created if kept is not None else 0
    return [str(word) for word in asked.get("command") or ()] if started > since else []


def _origin(kept: SnapshotRecord, asked: dict[str, Any]) -> dict[str, Any]:
    """What the frozen layers say of where they came from, also when the snapshot or the container is gone."""
    return {
        "container_name": str(asked.get("name") or ""),
        "snapshot": kept.id,
        "snapshot_name": kept.name,
        "command": list(kept.command),
        "message": kept.message,
        "created": kept.created,
    }


def _warnings(home: Home, asked: dict[str, Any], *, volumes: bool = False) -> list[str]:
    """What is no part of the state, which may have its *volumes*, if that was not said yet; noted, so that it is said
    once.
    """
    told = asked.get(TOLD)
    if told is True or (told and volumes):
        return []
    writable = [
        one for one in asked.get("volumes") or () if not {"ro", "rro"} & {*(one.get("options") or ())}
    ]
    left_out = ("tmpfs", VOLUME) if volumes else ("tmpfs",)
    places = [str(one.get("target")) for one in writable if one.get("kind") not in left_out]
    if not places:
        return []
    home.change_asked(lambda asked: {**asked, TOLD: BINDS if volumes else True})
    hint = (
        "" if volumes or all(one.get("kind") != VOLUME for one in writable) else " (--volumes: volumes are)"
    )
    return [f"volumes and binds are no part of a snapshot: {', '.join(places)}{hint}"]


def remove(home: Home, identity: str) -> None:
    """Remove the snapshot *identity*; those that came from it come from its parent then. See `Snapshot.remove`."""
    with StateTurn(home, "remove a snapshot of") as turn:
        kept = snapshots.get(home, identity)
        if kept is None:
            raise snapshots.no_such(home, identity[:12])
        snapshots.remove(home, kept, sync=not is_volatile(turn.asked))
        note(
            home.store, about(turn.asked, "snapshot-remove", snapshot=kept.id, snapshotName=kept.name or None)
        )


def prune(home: Home, keep: int = 0) -> list[Snapshot]:
    """Remove the snapshots of the container, but the last *keep*, and those with a name; what went, oldest first.

    Raises InvalidInput, Conflict, Corrupt, KernelError.
    """
    if keep < 0:
        raise InvalidInput(f"prune snapshots: keep {keep}: not a number of snapshots")
    with StateTurn(home, "prune the snapshots of") as turn:
        found = snapshots.all_of(home)
        last = {kept.id for kept in found[max(len(found) - keep, 0) :]}
        going = [kept for kept in found if not kept.name and kept.id not in last]
        for kept in going:
            snapshots.remove(home, kept, sync=not is_volatile(turn.asked))
        if going:
            home.change_asked(lambda asked: {**asked, "snapshot": snapshots.current(home, asked)})
            from lamina.engine.state_log import forks_of

            alone = snapshots.nobody_forks(home)
            if alone is not None:  # else the next time does it
                with alone:
                    snapshots.forget_gone(home, forks_of(home))
            note(home.store, about(turn.asked, "snapshot-prune", count=len(going)))
    return [Snapshot(home, kept) for kept in going]
