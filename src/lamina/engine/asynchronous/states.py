"""What verbs about states answer, for event loops: the snapshots in it are those whose verbs are to be awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.engine.asynchronous.snapshot import AsyncSnapshot
from lamina.values import value

if TYPE_CHECKING:
    from lamina.engine.merged_layer import Clash
    from lamina.engine.merging import Merge
    from lamina.engine.state_log import LoggedState, StateLog


class AsyncMerge:
    """What came, or would come, of a merge: see `lamina.engine.merging.Merge`."""

    def __init__(self, merge: Merge) -> None:
        self._sync = merge
        self.taken: tuple[tuple[bytes, str], ...] = merge.taken
        self.clashes: tuple[Clash, ...] = merge.clashes
        self.snapshot = None if merge.snapshot is None else AsyncSnapshot(merge.snapshot)

    def __repr__(self) -> str:
        return f"Async{self._sync!r}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncMerge) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)


@value
class AsyncLoggedState:
    """A snapshot among the others of its container: see `lamina.engine.state_log.LoggedState`."""

    snapshot: AsyncSnapshot
    parent: str | None
    here: bool
    forks: tuple[str, ...]


class AsyncStateLog:
    """All states of a container: see `lamina.engine.state_log.StateLog`."""

    def __init__(self, log: StateLog) -> None:
        self._sync = log
        self.name, self.begins, self.here, self.written = log.name, log.begins, log.here, log.written
        self.states = tuple([_logged(one) for one in log.states])

    def __repr__(self) -> str:
        return f"Async{self._sync!r}"

    def __eq__(self, other: object) -> bool:
        return self._sync == other._sync if isinstance(other, AsyncStateLog) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sync)


def _logged(one: LoggedState) -> AsyncLoggedState:
    return AsyncLoggedState(AsyncSnapshot(one.snapshot), one.parent, one.here, one.forks)


__all__ = ["AsyncLoggedState", "AsyncMerge", "AsyncStateLog"]
