"""A progress bar on the terminal, for what takes so long that somebody wonders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lamina.cli import output

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from lamina.engine.progress import Progress, Tell

# what is done sooner needs no bar
SOON = 0.3


@contextmanager
def bar(what: str) -> Iterator[Tell | None]:
    """Whom to tell how far *what* has got; None where there is no terminal to draw on. The bar is gone at the end."""
    if not output.is_terminal(2):
        yield None
        return
    shown = _Bar(what)
    try:
        yield shown.tell
    finally:
        shown.close()


class _Bar:
    def __init__(self, what: str) -> None:
        self._what, self._begun = what, time.monotonic()
        self._bars: Bars | None = None

    def tell(self, progress: Progress) -> None:
        if self._bars is None:
            if time.monotonic() - self._begun < SOON:
                return
            self._bars = _bars()
            self._task = self._bars.add_task(self._what, total=1.0, counts="")
            self._bars.start()
        self._bars.update(self._task, completed=progress.fraction, counts=counts(progress), refresh=True)

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()


def counts(progress: Progress) -> str:
    """`1,234 of 5,000 paths, 3.0 MB of 12.1 MB`"""
    from lamina.engine.quantities import size

    said = f"{progress.paths:,} of {progress.of_paths:,} paths"
    if progress.of_bytes:
        said += f", {size(progress.bytes)} of {size(progress.of_bytes)}"
    return said


def _bars() -> Bars:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=output.console(2),
        transient=True,
        auto_refresh=False,  # no thread: whoever tells us draws
        expand=True,
    )
