"""The upper directories that a container gets when what it wrote so far is frozen (engine/freezing), or when it goes
back (engine/rewinding): empty ones, which look as the place does.
"""

from __future__ import annotations

import os

from lamina.engine import chains
from lamina.engine.burials import bury
from lamina.engine.layers import lengthened, resemble, stacks_of
from lamina.errors import Corrupt
from lamina.store import layers
from lamina.store.root import make_directory
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from lamina.store.containers import Home

    Record = dict[str, Any]


def stage_of(home: Home, identity: str) -> bytes:
    """Where the layer *identity* is on its way into the store."""
    return home.path + b"/freezing-" + identity.encode()


def upper_of(home: Home, asked: Record, at: bytes) -> bytes:
    """The upper at the place *at*. Raises Corrupt."""
    for entry in asked.get("overlays") or []:
        if entry["upper"] is not None and os.fsencode(entry["at"]) == at:
            return lengthened(entry["upper"], home.path)
    raise Corrupt(f"container {home.shown}: its record freezes {os.fsdecode(at)}, where nothing is written")


def make_uppers_early(home: Home, asked: Record, made: dict[bytes, str]) -> None:
    """As `make_uppers`, before the record says what is under way."""
    clear_next(home, asked, made)
    make_uppers(home, chains.with_freezing(asked, made, None), list(made))


def clear_next(home: Home, asked: Record, places: Iterable[bytes]) -> None:
    """There are no next uppers of *places*: what is there is of somebody who was killed before the record said what was
    under way, and may look as the place did at that time.
    """
    numbers = chains.numbers_for(asked, places).values()
    left = [home.path + b"/%b-%d" % (kind, number) for number in numbers for kind in (b"upper", b"work")]
    if left := [path for path in left if os.path.lexists(path)]:
        bury(home, asked, left)


def make_uppers(home: Home, asked: Record, places: list[bytes]) -> None:
    """The next uppers and work directories of *places*, as far as they are not there: they look as the place does now,
    for a merged directory looks as its upper does. Raises OSError.
    """
    numbers = chains.numbers_for(asked, places)
    going: dict[bytes, str] = {}
    if asked.get(chains.FREEZING):
        going = chains.places_of(asked[chains.FREEZING], str)
    for at, number in numbers.items():
        for path in (home.path + b"/work-%d" % number, home.path + b"/upper-%d" % number):
            if os.path.lexists(path):
                continue
            point("state.mkdir-upper")
            if b"/work-" in path:
                os.mkdir(path, 0o700)
                continue
            below = _top(home, asked, at, going)
            made = path + b".new"
            make_directory(made, 0o700, exist_ok=True)
            resemble_wholly(made, below, asked)
            os.rename(made, path)


def _top(home: Home, asked: Record, at: bytes, going: dict[bytes, str]) -> bytes:
    """The topmost directory of the place below its new upper: what is being frozen, wherever that is just now."""
    if at in going:
        for found in (
            layers.tree_of(home.store, going[at]),
            stage_of(home, going[at]) + b"/fs",
            upper_of(home, asked, at),
        ):
            if os.path.lexists(found):
                return found
    return next(
        spec for place, spec in stacks_of(asked.get("overlays") or [], home.path) if place == at
    ).lowerdirs[0]


def resemble_wholly(upper: bytes, lower: bytes, asked: Record) -> None:
    """As `layers.resemble`, with the owner also where that takes the container's ids. Raises OSError."""
    resemble(upper, lower, userxattr=any(entry["userxattr"] for entry in asked["overlays"]))
    found, wanted = os.stat(upper), os.stat(lower)
    if (found.st_uid, found.st_gid) != (wanted.st_uid, wanted.st_gid) and os.geteuid() != 0:
        from lamina.engine.within import maps_of, reach

        try:
            reach(lambda: maps_of(asked), os.chown, upper, wanted.st_uid, wanted.st_gid)
        except OSError:
            pass  # this machine's own, which no container of this user could be given
