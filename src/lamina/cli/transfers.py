"""How far a pull, push or load has got: a bar for each layer on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lamina.cli import output

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

SHORT = 12
WORDS = {
    "resolving": "",
    "layer": "Pulling fs layer",
    "exists": "Already exists",
    "unpacking": "Extracting",
    "mounted": "Mounted",
    "waiting": "Waiting",
    "done": "Pull complete",
}
# of archives nothing is said where no bars are drawn, as with docker
QUIETLY = {"Load": "Loading", "Save": "Saving", "Import": "Importing"}
PUSHED = {"layer": "Preparing", "exists": "Layer already exists", "done": "Pushed", "packing": "Packing"}


class Transfer:
    """Use as a context; `event` is what the engine tells. Safe to be told from several threads."""

    def __init__(self, *, quiet: bool = False, stream: int = 2, verb: str = "Pull") -> None:
        """*stream* is where it is said: 1, or 2 where standard output is the command's."""
        self.quiet, self.stream = quiet, stream
        self.doing = f"{verb}ing"
        self.words = {**WORDS, **PUSHED} if verb == "Push" else WORDS
        self.plainly = verb not in QUIETLY
        if not self.plainly:
            self.words = {**WORDS, "layer": QUIETLY[verb], "done": "Done"}
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}

    def __enter__(self) -> Transfer:
        if not self.quiet and output.is_terminal(self.stream):
            self._bars = _bars(self.stream)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def event(self, kind: str, **facts: Any) -> None:
        """Something happened: see `Engine.pull`."""
        if self.quiet:
            return
        with self._lock:
            if kind == "warning":
                self._say(f"warning: {facts.get('text', '')}")
            elif (identity := str(facts.get("id") or "")) == "":
                self._whole(kind, facts)
            elif self._bars is not None:
                self._draw(kind, identity, facts)
            elif self.plainly and (word := self.words.get(kind)):
                self._say(f"{_short(identity)}: {word}")

    def _whole(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "resolving":
            self._say(f"{self.doing} {facts.get('reference', '')}")
        elif kind == "done" and facts.get("digest"):
            self._say(f"Digest: {facts['digest']}")

    def _say(self, text: str) -> None:
        from lamina.cli.quoting import harmless

        text = harmless(text)
        if self._bars is not None:
            self._bars.console.print(text, markup=False)
        elif self.stream == 1:
            output.line(text)
        else:
            import sys

            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _draw(self, kind: str, identity: str, facts: dict[str, Any]) -> None:
        assert self._bars is not None
        task = self._tasks.get(identity)
        if task is None:
            total = facts.get("total")
            task = self._tasks[identity] = self._bars.add_task(_short(identity), total=total, state="")
            self._totals[identity] = int(total or 0)
        if kind == "progress":
            self._bars.update(task, advance=facts.get("bytes", 0))
        elif kind in ("done", "exists", "mounted"):
            total = self._totals[identity] or 1
            self._bars.update(task, total=total, completed=total, state=self.words[kind])
        elif kind in self.words:
            self._bars.update(task, state=self.words[kind])


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:SHORT]


def _bars(stream: int) -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        console=output.console(stream),
    )
