"""How far a long piece of work has got, for whoever waits for it."""

from __future__ import annotations

import time

from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Tell = Callable[["Progress"], None]

BETWEEN = 0.05  # seconds: nobody reads faster
PATH_WEIGHT = 8192  # bytes that take about as long to write as an entry takes to make


@value
class Progress:
    """`paths` of `of_paths` entries are done, and `bytes` of `of_bytes` of file contents. Never more than all."""

    paths: int
    of_paths: int
    bytes: int = 0
    of_bytes: int = 0

    @property
    def fraction(self) -> float:
        """How much of the work that is, from 0 to 1."""
        whole = self.of_paths * PATH_WEIGHT + self.of_bytes
        return (self.paths * PATH_WEIGHT + self.bytes) / whole if whole else 1.0


class Meter:
    """Counts what was done and tells *tell*, now and then; None: nobody wants to know."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell, self._told = tell, 0.0
        self._paths = self._of_paths = self._bytes = self._of_bytes = 0

    def expect(self, paths: int, size: int = 0) -> None:
        """So many entries, and bytes of contents, are to be done (more)."""
        self._of_paths += paths
        self._of_bytes += size
        self._say()

    @property
    def done(self) -> int:
        """How many entries were said to be done."""
        return self._paths

    def path(self) -> None:
        """One entry is done."""
        self._paths += 1
        self._say()

    def paths_are(self, done: int) -> None:
        """*done* entries are done by now, at least."""
        self._paths = max(self._paths, done)
        self._say()

    def written(self, size: int) -> None:
        """So many bytes of contents are done."""
        self._bytes += size
        self._say()

    def _say(self) -> None:
        if self._tell is None:
            return
        now = time.monotonic()
        if now - self._told >= BETWEEN:
            self._told = now
            paths, size = min(self._paths, self._of_paths), min(self._bytes, self._of_bytes)
            self._tell(Progress(paths, self._of_paths, size, self._of_bytes))


NOBODY = Meter(None)
