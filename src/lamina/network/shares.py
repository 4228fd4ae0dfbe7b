"""How much of a second each of those who ask has had: who asks much, or what takes long, is to leave time to others.

There is one thread for all. What a question costs is up to who asks it, and to the servers that answer it: so not only
questions are counted, but the processor's time that was spent on them. How long that took by the clock is up to
whatever else this machine does just then, and nobody is to answer for it.
"""

from __future__ import annotations

from time import monotonic, thread_time

MOST_A_SECOND = 2000  # datagrams of one container; what is beyond is not looked at
MOST_OF_A_SECOND = (
    0.25  # of what the thread gets of a second, where others have asked in this second or the last one
)
_LEAST = 0.01  # seconds of processor time that everybody has, however little there is


class Shares:
    """Of the second in which it is, by the address of who asks."""

    def __init__(self) -> None:
        self._second = 0
        self._heard: dict[str, int] = {}
        self._spent: dict[str, float] = {}
        # seconds for which there was work, and no processor for it: in this second, and in the last one
        self._lost = self._lost_before = 0.0
        self._before: frozenset[str] = frozenset()

    def hear(self, source: str) -> bool:
        """Whether one more datagram of *source* is to be looked at."""
        self._look()
        self._heard[source] = count = self._heard.get(source, 0) + 1
        return count <= MOST_A_SECOND and not self.has_had_enough(source)

    def has_had_enough(self, source: str) -> bool:
        """Whether *source* has had its time, and others have asked as well."""
        self._look()
        there_is = 1.0 - max(self._lost, self._lost_before)
        if self._spent.get(source, 0.0) < max(_LEAST, MOST_OF_A_SECOND * there_is):
            return False
        return len(self._heard.keys() | self._before | {source}) > 1

    def begin(self) -> tuple[float, float]:
        """When work begins, for `spend`."""
        return monotonic(), thread_time()

    def spend(self, source: str, since: tuple[float, float]) -> None:
        """What this thread has done *since* then (`begin`) was for what *source* has asked."""
        began, had = since
        seconds = thread_time() - had
        self.charge(source, seconds)
        self._lost += max(0.0, monotonic() - began - seconds)

    def charge(self, source: str, seconds: float) -> None:
        """So much processor time was spent on what *source* has asked, here or elsewhere."""
        self._look()
        self._heard.setdefault(source, 0)
        self._spent[source] = self._spent.get(source, 0.0) + seconds

    def _look(self) -> None:
        if (second := int(monotonic())) == self._second:
            return
        follows = second == self._second + 1
        self._before = frozenset(self._heard) if follows else frozenset()
        self._lost_before, self._lost = self._lost if follows else 0.0, 0.0
        self._second, self._heard, self._spent = second, {}, {}
