"""Where states come from: from one another, and, of a fork, from a state of the container that it was forked from."""

from __future__ import annotations

from lamina.errors import Corrupt, NotFound
from lamina.store import snapshots
from lamina.store.containers import Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lamina.store.snapshots import SnapshotRecord


def ancestors(home: Home, asked: dict[str, Any]) -> Iterator[tuple[Home, SnapshotRecord]]:
    """The states that the container at *home*, whose record is *asked*, comes from, the latest first, each with the
    container that it is of. States that were removed are passed over. Raises Corrupt, KernelError.
    """
    state = snapshots.current(home, asked)
    seen: set[str] = set()
    while True:
        while state is not None:
            if state in seen:
                raise Corrupt(f"snapshot {state[:12]} of container {home.shown}: it comes from itself")
            seen.add(state)
            kept = snapshots.get(home, state)
            if kept is None:
                break
            yield home, kept
            state = kept.parent
        forked = asked.get("forked") or {}
        home = Home(home.store, str(forked.get("container") or ""))
        if not forked or not home.id or home.id in seen:
            return
        seen.add(home.id)
        try:
            asked = home.asked()
        except NotFound:
            return
        found = str(forked.get("snapshot") or "")
        state = snapshots.current(home, {"snapshot": found})


def common_ancestor(one: Home, other: Home) -> tuple[Home, SnapshotRecord]:
    """The latest state that both containers come from. Raises NotFound, Corrupt, KernelError."""
    asked, others = one.asked(), other.asked()
    known = {kept.id for _, kept in ancestors(one, asked)}
    for home, kept in ancestors(other, others):
        if kept.id in known:
            return home, kept
    raise NotFound(
        f"compare containers {asked['name']} and {others['name']}: there is no state that both come from",
        remedy="forks of a container, and it, have one, unless that snapshot was removed, or the container",
    )
