"""Holding a container for what is done with its states: it does not run and is held, or it runs and nobody else changes
what it stands on meanwhile. What somebody left half done who was killed is finished first.
"""

from __future__ import annotations

import time

from lamina.engine import chains
from lamina.engine.holding import Held
from lamina.engine.settling import state_of
from lamina.errors import Conflict
from lamina.store import snapshots
from lamina.store.containers import LIVING, RESTARTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.containers import Home
    from lamina.store.lock import Lock

# how long is waited for one that is just being started again, or ends
PATIENCE = 10.0


class StateTurn:
    """The turn on the states of the container at *home*, for the time of a `with`; *verb* is what it is for.

    `living`: something of it runs, and goes on. `notes` are what is to be said of what was done. Raises NotFound,
    Conflict (in use by another command), Corrupt.
    """

    def __init__(self, home: Home, verb: str) -> None:
        self.home, self._verb = home, verb
        self.living = False
        self.notes: list[str] = []  # what is to be said of what was done
        self._held: Held | None = None
        self._turn: Lock | None = None

    def __enter__(self) -> StateTurn:
        try:
            self._take()
            self._settle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        turn, self._turn = self._turn, None
        held, self._held = self._held, None
        if turn is not None:
            turn.release()
        if held is not None:
            held.__exit__()

    def _take(self) -> None:
        """The container's lock first; of one that runs the turn alone, and then it must still run."""
        deadline, pause = time.monotonic() + PATIENCE, 0.001
        while True:
            state = state_of(self.home)
            if state not in LIVING:
                held = Held(self.home, self._verb)
                try:
                    held.__enter__()
                except Conflict:
                    if state_of(self.home) not in LIVING:
                        raise
                    continue  # it was just being started
                self._held = held
                self._turn = snapshots.turn(self.home)
                return
            turn = snapshots.turn(self.home)
            if (state := state_of(self.home)) in LIVING and state != RESTARTING:
                self._turn, self.living = turn, True
                return
            turn.release()
            if time.monotonic() > deadline:
                raise Conflict(
                    f"{self._verb} container {self.home.shown}: it is restarting",
                    remedy="wait until it runs, or stop it",
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def _settle(self) -> None:
        """Of one that does not run, whoever holds it has done that."""
        if self.living and chains.pending(self.home.asked()):
            from lamina.engine.freezing import settle

            settle(self.home, living=self.living)

    @property
    def asked(self) -> dict[str, Any]:
        """The container's record, as it is now."""
        return self.home.asked()
