"""Command lines done in this process, a forked one of a test: their status, and what they say on standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lamina.cli.entry import command_line


class Said:
    """Standard input and output of this process are nobody's from now on; standard error is a file in *place*."""

    def __init__(self, place: Path) -> None:
        self.file = open(place / "said", "w+b", buffering=0)  # noqa: SIM115
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(self.file.fileno(), 2)

    def __call__(self, *argv: str) -> tuple[int, str]:
        """Do it."""
        os.ftruncate(self.file.fileno(), 0)
        os.lseek(2, 0, os.SEEK_SET)
        status = command_line(argv)
        sys.stderr.flush()
        return status, os.pread(self.file.fileno(), 1 << 20, 0).decode(errors="replace")


def accident(status: int, text: str) -> str:
    """What is wrong with that answer, whatever was asked for; "" if nothing is."""
    if "Traceback" in text or "internal error" in text:
        return f"breaks: {text[-1500:]}"
    if status not in (0, 1, 125):
        return f"exits with {status}: {text}"
    if status == 125 and not text.startswith(("lamina: ", "warning: ")):
        return f"says {text!r}"
    if "\x1b" in text:
        return f"moves the terminal's cursor: {text!r}"
    return ""
