"""How much of an archive is believed before it is refused, and how each limit is raised."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

PATH_MAX = 4095  # linux/limits.h, without its NUL
MIB = 1 << 20
GIB = 1 << 30
OPTION = "--layer-limit"
VARIABLE = "LAMINA_LAYER_LIMITS"  # "entries=5000000,size=1t": what is given there instead of the defaults
_SIZES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@value
class Limits:
    """What one layer may cost; everything is counted before it is done.

    entries     entries of the archive, whiteouts included
    size        bytes of all files together, holes included, and of the decompressed archive
    depth       directories above an entry
    name        bytes of a path or of a link's target; never more than PATH_MAX allows, 4095
    extensions  bytes of extension headers (long names, attributes) of one entry; memory
    segments    pieces of data of one sparse file
    ratio       decompressed bytes for each compressed one, once there are more than `free` of them
    free        decompressed bytes for which no ratio is looked at
    window      bytes that a zstd frame may ask to keep in memory
    """

    entries: int = 2_000_000
    size: int = 256 * GIB
    depth: int = 200
    name: int = PATH_MAX
    extensions: int = 4 * MIB
    segments: int = 100_000
    ratio: int = 250
    free: int = 128 * MIB
    window: int = 128 * MIB

    def exceeded(self, field: str, what: str) -> NoReturn:
        """Refuse *what*, which is more than *field* allows. Raises InvalidInput."""
        most = getattr(self, field)
        remedy = f"if you trust it, {OPTION} {field}=N allows more"
        if field == "name" and most >= PATH_MAX:
            remedy = "the kernel takes no longer one"
        raise InvalidInput(f"read archive: {what}, the limit is {most}", remedy=remedy)


def given(text: str | None = None, wanted: Mapping[str, int | str] | None = None) -> Limits:
    """The limits with those of *text* ("entries=5000000,size=1t"; None: of the variable LAMINA_LAYER_LIMITS) instead,
    and those of *wanted* ({"size": "1t"}) before both.

    Raises InvalidInput for a name that is none, or a number that is none.
    """
    if text is None:
        text = os.environ.get(VARIABLE, "")
    words = [word.partition("=")[::2] for word in text.replace(" ", "").split(",") if word]
    found: dict[str, int] = {}
    for name, number in (*words, *(wanted or {}).items()):
        found[name] = _number(name, str(number))
    found["name"] = min(found.get("name", PATH_MAX), PATH_MAX)
    return Limits(**found)


def _number(name: str, number: str) -> int:
    digits, factor = number, 1
    if (unit := number[-1:].lower()) in _SIZES:
        digits, factor = number[:-1], _SIZES[unit]
    names = Limits.__annotations__
    if name not in names:
        from difflib import get_close_matches

        near = get_close_matches(name, names, n=1, cutoff=0.5)
        remedy = (f"did you mean {near[0]}? " if near else "") + "they are " + ", ".join(names)
        raise InvalidInput(f"limit layers to {name}={number}: there is no such limit", remedy=remedy)
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        raise InvalidInput(
            f"limit layers to {name}={number}: {number!r} is no number", remedy="such as 5000000, 512m, 1t"
        )
    return int(digits) * factor
