"""How much of an archive is believed before it is refused, and the option that raises each limit."""

from __future__ import annotations

from lamina.errors import InvalidInput
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MIB = 1 << 20
GIB = 1 << 30
# field of Limits -> the option that sets it; docs/layers.md shows both
OPTIONS = {
    "entries": "--layer-entries",
    "size": "--layer-size",
    "depth": "--layer-depth",
    "name": "--layer-name-length",
    "extensions": "--layer-header-size",
    "segments": "--layer-sparse-segments",
    "ratio": "--layer-ratio",
    "window": "--layer-window",
}


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
        remedy = f"{OPTIONS[field]} allows more, if you trust it"
        if field == "name":
            remedy = "the kernel takes no longer one"
        raise InvalidInput(f"read archive: {what}, the limit is {most}", remedy=remedy)
