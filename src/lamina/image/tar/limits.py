"""How much of an archive is believed before it is refused, and how each limit is raised."""

from __future__ import annotations

import os

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MIB = 1 << 20
GIB = 1 << 30
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
    name: int = 4095
    extensions: int = 4 * MIB
    segments: int = 100_000
    ratio: int = 250
    free: int = 128 * MIB
    window: int = 128 * MIB

    def exceeded(self, field: str, what: str) -> NoReturn:
        """Refuse *what*, which is more than *field* allows. Raises InvalidInput."""
        most = getattr(self, field)
        remedy = f"if you trust it, {VARIABLE}={field}=N allows more"
        if field == "name":
            remedy = "the kernel takes no longer one"
        raise InvalidInput(f"read archive: {what}, the limit is {most}", remedy=remedy)


def given(text: str | None = None) -> Limits:
    """The limits with those of *text* ("entries=5000000,size=1t"; None: of the variable LAMINA_LAYER_LIMITS) instead.

    Raises InvalidInput for a name that is none, or a number that is none.
    """
    if text is None:
        text = os.environ.get(VARIABLE, "")
    found: dict[str, int] = {}
    for word in filter(None, text.replace(" ", "").split(",")):
        name, _, number = word.partition("=")
        digits, factor = (
            (number[:-1], _SIZES[number[-1:].lower()]) if number[-1:].lower() in _SIZES else (number, 1)
        )
        if (
            name not in Limits.__annotations__
            or not (digits.isascii() and digits.isdigit())
            or len(digits) > 15
        ):
            raise InvalidInput(
                f"limit layers to {word!r}: not a limit",
                remedy="they are " + ", ".join(Limits.__annotations__),
            )
        found[name] = int(digits) * factor
    found["name"] = min(found.get("name", Limits.name), Limits.name)
    return Limits(**found)
