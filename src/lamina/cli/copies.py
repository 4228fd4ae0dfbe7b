"""How far a copy has got: one line on a terminal, once it takes longer than one waits for without wondering."""

from __future__ import annotations

import sys
import time

from lamina.cli import output
from lamina.cli.sizes import human

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

PATIENCE, BETWEEN = 0.5, 0.1  # seconds until something is said, and between two times


class Copying:
    """Use as a context; `at` is what the engine tells, from any one thread."""

    def __init__(self, direction: str, *, quiet: bool) -> None:
        """*direction*: "to" or "from" the container."""
        self._direction = direction
        self._draws = not quiet and output.is_terminal(2)
        self._next = 0.0
        self._drawn = False

    def __enter__(self) -> Copying:
        self._next = time.monotonic() + PATIENCE
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            self._write("")

    def at(self, size: int) -> None:
        """So many bytes are copied."""
        if not self._draws or (now := time.monotonic()) < self._next:
            return
        self._next = now + BETWEEN
        self._drawn = True
        self._write(f"Copying {self._direction} container - {human(size)}")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
