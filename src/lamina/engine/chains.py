"""The chain of a container: the layers that were frozen out of what it wrote, above those of its image (or the host's
files), as its record has them. All of this is pure: a record in, a record or what it says out.

An entry of `overlays` has its chain as `frozen`, ids BASE FIRST, and `lower` begins with the trees of these, top
first. `layers` are the image's own and all frozen ones; `base_layers` the image's own, there once something was frozen.
No layer is among both.

`left` are the uppers and work directories that the last change of the chain left behind, to be removed if they are
still there. What is under way is in the record as well, so that whoever holds the container next can finish it:

    freezing      {"places": {at: layer id}, "snapshot": id}    uppers become these layers; with "copied": true
                                                                copies of them do, and they stay what they are
    rewinding     {"places": {at: [ids]}, "snapshot": id}       the container is put on this chain, with new uppers;
                                                                with "running": true under what runs; "volumes" are
                                                                names of those that get what is prepared for them

And what has been found out about the chain, for whoever freezes it next (squashing.py):

    squashed      [{"at", "of": [ids], "as": id}]               these layers, one on the other, read as that one does

of which an entry of `overlays` keeps, as `settled`, how many of its layers were there when it was last made shorter.
"""

from __future__ import annotations

import os

from lamina.overlay.spec import top_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    Record = dict[str, Any]
    Chain = Mapping[bytes, tuple[str, ...]]

FREEZING, REWINDING = "freezing", "rewinding"
SQUASHED, SETTLED = "squashed", "settled"


def chain_of(asked: Record) -> dict[bytes, tuple[str, ...]]:
    """The frozen layers of each place of the container whose record is *asked*, BASE FIRST."""
    return {
        os.fsencode(entry["at"]): tuple(entry.get("frozen") or ()) for entry in asked.get("overlays") or ()
    }


def own_layers(asked: Record) -> tuple[str, ...]:
    """The layers of its image as it sees them, BASE FIRST; () over the host."""
    own = asked.get("base_layers")
    return tuple((asked.get("layers") or ()) if own is None else own)


def next_number(asked: Record) -> int:
    """The first number that no upper of it has had since the record began to have what it has."""
    numbers = [number_of(entry) for entry in asked.get("overlays") or ()]
    return max([number for number in numbers if number is not None], default=-1) + 1


def number_of(entry: Record) -> int | None:
    """The number of the upper of an entry of `overlays`, None where it has none."""
    upper = entry.get("upper")
    return None if upper is None else int(os.fsdecode(upper).rpartition("-")[2])


def numbers_for(asked: Record, places: Iterable[bytes]) -> dict[bytes, int]:
    """The numbers that the new uppers at *places* get, in the order of the record."""
    wanted, number = set(places), next_number(asked)
    found = {}
    for entry in asked.get("overlays") or ():
        at = os.fsencode(entry["at"])
        if at in wanted and entry.get("upper") is not None:
            found[at], number = number, number + 1
    return found


def with_freezing(asked: Record, made: Mapping[bytes, str], snapshot: str | None) -> Record:
    """*asked*, in which it stands that the uppers at the places of *made* become the layers there."""
    return {**asked, FREEZING: {"places": _by_text(made), "snapshot": snapshot}}


def with_copies(asked: Record) -> Record:
    """*asked*, in which it stands that what is frozen just now is copied, and its uppers stay where they are."""
    return {**asked, FREEZING: {**asked[FREEZING], "copied": True}}


def is_copied(asked: Record) -> bool:
    """Whether what is frozen just now, or was when its doer was killed, is copied."""
    return bool((asked.get(FREEZING) or {}).get("copied"))


def with_rewinding(
    asked: Record,
    chain: Chain,
    snapshot: str | None,
    *,
    running: bool = False,
    volumes: Sequence[str] = (),
) -> Record:
    """*asked*, in which it stands that the container is put on *chain*, *running* or not, and its *volumes* as well."""
    places = {os.fsdecode(at): list(ids) for at, ids in chain.items()}
    under_way = {"places": places, "snapshot": snapshot, "running": running, "volumes": list(volumes)}
    return {**asked, REWINDING: under_way}


def pending(asked: Record) -> bool:
    """Whether something is under way, or was when its doer was killed."""
    return bool(asked.get(FREEZING) or asked.get(REWINDING))


def settled(asked: Record) -> Record:
    """*asked* with nothing under way."""
    return {key: found for key, found in asked.items() if key not in (FREEZING, REWINDING)}


def with_frozen(asked: Record, made: Mapping[bytes, str], snapshot: str | None) -> Record:
    """*asked* after the uppers at the places of *made* have become the layers there: these are on top of the chains,
    made shorter where that is known to be the same, and new uppers above them. It stands on the state *snapshot*.
    """
    asked = shortened(asked)
    chain = chain_of(asked)
    longer = {at: (*chain.get(at, ()), made[at]) for at in made}
    return _changed(asked, longer, snapshot)


