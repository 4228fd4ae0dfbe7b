"""Long text on a terminal, through $PAGER."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable

from lamina.cli import output


def page(lines: Iterable[str]) -> None:
    """Show *lines* through the pager where standard output is a terminal, else write them."""
    command = os.environ.get("LAMINA_PAGER", os.environ.get("PAGER", "less"))
    if not output.is_terminal() or command in ("", "cat") or not shutil.which(command.split()[0]):
        output.lines(lines)
        return
    # -F: leave at once if it fits; -R: colours; -X: leave it on the screen. What the user set wins.
    settings = {"LESS": "FRX", **os.environ}
    with subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE, env=settings) as pager:
        assert pager.stdin is not None
        try:
            for line in lines:
                pager.stdin.write((line + "\n").encode("utf-8", "surrogateescape"))
            pager.stdin.close()
        except BrokenPipeError:  # left before the end
            pass
        _wait(pager)


def _wait(pager: subprocess.Popen[bytes]) -> None:
    """Ctrl-C in a pager is the pager's."""
    while True:
        try:
            pager.wait()
            return
        except KeyboardInterrupt:
            continue
