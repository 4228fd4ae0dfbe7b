"""Asking before something goes for good."""

from __future__ import annotations

import sys

from lamina.errors import InvalidInput


def confirmed(what: str, verb: str) -> bool:
    """Whether somebody at the terminal says yes to *what*, for *verb*. Raises InvalidInput if nobody can be asked."""
    if not sys.stdin.isatty():
        raise InvalidInput(f"{verb}: there is no terminal to ask on", remedy="say -f if it is meant")
    sys.stderr.write(f"{what}\nGo on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
