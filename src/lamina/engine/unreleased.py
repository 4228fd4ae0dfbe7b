"""Containers that have ended and could not give back what they had of networks: a disk was full at that moment, or
somebody was killed who cleaned up.

Nobody looks after them any more, so nobody tries again by himself. Whoever wants an address or a port does, and so does
`system check`.
"""

from __future__ import annotations

from lamina.engine.network_record import RECORD, Ledger
from lamina.errors import Conflict, Corrupt, LaminaError
from lamina.store import containers
from lamina.store.containers import PAUSED, RUNNING, Home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from lamina.store.root import Store


def left(store: Store) -> list[Home]:
    """Of all containers. Raises OSError."""
    every = (Home(store, identity) for identity in containers.identities(store))
    return [home for home in every if home.has(RECORD) and has_ended(home)]


def has_ended(home: Home) -> bool:
    """Whether nothing of it runs, and nobody is busy with it."""
    from lamina.engine.settling import state_of

    try:
        return not home.is_looked_after() and state_of(home) not in (RUNNING, PAUSED)
    except LaminaError:  # it has just gone, or is damaged
        return False


def title_of(home: Home) -> str:
    """What its record calls it; its short id where that is damaged."""
    try:
        titles = [one.title for one in Ledger.of(home).attachments]
    except LaminaError:
        titles = []
    return titles[0] if titles else home.short_id


def give_back(home: Home) -> None:
    """Give it back now. Nobody is waited for, so whoever has a container's turn may do it for another one. Raises
    Conflict where somebody is busy with it, KernelError, Corrupt, OSError.
    """
    from lamina.engine.plugging import release

    if not home.hold():
        raise Conflict(f"container {home.short_id}: somebody is busy with it", remedy="try again")
    try:
        if not release(home, wait=False):
            raise Conflict(f"container {home.short_id}: somebody has its turn", remedy="try again")
    except Corrupt as failure:
        raise Corrupt(
            failure.message, remedy=f"'lamina rm {home.short_id}', then 'lamina system check --repair'"
        ) from None
    finally:
        home.release()


def give_back_each(store: Store, owners: Iterable[str]) -> bool:
    """Give back what those of *owners* have who have ended; whether that was anything."""
    done = False
    for owner in set(owners):
        home = Home(store, owner)
        try:
            if home.has(RECORD) and has_ended(home):
                give_back(home)
                done = True
        except (OSError, LaminaError):  # it stays as it is
            continue
    return done
