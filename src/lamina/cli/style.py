"""Colours by what they mean. A `Style` for a place without colours gives the text back as it is."""

from __future__ import annotations

from lamina.cli import output

CODES = {
    "added": "32",
    "changed": "33",
    "deleted": "1;31",
    "replaced": "35",
    "strong": "1",
    "weak": "2",
    "good": "32",
    "bad": "1;31",
    "warning": "33",
    "name": "36",
    "plain": "0",
}


class Style:
    """`style("deleted", "D /etc/motd")` on the descriptor it was made for."""

    def __init__(self, descriptor: int = 1) -> None:
        self.on = output.is_coloured(descriptor)

    def __call__(self, meaning: str, text: str) -> str:
        return f"\033[{CODES[meaning]}m{text}\033[0m" if self.on and text else text