def with_squashed(asked: Record, at: bytes, run: Sequence[str], made: str) -> Record:
    """*asked*, in which it is noted that the layers *run* (base first) at the place *at* read as the layer *made*."""
    note = {"at": os.fsdecode(at), "of": list(run), "as": made}
    return {**asked, SQUASHED: [*(asked.get(SQUASHED) or ()), note]}


def shortened(asked: Record) -> Record:
    """*asked* with its chains as short as is noted to be the same. Its uppers and the state it stands on are as before.
    Nothing of it may be mounted, or what is mounted must be replaced.
    """
    found = chain_of(asked)
    short = dict(found)
    settled_at: dict[bytes, int] = {}
    for note in asked.get(SQUASHED) or ():
        at, run = os.fsencode(note["at"]), tuple(note["of"])
        chain = short.get(at, ())
        for first in range(len(chain) - len(run) + 1):
            if chain[first : first + len(run)] == run:
                short[at] = (*chain[:first], note["as"], *chain[first + len(run) :])
                settled_at[at] = first + 1
                break
    changed = {at: ids for at, ids in short.items() if ids != found[at]}
    asked = {key: known for key, known in asked.items() if key != SQUASHED}
    if not changed:
        return asked
    under_way = {key: asked[key] for key in (FREEZING, REWINDING) if key in asked}
    asked = {**_changed(asked, changed, asked.get("snapshot"), uppers=False), **under_way}
    asked["overlays"] = [
        {**entry, SETTLED: settled_at[at]} if (at := os.fsencode(entry["at"])) in settled_at else entry
        for entry in asked["overlays"]
    ]
    return asked


def on_chain(asked: Record, chain: Chain, snapshot: str | None) -> Record:
    """*asked* put on *chain*, with new uppers everywhere. Places that *chain* has not are as they were before anything
    was written there. It stands on the state *snapshot*.
    """
    return _changed(asked, {at: chain.get(at, ()) for at in chain_of(asked)}, snapshot)


def _changed(asked: Record, chain: Chain, snapshot: str | None, *, uppers: bool = True) -> Record:
    numbers = numbers_for(asked, chain) if uppers else {}
    overlays = []
    for entry in asked.get("overlays") or ():
        at = os.fsencode(entry["at"])
        if at in chain:
            entry = _on(entry, chain[at], numbers.get(at))
        overlays.append(entry)
    own = own_layers(asked)
    found = {**settled(asked), "overlays": overlays, "snapshot": snapshot}
    if numbers:
        found["left"] = [
            os.fsdecode(entry[key])
            for entry in asked["overlays"]
            if os.fsencode(entry["at"]) in numbers
            for key in ("upper", "work")
        ]
    frozen = [one for entry in overlays for one in entry.get("frozen") or ()]
    if frozen or own:
        found["layers"] = list(dict.fromkeys([*own, *frozen]))
    if frozen or asked.get("base_layers") is not None:
        found["base_layers"] = list(own)
    return found


def _on(entry: Record, ids: tuple[str, ...], number: int | None) -> Record:
    lower = entry["lower"][len(top_first(entry.get("frozen") or ())) :]
    changed = {**entry, "lower": [*map(short_tree, top_first(ids)), *lower]}
    changed.pop("frozen", None)
    if ids:
        changed["frozen"] = list(ids)
    if number is not None:
        changed["upper"], changed["work"] = f"upper-{number}", f"work-{number}"
    return changed


def redrawn(asked: Record, overlays: Sequence[Record]) -> list[Record]:
    """The *overlays* of a start, drawn up from *asked*, with what that has found out about its chains."""
    known = {
        os.fsencode(entry["at"]): (entry.get("frozen"), entry[SETTLED])
        for entry in asked.get("overlays") or ()
        if SETTLED in entry
    }
    found = []
    for entry in overlays:
        frozen, settled_at = known.get(os.fsencode(entry["at"]), (None, None))
        same = settled_at is not None and frozen == entry.get("frozen")
        found.append({**entry, SETTLED: settled_at} if same else entry)
    return found


def short_tree(layer: str) -> str:
    """The tree of a layer by its path from the container's directory on, as records have it."""
    return f"../../layers/{layer}/fs"


def _by_text(made: Mapping[bytes, str]) -> dict[str, str]:
    return {os.fsdecode(at): identity for at, identity in made.items()}


def places_of(under_way: Record, kind: Callable[[Any], Any]) -> dict[bytes, Any]:
    """The `places` of what is under way, by their paths; *kind* makes of each what it is."""
    return {os.fsencode(at): kind(found) for at, found in under_way["places"].items()}
