"""What forks did is brought together in their parent: three-way, against the state that both began with.

    merge(home, [one, other])       # a new state of the container at *home*; Conflict where they disagree

Each fork in turn is compared with what there is by then: a path that two forks changed collides as if the parent had
changed it. What is taken is written into an upper of its own over the parent's state, which then becomes a layer; so
the parent has all of it or nothing, and the state from before stays, as a snapshot.
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.apply.values import below
from lamina.engine.consistency import check_consistency
from lamina.engine.freezing import freeze
from lamina.engine.lineage import common_ancestor
from lamina.engine.merged_layer import OURS, THEIRS, Sides, decide, write
from lamina.engine.mounted_root import Standing, Stood
from lamina.engine.next_uppers import resemble_wholly
from lamina.engine.rewinding import put_on
from lamina.engine.roots import owner_of, there
from lamina.engine.snapshots import Snapshot
from lamina.engine.snapshotting import begun, taken
from lamina.engine.state_turn import StateTurn
from lamina.engine.viewing import view_container, view_snapshot
from lamina.engine.within import inside, maps_of, owners_of, reach
from lamina.errors import Conflict, InvalidInput, Unsupported
from lamina.image.pending import make_lasting
from lamina.store import layers, snapshots
from lamina.store.events import about, note
from lamina.store.leases import lease
from lamina.store.snapshots import PlaceState
from lamina.store.usage import walked
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.engine.merged_layer import Clash, Decision
    from lamina.engine.viewing import View
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.leases import Lease
    from lamina.store.snapshots import SnapshotRecord

SHOWN = 20


@value
class Merge:
    """What came, or would come, of a merge. `taken` are the paths that are as a fork has them now, with its name;
    `clashes` those that several changed, each with how it was decided ("" where nobody has said); `snapshot` is the
    new state, None of a dry run, and where there was nothing to take.
    """

    taken: tuple[tuple[bytes, str], ...]
    clashes: tuple[Clash, ...]
    snapshot: Snapshot | None = None


def merge(
    home: Home,
    forks: Sequence[Home],
    *,
    prefer: str = "",
    dry_run: bool = False,
    name: str | None = None,
    message: str = "",
    consistency: str = "auto",
) -> Merge:
    """See `BranchVerbs.merge`. *prefer* is "ours", "theirs", the name or id of a fork, or ""."""
    check_consistency(consistency, copies=False)
    if not forks:
        raise InvalidInput("merge: no fork is named", remedy="name those that are to be taken over")
    if len({home.id, *(fork.id for fork in forks)}) <= len(forks):
        raise InvalidInput(
            "merge: a container is named twice", remedy="name the parent first, then each fork once"
        )
    names = tuple(str(fork.asked()["name"]) for fork in forks)
    who = prefer if prefer in ("", OURS, THEIRS) else _preferred(prefer, forks, names)
    with lease(home.store) as held:
        theirs = [_as_it_is(fork, held, consistency, dry_run=dry_run) for fork in forks]
        with StateTurn(home, "merge") as turn:
            for fork in theirs:
                check_alike("merge", turn.asked, fork.record)
            bases = [_base(home, fork, held) for fork in forks]
            merging = _Merging(turn, held, names, bases, theirs, who)
            decided = merging.decide(view_container(home, turn.asked))
            if not dry_run:
                _check_decided(str(turn.asked["name"]), decided)
            if dry_run or not any(one.taken for one in decided):
                return Merge(_paths(decided, names), _clashes(decided))
            kept, decided = merging.carry_out(
                decided, name, message or f"merge of {', '.join(names)}", consistency
            )
            said = about(turn.asked, "merge", snapshot=kept.id, forks=", ".join(names))
    note(home.store, said)
    return Merge(_paths(decided, names), _clashes(decided), Snapshot(home, kept))


def _preferred(prefer: str, forks: Sequence[Home], names: Sequence[str]) -> int:
    """Which of *forks* is meant by its name or id *prefer*. Raises InvalidInput."""
    for number, (fork, name) in enumerate(zip(forks, names, strict=True)):
        if prefer in (name, fork.id, fork.short_id):
            return number
    raise InvalidInput(
        f"merge: prefer {prefer[:200]!r}: it is none of the forks that are merged",
        remedy="'ours', 'theirs', or one of " + ", ".join(names),
    )


def promote(home: Home, fork: Home, *, name: str | None = None, consistency: str = "auto") -> Snapshot:
    """See `BranchVerbs.promote`."""
    check_consistency(consistency, copies=False)
    if home.id == fork.id:
        raise InvalidInput("promote: a container cannot take its own place", remedy="name a fork of it")
    shown = str(fork.asked()["name"])
    with lease(home.store) as held:
        with StateTurn(fork, "promote") as other:
            check_alike("promote", home.asked(), other.asked)
            chain = freeze(
                other,
                held,
                origin=_origin(other.asked, f"promoted into {home.short_id}"),
                consistency=consistency,
            ).chain
            for layer in (one for ids in chain.values() for one in ids):
                held.add_layer(layer)
        with StateTurn(home, "promote") as turn:
            check_alike("promote", turn.asked, fork.asked())
            if name is not None:
                snapshots.check_name(home, name)
            taken(turn, held, message=f"before {shown} was promoted", consistency=consistency)
            kept = _stand_on(turn, chain, name, f"promoted from {shown}", consistency)
            said = about(turn.asked, "promote", snapshot=kept.id, fork=shown)
    note(home.store, said)
    return Snapshot(home, kept)


def _stand_on(
    turn: StateTurn, chain: dict[bytes, tuple[str, ...]], name: str | None, message: str, consistency: str
) -> SnapshotRecord:
    """A new state of the container, with *chain*, on which it stands then. Raises Conflict, KernelError."""
    found, before = begun(turn.home, turn.asked, name, message=message), chains.chain_of(turn.asked)
    places = [PlaceState(at, ids, _new(ids, before.get(at, ()))) for at, ids in chain.items()]
    kept = replace(found, places=tuple(places))
    if not kept.volatile:  # the fork may have been, whose layers these are
        make_lasting(turn.home.store, kept.layers)
    snapshots.put(turn.home, kept, sync=not kept.volatile)
    try:
        # where files are put back there is nothing to copy
        put_on(turn, kept, "auto" if consistency == "copy" else consistency)
    except BaseException:
        snapshots.remove(turn.home, kept)
        raise
    return kept


def _new(ids: tuple[str, ...], before: tuple[str, ...]) -> str | None:
    """What a state with the layers *ids* brings, where there were those *before*: the topmost, unless it was there."""
    return ids[-1] if ids and ids[-1] not in before else None


def check_alike(verb: str, asked: dict[str, Any], other: dict[str, Any]) -> None:
    """Raises Unsupported unless the layers of one container mean the same in the other."""
    said = f"{verb} {other['name']} into {asked['name']}"
    if chains.own_layers(asked) != chains.own_layers(other):
        raise Unsupported(
            f"{said}: they are over different images ({other.get('image')} and {asked.get('image')})",
            remedy="'lamina rebase' puts one of them over the other's",
        )
    if chains.chain_of(asked).keys() != chains.chain_of(other).keys():
        raise Unsupported(
            f"{said}: they do not consist of the same file systems of this machine",
            remedy="apply what one did: lamina diff --apply-to",
        )
    if (bool(asked.get("own_ids")), owners_of(asked)) != (bool(other.get("own_ids")), owners_of(other)):
        raise Unsupported(
            f"{said}: their users are others on the disk (--userns)",
            remedy="fork with --userns host, or apply what one did: lamina diff --apply-to",
        )


def _origin(asked: dict[str, Any], message: str) -> dict[str, Any]:
    """What a layer says of where it came from; see snapshotting."""
    return {"container_name": str(asked.get("name") or ""), "snapshot": "", "command": [], "message": message}


def _as_it_is(fork: Home, held: Lease, consistency: str, *, dry_run: bool) -> View:
    """The fork as it is now, so that nothing of it changes any more unless this is a *dry_run*."""
    if dry_run:
        return view_container(fork, fork.asked())
    with StateTurn(fork, "merge") as turn:
        chain = freeze(turn, held, origin=_origin(turn.asked, "merged"), consistency=consistency).chain
        for layer in (*chains.own_layers(turn.asked), *(one for ids in chain.values() for one in ids)):
            held.add_layer(layer)
        kept = replace(
            begun(fork, turn.asked), places=tuple(PlaceState(at, ids) for at, ids in chain.items())
        )
        return view_snapshot(fork, kept)


def _base(home: Home, fork: Home, held: Lease) -> View:
    """The state that both began with, kept by *held*. Raises NotFound."""
    whose, kept = common_ancestor(home, fork)
    for layer in kept.layers:
        held.add_layer(layer)
    return view_snapshot(whose, kept)


def _paths(decided: list[Decision], names: Sequence[str]) -> tuple[tuple[bytes, str], ...]:
    return tuple(
        (below(one.at, path), names[taken.number]) for one in decided for path, taken in one.taken.items()
    )


def _clashes(decided: list[Decision]) -> tuple[Clash, ...]:
    return tuple(clash for one in decided for clash in one.clashes)


def _check_decided(name: str, decided: list[Decision]) -> None:
    open_ = [clash for clash in _clashes(decided) if not clash.decided]
    if not open_:
        return
    lines = [
        f"  {os.fsdecode(one.path)}: {one.ours} in {one.other or name}, {one.theirs} in {one.fork}"
        for one in open_[:SHOWN]
    ]
    if len(open_) > SHOWN:
        lines.append(f"  and {len(open_) - SHOWN:,} more")
    count = "1 path was" if len(open_) == 1 else f"{len(open_):,} paths were"
    raise Conflict(
        "\n".join([f"merge into {name}: {count} changed by both", *lines]),
        remedy="nothing was merged: --ours keeps what the parent has, --theirs takes what the forks have, --prefer "
        "FORK what that one has",
    )


class _Merging:
    """One merge into the container of *turn*."""

    def __init__(
        self,
        turn: StateTurn,
        held: Lease,
        names: Sequence[str],
        bases: list[View],
        theirs: list[View],
        prefer: str | int,
    ) -> None:
        self.turn, self.held, self.names, self.prefer = turn, held, names, prefer
        self.bases, self.theirs = bases, theirs
        self.sides: list[Sides] = []

    def decide(self, ours: View) -> list[Decision]:
        """What is taken over, where the parent is *ours*."""

        def spec(view: View, at: bytes) -> MountSpec:
            return next(place.spec for place in view.places if place.at == at)

        self.sides = [
            Sides(
                place.at,
                place.spec,
                tuple(spec(view, place.at) for view in self.bases),
                tuple(spec(view, place.at) for view in self.theirs),
            )
            for place in ours.places
        ]
        made = frozenset().union(ours.made, *(view.made for view in self.theirs))
        found: list[Decision] = reach(
            lambda: maps_of(self.turn.asked), decide, self.sides, self.names, self.prefer, made
        )
        return found

    def carry_out(
        self, decided: list[Decision], name: str | None, message: str, consistency: str
    ) -> tuple[SnapshotRecord, list[Decision]]:
        """Make the new state, and put the container on it."""
        turn = self.turn
        if name is not None:
            snapshots.check_name(turn.home, name)
        before = taken(turn, self.held, message=f"before {message}", consistency=consistency)
        ours = view_snapshot(turn.home, before)
        again = self.decide(ours) if turn.living else decided  # it may have written something meanwhile
        if turn.living:
            _check_decided(str(turn.asked["name"]), again)
        else:
            self.sides = [
                replace(side, ours=place.spec) for side, place in zip(self.sides, ours.places, strict=True)
            ]
        chain = before.chain
        for side, one in zip(self.sides, again, strict=True):
            if one.taken:
                chain[side.at] = (*chain.get(side.at, ()), self._layer(side, one, message))
        return _stand_on(turn, chain, name, message, consistency), again

    def _layer(self, side: Sides, one: Decision, message: str) -> str:
        """What is taken at one place as a layer over the parent's state."""
        store, asked = self.turn.home.store, self.turn.asked
        with layers.stage(store, None, self.held) as stage:
            resemble_wholly(stage.path, side.ours.lowerdirs[0], asked)
            work = os.path.dirname(os.path.dirname(stage.path)) + b"/work"
            os.mkdir(work, 0o700)
            spec = replace(side.ours, upperdir=stage.path, workdir=work, volatile=True)
            maps = maps_of(asked)
            owner = (0, 0) if maps is None else owner_of(maps)
            stood = Stood(spec, (), store.merged, False, owner, None)
            if maps is None:
                with Standing(stood, write=True) as root:
                    write(root, one.taken, side.theirs)
            else:
                inside(maps, there, write, owner, stood, True, 0, one.taken, side.theirs)
            amount = walked(stage.path)
            extra = {
                "origin": {
                    "container": self.turn.home.id,
                    "at": os.fsdecode(side.at),
                    **_origin(asked, message),
                }
            }
            return stage.commit(None, amount.bytes, amount.inodes, extra).id
