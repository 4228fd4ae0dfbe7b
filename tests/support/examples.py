"""The examples in Markdown documents: sessions to be executed and compared, and Python to be executed.

A fenced block marked `console` is a session: lines that begin with `$ ` are commands (`> ` continues one), the others
are what they print. In the expected output `...` stands for anything, alone in a line for any number of lines.
A block marked `python` is executed. `<!-- not executed: why -->` before a block exempts it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(
    r"(?:^<!-- not executed: (?P<why>.+) -->\n+)?^```(?P<kind>console|python)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
BETWEEN = "\x01between two commands\x01"


@dataclass
class Block:
    """One fenced block of *kind* `console` or `python`, in *line* of its document; *why* it is not executed."""

    kind: str
    text: str
    line: int
    why: str | None = None


@dataclass
class Command:
    """One command of a session and the lines that it is said to print."""

    text: str
    expected: list[str] = field(default_factory=list)


def blocks(document: Path) -> Iterator[Block]:
    """The blocks of *document* that are examples."""
    text = document.read_text()
    for found in FENCE.finditer(text):
        yield Block(found["kind"], found["text"], text.count("\n", 0, found.start()) + 1, found["why"])


def session(text: str) -> list[Command]:
    """The commands of a `console` block."""
    commands: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif not commands:
            raise ValueError(f"a session begins with a command, not with {line!r}")
        elif line.startswith("> ") and not commands[-1].expected:
            commands[-1].text += "\n" + line[2:]
        else:
            commands[-1].expected.append(line)
    return commands


def play(
    commands: list[Command], directory: Path, environment: Mapping[str, str], timeout: float
) -> list[list[str]]:
    """Execute *commands* in one shell in *directory*: the lines that each one prints (both streams)."""
    script = "exec 2>&1\n" + "".join(f"{one.text}\nprintf '%s\\n' '{BETWEEN}'\n" for one in commands)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        timeout=timeout,
    )
    parts = done.stdout.split(f"{BETWEEN}\n")
    printed = [[line.rstrip() for line in part.splitlines()] for part in parts]
    return [*printed, *([["(the shell had left)"]] * len(commands))][: len(commands)]


def agrees(expected: list[str], printed: list[str]) -> bool:
    """Whether *printed* is what *expected* says, `...` standing for anything."""
    pattern = "".join(
        r"(?:.*\n)*"
        if line.strip() == "..."
        else ".*".join(map(re.escape, line.rstrip().split("..."))) + r"\n"
        for line in expected
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None
