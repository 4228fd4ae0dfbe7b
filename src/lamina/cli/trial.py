"""`lamina try`, step by step: say what is not virtual, run, show what it did, ask, act.

Everything Lamina itself says goes to standard error: standard output is the command's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lamina.cli.applying import apply, clash_lines, outcome, remove
from lamina.cli.asked import shell, warn
from lamina.cli.output import is_terminal
from lamina.cli.quoting import harmless
from lamina.cli.report import INTERRUPTED, say
from lamina.cli.reviewing import patch, summary
from lamina.cli.style import Style
from lamina.errors import HostChanged, LaminaError

if TYPE_CHECKING:
    from lamina.engine import Completed, Container
    from lamina.engine.apply.values import HostChange


# What a command may have left a terminal in: the alternate screen, concealed letters, a window of a few lines, another
# alphabet, no cursor. Each would hide what is about to be read. First DECSTR (VT220), then what it means, for
# terminals that do not know it; the margins with the cursor kept, which they would send home. (ctlseqs, xterm)
_AS_NEW = b"\x1b[?47l\x1b[!p\x1b[?6l\x1b7\x1b[r\x1b8\x1b(B\x0f\x1b[0m\x1b[?25h"


class Trial:
    """One command tried over the host. *wish* is "yes", "no", "keep", or "" to ask."""

    def __init__(self, root: str | None, name: str | None, network: str, wish: str) -> None:
        from lamina.engine import Engine

        self.engine, self.name, self.network, self.wish = Engine(root), name, network, wish
        self.style = Style(2)

    def run(self, command: Sequence[str]) -> int:
        """Try *command*, or a shell if it is ().

        The command's exit status, whatever became of its changes; 125 if they could not be applied as wished.
        """
        self._tell([self._what_is_real(), *self._how_to_leave(command)])
        # for the prompt of Debian's bash: a shell that looks like one's own is taken for it
        environment = {**os.environ} if command else {**os.environ, "debian_chroot": "lamina try"}
        done = self._execute(command or shell(), environment)
        container = self.engine.container(done.container)
        changes = container.changes()
        if is_terminal(2):
            os.write(2, _AS_NEW)
        self._tell(["", *self._what_happened(done, changes)])
        try:
            return self._decide(done, container, changes)
        except KeyboardInterrupt:
            self._tell(["", *self._kept(container)])
            return INTERRUPTED

    def _execute(self, command: Sequence[str], environment: dict[str, str]) -> Completed:
        return self.engine.run(
            "host",
            command,
            name=self.name,
            network=self.network,
            env=environment,
            interactive=True,
            tty=on_terminal(),
            forward_signals=True,
            on_warning=warn,
        )

    def _decide(self, done: Completed, container: Container, changes: Sequence[HostChange]) -> int:
        if not changes:
            if self.wish != "keep":
                container.remove()
                return done.returncode
            self._tell(self._kept(container))
        elif self.wish == "no":
            self._discard(container)
        elif self.wish == "yes" and not done.returncode:
            return self._apply(container, done.returncode)
        elif self.wish == "yes":
            self._tell(
                [self.style("warning", "not applied, because the command failed"), *self._kept(container)]
            )
        elif self.wish == "keep" or not _can_ask():
            self._tell(self._kept(container))
        else:
            return self._ask(done, container, changes)
        return done.returncode

    # -- what is said

    def _what_is_real(self) -> str:
        network = "the network, " if self.network == "host" else ""
        what = f"{network}devices, the clock, and what other programs do meanwhile"
        return self.style("weak", f"lamina: files are virtual here; not virtual: {what}")

    def _how_to_leave(self, command: Sequence[str]) -> Iterable[str]:
        if not command:
            yield self.style(
                "weak", "lamina: leave the shell (exit, or Ctrl-D) to see what it did, and to decide"
            )

    def _what_happened(self, done: Completed, changes: Sequence[HostChange]) -> Iterable[str]:
        meaning = "bad" if done.returncode else "good"
        yield self.style(meaning, f"lamina: exit status {done.returncode}") + (
            "; not yet done to this system:" if changes else ""
        )
        yield from summary(changes, "" if self.wish == "no" else done.name, self.style)

    def _kept(self, container: Container) -> Iterable[str]:
        name = container.name
        yield f"kept as {self.style('name', name)}:"
        yield f"  lamina diff {name}     shows what it did"
        yield f"  lamina apply {name}    does it"
        yield f"  lamina rm {name}       discards it"

    def _tell(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        while text:
            text = text[os.write(2, text) :]

    # -- what is done

    def _apply(self, container: Container, status: int, force: bool = False) -> int:
        try:
            applied = apply(container, (), (), force)
        except LaminaError:
            self._tell(self._kept(container))
            raise
        self._tell(outcome(applied, container.name, self.style))
        return status

    def _discard(self, container: Container) -> None:
        remove(container)
        self._tell(["discarded"])

    def _ask(self, done: Completed, container: Container, changes: Sequence[HostChange]) -> int:
        refused = False
        while True:
            answer = _answer(self._question(refused))
            if answer in ("v", "view"):
                with_colours = Style(1)
                from lamina.cli.pager import page

                page(patch(container, changes, with_colours))
            elif answer in ("d", "discard"):
                self._discard(container)
                return done.returncode
            elif answer in ("k", "keep", ""):
                self._tell(self._kept(container))
                return done.returncode
            elif answer in ("a", "apply") or (refused and answer in ("f", "force")):
                try:
                    return self._apply_asked(container, done.returncode, force=answer[0] == "f")
                except HostChanged as error:
                    refused = True
                    say(error.message.partition("\n")[0])
                    self._tell(clash_lines(error.clashes))  # type: ignore[arg-type]  # errors knows no engine
            else:
                self._tell([f"'{harmless(answer)}' is none of them"])

    def _apply_asked(self, container: Container, status: int, force: bool) -> int:
        self._tell(outcome(apply(container, (), (), force), container.name, self.style))
        return status

    def _question(self, refused: bool) -> str:
        # the capital is what an empty answer means
        choices = [("a", "pply"), ("d", "iscard"), ("v", "iew the diff"), ("K", "eep")]
        if refused:
            choices.insert(1, ("f", "orce"))
        return ", ".join(f"[{self.style('strong', key)}]{rest}" for key, rest in choices) + "? "


def on_terminal() -> bool:
    """Whether the command is to have a terminal: there is one to read from and one to draw on."""
    return os.isatty(0) and os.isatty(1)


def _can_ask() -> bool:
    return os.isatty(0) and os.isatty(2)


def _answer(question: str) -> str:
    """A line from the terminal; "" at its end. What was typed before the question was not meant for it."""
    import termios

    termios.tcflush(0, termios.TCIFLUSH)
    os.write(2, question.encode())
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1024)
        if not piece:
            os.write(2, b"\n")
            break
        line += piece
    return line.decode("utf-8", "replace").strip().lower()
