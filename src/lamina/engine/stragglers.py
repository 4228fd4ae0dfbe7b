"""Those whose working directory is still in a root that was replaced: whoever replaced it was killed before they
followed.
"""

from __future__ import annotations

import os
from time import sleep

from lamina.engine.processes import members
from lamina.engine.replacing import is_filtered
from lamina.errors import KernelError
from lamina.linux.constants import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS
from lamina.linux.fd import Fd
from lamina.linux.files import openat2
from lamina.runtime.holders import Old, look
from lamina.runtime.redirecting import Moving, is_possible, why_not
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.store.containers import Home

MOST_LOOKS = 10
_EXACTLY = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY


def follow(home: Home, first: int) -> None:
    """Have those follow whose working directory is still in a root that was replaced: somebody was killed before he did
    that. *first* is the container's first process. Raises OSError.
    """
    record, nothing = home.read("state") or {}, Old(frozenset(), frozenset(), frozenset())
    places = [os.fsencode(entry["at"]) for entry in home.asked().get("overlays") or () if entry.get("upper")]
    with Fd(os.open(f"/proc/{first}/root", os.O_PATH | os.O_CLOEXEC)) as root:
        for _ in range(MOST_LOOKS):  # it goes on meanwhile, and has children
            left = look(members(first, record), first, root, nothing).directories
            for one in left:
                path = whereabouts(root, one.path, places)
                try:
                    if path is not None and is_possible() and not why_not(one := replace(one, path=path)):
                        Moving(one, plain=is_filtered(home)).move()
                except OSError:
                    continue  # it has ended
            if not left:
                return
            sleep(0.002)


def whereabouts(root: int, path: bytes, places: Sequence[bytes]) -> bytes | None:
    """Where a directory is that was *path* in one of the old overlays at *places*, by now attached nowhere: a path in
    such a one begins at its own root, and nothing says which it was. None where that could be in none of them, or in
    several. *root* is the container's (a descriptor).
    """
    found = []
    for place in places:
        there = place.rstrip(b"/") + path
        try:
            openat2(root, there.lstrip(b"/") or b".", _DIRECTORY, resolve=_EXACTLY).close()
        except KernelError:
            continue
        found.append(there)
    return found[0] if len(found) == 1 else None
