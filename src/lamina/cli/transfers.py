"""How far a pull, push or load has got: a bar for each layer on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from lamina.cli import output

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

SHORT = 12
BESIDE = (
    58  # columns of a line without its bar: "b5ee7cc9846e  120.0/158.6 MB 18.1 MB/s Layer already exists"
)
WORDS = {
    "resolving": "",
    "layer": "Pulling fs layer",
    "exists": "Already exists",
    "unpacking": "Extracting",
    "mounted": "Mounted",
    "waiting": "Waiting",
    "packing": "Packing",
    "packed": "Packed",
    "done": "Pull complete",
}
# of archives nothing is said where no bars are drawn, as with docker
QUIETLY = {"Load": "Loading", "Save": "Saving", "Import": "Importing"}
# while it moves, on a terminal
MOVING = {"Pull": "Downloading", "Push": "Pushing"}
PUSHED = {"layer": "Preparing", "exists": "Layer already exists", "done": "Pushed"}


class Transfer:
    """Use as a context; `event` is what the engine tells. Safe to be told from several threads."""

    def __init__(self, *, quiet: bool = False, stream: int = 2, verb: str = "Pull") -> None:
        """*stream* is where it is said: 1, or 2 where standard output is the command's."""
        self.quiet, self.stream = quiet, stream
        self.verb, self.doing = verb, f"{verb}ing"
        self.words = {**WORDS, **PUSHED} if verb == "Push" else WORDS
        self.plainly = verb not in QUIETLY
        if not self.plainly:
            self.words = {**WORDS, "layer": QUIETLY[verb], "done": "Done"}
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._moving: set[str] = set()
        self._last: list[str] = []

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
            for line in self._last:  # below the bars, not among them
                self._say(line)

    def event(self, kind: str, **facts: Any) -> None:
        """Something happened: see `Engine.pull`."""
        if kind == "warning":  # also to those who want to hear of nothing else
            self._warn(str(facts.get("text", "")))
            return
        if self.quiet:
            return
        with self._lock:
            if (identity := str(facts.get("id") or "")) == "":
                self._whole(kind, facts)
            elif self._bars is not None:
                self._draw(kind, identity, facts)
            elif kind == "retrying":
                self._say_retry(f"{_short(identity)}: ", facts)
            elif self.plainly and (word := self.words.get(kind)):
                self._say(f"{_short(identity)}: {word}")

    def _warn(self, text: str) -> None:
        """On standard error, or above the bars."""
        from lamina.cli.report import say

        with self._lock:
            if self._bars is not None:
                self._say(f"lamina: warning: {text}")
            else:
                say(f"warning: {text}")

    def _whole(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "retrying":
            self._say_retry("", facts)
        elif kind == "resolving":
            self._say(f"{self.doing} {facts.get('reference', '')}")
        elif kind == "done" and facts.get("digest") and self.verb == "Pull":
            said = [f"Digest: {facts['digest']}"]
            if name := facts.get("reference"):
                known = facts.get("known")
                said.append(
                    f"Status: {'Image is up to date' if known else 'Downloaded newer image'} for {name}"
                )
            if self._bars is not None:
                self._last += said
            else:
                for line in said:
                    self._say(line)

    def _say_retry(self, whose: str, facts: dict[str, Any]) -> None:
        """Once for each pause: `left` counts down, for those who can draw it."""
        if facts["left"] == facts["seconds"]:
            self._say(f"{whose}{_retrying(facts)} ({facts['reason']})")

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
            total = facts.get("total") or None  # 0: nobody knows yet
            task = self._tasks[identity] = self._bars.add_task(
                _short(identity), total=total, state="", sized=total is not None
            )
            self._totals[identity] = total or 1
        if kind == "progress":
            self._bars.update(task, advance=facts.get("bytes", 0))
            if identity not in self._moving and self.verb in MOVING:
                self._moving.add(identity)
                self._bars.update(task, state=MOVING[self.verb])
        elif kind in ("done", "exists", "mounted", "packed"):
            total = self._totals[identity]
            self._bars.update(task, total=total, completed=total, state=self.words[kind])
            if kind != "done":  # nothing was moved
                self._bars.update(task, sized=False)
        elif kind == "retrying":
            self._bars.update(task, state=_retrying(facts))
            self._moving.discard(identity)  # when it moves again, that is said
        elif kind in self.words:
            self._bars.update(task, state=self.words[kind])


def _retrying(facts: dict[str, Any]) -> str:
    """docker's words."""
    left = facts["left"]
    return f"Retrying in {left} second{'' if left == 1 else 's'}"


def _short(identity: str) -> str:
    return identity.removeprefix("sha256:")[:SHORT]


def _bars(stream: int) -> Progress:
    from rich.progress import BarColumn, DownloadColumn, Progress, Task, TextColumn, TransferSpeedColumn
    from rich.table import Column
    from rich.text import Text

    class Size(DownloadColumn):
        """Nothing where the size is not known, or nothing moves."""

        def render(self, task: Task) -> Text:
            return super().render(task) if task.fields["sized"] else Text()

    class Speed(TransferSpeedColumn):
        def render(self, task: Task) -> Text:
            known = task.fields["sized"] and (task.finished_speed or task.speed)
            return super().render(task) if known else Text()

    console = output.console(stream)
    whole = [
        Column(no_wrap=True) for _ in range(5)
    ]  # a narrow terminal shortens the bars, and breaks no line
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=whole[0]),
        BarColumn(bar_width=max(5, min(30, console.width - BESIDE)), table_column=whole[1]),
        Size(table_column=whole[2]),
        Speed(table_column=whole[3]),
        TextColumn("{task.fields[state]}", markup=False, table_column=whole[4]),
        console=console,
    )
