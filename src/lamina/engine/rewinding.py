"""Putting a container back into a state: the record gets that state's chain, with new empty uppers, and what was
written since is thrown away. The layers stay as they are, so it takes as long for a file as for a gigabyte.

    lease on the layers → the record says what is under way → [runs: its mounts are replaced] → the record has the other
    chain → what was written is moved away, and removed in its own time

Of one that does not run nothing else changes than the record (unless volumes go back with it): it need not say before
what is under way.
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.burials import sweep
from lamina.engine.consistency import COPY, check_consistency
from lamina.engine.freezing import change, drop
from lamina.engine.layers import stacks_of
from lamina.engine.next_uppers import clear_next, resemble_wholly
from lamina.engine.state_turn import StateTurn
from lamina.errors import Conflict, Corrupt, InvalidInput, Unsupported
from lamina.store import snapshots
from lamina.store.containers import no_such
from lamina.store.events import about, note
from lamina.store.leases import lease
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.volume_states import PuttingBack
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.snapshots import SnapshotRecord

    Record = dict[str, Any]


def rewind(home: Home, reference: str, *, consistency: str = "auto", volumes: bool = True) -> None:
    """See `StateVerbs.rewind`."""
    if check_consistency(consistency) == COPY:
        raise InvalidInput(
            "rewind: consistency copy: what a process has open cannot be put back",
            remedy="'refuse' or 'wait'; or stop the container first",
        )
    with StateTurn(home, "rewind") as turn, lease(home.store) as held:
        kept = snapshots.find(home, reference)
        asked = turn.asked
        if kept.base_layers != chains.own_layers(asked):
            raise Unsupported(
                f"rewind container {asked.get('name')}: the snapshot {kept.shown} is over another image "
                f"({kept.image}) than the container is now",
                remedy=f"fork it (lamina fork {asked.get('name')}@{kept.shown}), or first lamina rebase "
                f"{asked.get('name')} {kept.image}",
            )
        for layer in kept.referred if volumes else kept.layers:
            if not held.add_layer(layer):
                raise Corrupt(
                    f"rewind container {asked.get('name')}: layer {layer[:12]} of the snapshot {kept.shown} is missing",
                    remedy="'lamina system check' says what else is",
                )
        if volumes and kept.volumes:
            _with_volumes(turn, kept, consistency)
        else:
            put_on(turn, kept, consistency)
        said = about(asked, "rewind", snapshot=kept.id, snapshotName=kept.name or None)
    note(home.store, said)


def _with_volumes(turn: StateTurn, kept: SnapshotRecord, consistency: str) -> None:
    """As `put_on`, and the volumes of the state get what they had then."""
    from lamina.engine.volume_states import PuttingBack

    name = turn.asked.get("name")
    if turn.living:
        raise Conflict(
            f"rewind container {name}: the snapshot {kept.shown} has volumes, and it runs",
            remedy="stop it first, or leave its volumes as they are: --no-volumes",
        )
    with PuttingBack(turn.home, "rewind", [one.name for one in kept.volumes]) as back:
        sweep(turn.home, turn.asked)  # what somebody left who was killed has the same names
        try:
            back.prepare(kept.volumes, turn.asked)
        except BaseException:
            sweep(turn.home, turn.asked)
            raise
        put_on(turn, kept, consistency, back)


def put_on(turn: StateTurn, kept: SnapshotRecord, consistency: str, back: PuttingBack | None = None) -> None:
    """As `rewind`, for who has the turn and keeps the layers of the state *kept*; *back* has its volumes prepared.

    Raises Conflict, KernelError.
    """
    try:
        _rewind(turn.home, turn.asked, kept, consistency, back, living=turn.living)
    except OSError as error:
        if not turn.home.exists():
            raise no_such(turn.home.short_id) from error
        raise_storage_error(error, "rewind container", turn.home.path)


def _rewind(
    home: Home,
    asked: Record,
    kept: SnapshotRecord,
    consistency: str,
    back: PuttingBack | None,
    *,
    living: bool,
) -> None:
    chain = {at: kept.chain.get(at, ()) for at in chains.chain_of(asked)}
    if not living and back is None:
        clear_next(home, asked, chain)
        _put_on(home, asked, chain, kept.id)
        return
    names = [] if back is None else back.names

    def begin(asked: Record) -> Record:
        return chains.with_rewinding(asked, chain, kept.id, running=living, volumes=names)

    asked = change(home, asked, begin)
    if living:
        from lamina.engine.restacking import restack

        after = chains.on_chain(asked, chain, kept.id)
        try:
            restack(
                home,
                _stacks(asked, home),
                _stacks(after, home),
                consistency=consistency,
                ready=lambda: _make_uppers(home, asked, after),
                keep=False,
            )
        except BaseException:
            settle(home, living=True)
            raise
    finish(home, asked, back)


def _stacks(asked: Record, home: Home) -> list[tuple[bytes, MountSpec]]:
    return stacks_of(asked.get("overlays") or [], home.path)


def finish(home: Home, asked: Record, back: PuttingBack | None = None) -> None:
    """Do what is still to be done of the rewinding in the record *asked*; *back* holds its volumes, if somebody does.

    Raises Conflict, OSError, KernelError.
    """
    under_way = asked[chains.REWINDING]
    if back is not None:
        back.exchange()
    elif names := under_way.get("volumes"):
        from lamina.engine.volume_states import PuttingBack

        with PuttingBack(home, "finish the rewinding of", names) as back:
            back.exchange()
    _put_on(home, asked, chains.places_of(under_way, tuple), under_way["snapshot"])


def _put_on(home: Home, asked: Record, chain: chains.Chain, snapshot: str | None) -> None:
    _make_uppers(home, asked, chains.on_chain(asked, chain, snapshot))
    asked = change(home, asked, lambda asked: chains.on_chain(asked, chain, snapshot))
    sweep(home, asked)


def _make_uppers(home: Home, asked: Record, after: Record) -> None:
    """The new uppers and work directories: they look as the state does at its places, or, where nothing was frozen, as
    the place was when the container was made.
    """
    before = dict(_stacks(asked, home))
    for at, spec in _stacks(after, home):
        if spec.upperdir is None or spec.workdir is None or spec.upperdir == before[at].upperdir:
            continue
        if not os.path.lexists(spec.workdir):
            point("state.mkdir-upper")
            os.mkdir(spec.workdir, 0o700)
        if not os.path.lexists(spec.upperdir):
            made = spec.upperdir + b".new"
            point("state.mkdir-upper")
            make_directory(made, 0o700, exist_ok=True)
            resemble_wholly(made, spec.lowerdirs[0], asked)
            os.rename(made, spec.upperdir)


def settle(home: Home, *, living: bool) -> None:
    """Finish, or take back, the rewinding that the record says is under way; see `freezing.settle`."""
    from lamina.engine.restacking import swapped_to

    asked = home.asked()
    under_way = asked[chains.REWINDING]
    after = chains.on_chain(asked, chains.places_of(under_way, tuple), under_way["snapshot"])
    swapped = swapped_to(home, _stacks(after, home), chains.chain_of(asked)) if living else None
    if swapped is None:  # it does not run; what it wrote until it ended is where it stood then
        swapped = not under_way.get("running") or _was_mounted(_stacks(after, home))
    if swapped:
        finish(home, asked)
    else:
        drop(home)


def _was_mounted(stacks: list[tuple[bytes, MountSpec]]) -> bool:
    """Whether the new overlays have ever been mounted: the kernel then has a directory of its own in their work
    directories. It is at once that a mount takes its place; one that did not leaves none (`Swap`). Raises OSError.
    """
    places = [spec.workdir for _, spec in stacks if spec.workdir is not None]
    return any(os.path.lexists(place) and os.listdir(place) for place in places)
