"""The states of a container as a tree: what came from what, where it stands now, which containers began where."""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.layers import stacks_of
from lamina.errors import LaminaError
from lamina.overlay.mount_points import idle
from lamina.store import containers, snapshots
from lamina.store.root import raise_storage_error
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.engine.snapshots import Snapshot
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home


@value
class LoggedState:
    """A snapshot among the others of its container.

    parent  the id of the state that it came from and that is still there, None of those that began with the image
    here    whether the container stands on it: what it writes now comes after this
    forks   names of the containers that began with it and are still there
    """

    snapshot: Snapshot
    parent: str | None
    here: bool
    forks: tuple[str, ...]


@value
class StateLog:
    """All states of a container. `states` are the newest first, children always before what they came from.

    `begins` is what it was made from: an image's name, "host", or the state that it is a fork of. `here` is the id of
    the state on which the container stands, None before the first; `written` whether anything was written since.
    """

    name: str
    begins: str
    states: tuple[LoggedState, ...]
    here: str | None
    written: bool


def log_of(home: Home) -> StateLog:
    """The states of the container at *home*. Raises NotFound, Corrupt, KernelError."""
    from lamina.engine.snapshots import Snapshot

    asked = home.asked()
    directory = snapshots.directory_of(home)
    here = snapshots.current(home, asked)
    forks = forks_of(home) if snapshots.has_any(home) else {}
    began: dict[str, list[str]] = {}
    parents: dict[str, str | None] = {}
    kept = snapshots.all_of(home)
    try:
        for one in kept:
            parents[one.id] = snapshots.there(directory, one.parent)
        for begun, names in forks.items():
            if (state := snapshots.there(directory, begun)) is not None:
                began.setdefault(state, []).extend(names)
    except OSError as error:
        raise_storage_error(error, "read snapshots", directory)
    states = tuple(
        LoggedState(
            Snapshot(home, one), parents[one.id], one.id == here, tuple(sorted(began.get(one.id, ())))
        )
        for one in _newest_first(kept, parents)
    )
    return StateLog(str(asked.get("name", "")), _begins(asked), states, here, _written(home, asked))


def _newest_first(
    kept: list[snapshots.SnapshotRecord], parents: dict[str, str | None]
) -> list[snapshots.SnapshotRecord]:
    """By time, but whatever the clock did meanwhile no state before one that came from it."""
    from heapq import heappop, heappush

    children: dict[str, int] = {}
    for parent in parents.values():
        if parent is not None:
            children[parent] = children.get(parent, 0) + 1
    by_id = {one.id: one for one in kept}
    ready: list[tuple[int, str]] = []
    for one in kept:
        if not children.get(one.id):
            heappush(ready, (-one.created, one.id))
    found = []
    while ready:
        one = by_id[heappop(ready)[1]]
        found.append(one)
        above = parents[one.id]
        if above is not None and above in by_id:
            children[above] -= 1
            if not children[above]:
                heappush(ready, (-by_id[above].created, above))
    return found


def _begins(asked: dict[str, Any]) -> str:
    forked = asked.get("forked")
    if isinstance(forked, dict):
        return f"{forked.get('name') or str(forked.get('container'))[:12]}@{str(forked.get('snapshot'))[:12]}"
    return str(asked.get("image") or "")


def forks_of(home: Home) -> dict[str, list[str]]:
    """The names of the containers that were forked off this one, by the state that they began with."""
    found: dict[str, list[str]] = {}
    for identity in containers.identities(home.store):
        try:
            asked = containers.Home(home.store, identity).asked()
        except LaminaError:
            continue  # just being made or removed; `system check` tells of a damaged one
        forked = asked.get("forked")
        if isinstance(forked, dict) and forked.get("container") == home.id:
            found.setdefault(str(forked.get("snapshot")), []).append(str(asked.get("name") or identity[:12]))
    return found


def _written(home: Home, asked: dict[str, Any]) -> bool:
    """Whether anything is in its uppers, but for mount points that the engine made there."""
    from lamina.engine.within import maps_of, reach

    if chains.pending(asked):
        return False  # an upper is just becoming a state
    made = [os.fsencode(str(one)) for one in asked.get("made") or ()]
    try:
        found: bool = reach(
            lambda: maps_of(asked), holds_something, stacks_of(asked.get("overlays") or [], home.path), made
        )
    except FileNotFoundError:
        return False  # it stands on another state by now
    return found


def holds_something(stacks: list[tuple[bytes, MountSpec]], made: list[bytes]) -> bool:
    """Whether an upper of *stacks*, by their places, has an entry that is more than one of *made*. Raises OSError."""
    for at, spec in stacks:
        if spec.upperdir is None:
            continue
        names = list(map(os.fsencode, os.listdir(spec.upperdir)))
        if not names:
            continue
        above = at.rstrip(b"/") + b"/"
        of_it = [path[len(above) :] for path in made if path.startswith(above)]
        if not set(names) <= set(idle(spec, of_it)):
            return True
    return False
