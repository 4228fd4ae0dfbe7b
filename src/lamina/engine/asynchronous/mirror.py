"""What the mirrored classes are made on (scripts/mirror): the engine's own object, and where a thread works on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")


class Mirrored:
    """Has the verbs of an object of the engine, which threads do."""

    _sync: Any

    def _do(self, work: Callable[[], T]) -> Callable[[], T]:
        """What a thread is given to do for *work*."""
        return work


def sync_of(one: Any) -> Any:
    """The engine's own object of which *one* is the mirror; *one* itself, if it is none."""
    return one._sync if isinstance(one, Mirrored) else one
