"""Every flag of docker's, as tests/data/docker-flags.txt has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent.parent / "data/docker-flags.txt"
LINE = re.compile(
    r"(?P<verb>[a-z ]+?) --(?P<name>[a-z0-9-]+)(?: -(?P<short>\w))?(?P<value> VALUE)?: (?P<word>.*)"
)


class Flag(NamedTuple):
    """One: `short` is "" where there is none, `takes` whether it takes a value, `word` what became of it."""

    verb: str
    name: str
    short: str
    takes: bool
    word: str

    def __str__(self) -> str:
        return f"{self.verb} --{self.name}"


def flags() -> list[Flag]:
    found = []
    for line in DATA.read_text().splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match is not None, line
            found.append(
                Flag(match["verb"], match["name"], match["short"] or "", bool(match["value"]), match["word"])
            )
    return found


FLAGS = flags()
