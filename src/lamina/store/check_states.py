"""What `check` looks at of the states of a container: its snapshots, and what somebody began with it who was killed."""

from __future__ import annotations

import os
from functools import partial

from lamina.errors import Corrupt
from lamina.store import layers, snapshots
from lamina.store.containers import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.store.references import ContainerUse
    from lamina.store.root import Store

    Found = Callable[..., None]


def check_states(
    store: Store, use: ContainerUse, damaged: Found, left_over: Found, settle: Callable[[Home], None] | None
) -> None:
    """Tell *damaged* and *left_over* (kind, what, problem, how it is mended) what is wrong with the states of *use*;
    *settle* finishes what was begun. Raises OSError.
    """
    home = Home(store, use.id)
    directory = snapshots.directory_of(home)
    for identity in sorted(snapshots.ids_in(directory)):
        shown, path = f"{use.shown}@{identity[:12]}", directory + b"/%b.json" % identity.encode()
        problem = ""
        try:
            kept = snapshots.read(directory, identity, use.id)
            gone = () if kept is None else [one for one in kept.referred if not layers.is_there(store, one)]
            if gone and os.path.lexists(path):
                problem = f"layer {gone[0][:12]} of it is missing"
        except Corrupt as error:
            problem = error.message.partition(": ")[2]
        if problem:
            damaged("snapshot", shown, problem, partial(_unlink, path))
    for name in snapshots.idle_names(home):
        path = directory + snapshots.NAMES + b"/" + os.fsencode(name)
        left_over("snapshot", f"{use.shown}@{name}", "the name of one that is gone", partial(_unlink, path))
    if settle is not None and _is_under_way(home) and not home.is_looked_after():
        problem = "a change of what it stands on was begun, and is not finished"
        left_over("container", use.shown, problem, partial(settle, home))


def unreadable(home: Home) -> str:
    """Why a record of what became of a container cannot be read, "" if all can."""
    for name in ("state", "exit", "failed"):
        try:
            home.read(name)
        except Corrupt as error:
            return f"{name}.json: {error.message.rpartition('.json: ')[2]}"
    return ""


def coming(home: Home) -> set[str]:
    """The layers that what it wrote was about to become: until that is finished they need not be there."""
    freezing = _record(home).get("freezing")
    return set((freezing or {}).get("places", {}).values())


def _is_under_way(home: Home) -> bool:
    asked = _record(home)
    return bool(asked.get("freezing") or asked.get("rewinding"))


def _record(home: Home) -> dict[str, Any]:
    try:
        return home.read("container") or {}
    except Corrupt:
        return {}


def _unlink(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
