"""How much of a second each of those who ask has had: who asks much, or what takes long, is to leave time to others.

There is one thread for all. What a question costs is up to who asks it, and to the servers that answer it: so not only
questions are counted, but the time that was spent on them.
"""

from __future__ import annotations

from time import monotonic

MOST_A_SECOND = 2000  # datagrams of one container; what is beyond is not looked at
MOST_OF_A_SECOND = 0.25  # seconds, where others have asked in this second or the last one


class Shares:
    """Of the second in which it is, by the address of who asks."""

    def __init__(self) -> None:
        self._second = 0
        self._heard: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        self._before: frozenset[str] = frozenset()

    def hear(self, source: str) -> bool:
        """Whether one more datagram of *source* is to be looked at."""
        self._look()
        self._heard[source] = count = self._heard.get(source, 0) + 1
        return count <= MOST_A_SECOND and not self.has_had_enough(source)

    def has_had_enough(self, source: str) -> bool:
        """Whether *source* has had its time, and others have asked as well."""
        self._look()
        if self._spent.get(source, 0.0) < MOST_OF_A_SECOND:
            return False
        return len(self._heard.keys() | self._before | {source}) > 1

    def spend(self, source: str, since: float) -> None:
        """The time *since* was spent on what *source* has asked."""
        now = monotonic()
        self._look()
        self._heard.setdefault(source, 0)
        self._spent[source] = self._spent.get(source, 0.0) + now - since

    def _look(self) -> None:
        if (second := int(monotonic())) == self._second:
            return
        self._before = frozenset(self._heard) if second == self._second + 1 else frozenset()
        self._second, self._heard, self._spent = second, {}, {}
