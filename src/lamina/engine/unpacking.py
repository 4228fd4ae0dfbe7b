"""How this user's layers are unpacked and packed: as root here, else where the ids of his containers exist."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.image.apply import IdMap
    from lamina.image.archive.load import Unpacking
    from lamina.image.tar.limits import Limits


def unpacking(limits: Limits) -> Unpacking:
    """For archives. Raises Unsupported where this host lets nobody make a user namespace, when it is used."""
    from lamina.image.archive.load import Unpacking

    if os.geteuid() == 0:
        return Unpacking((("limits", limits),))
    return Unpacking((("limits", limits), *words().items()), staged=True)


def words() -> dict[str, Any]:
    """What `unpack_blob` has to be told by an ordinary user; nothing by root."""
    from lamina.engine.id_maps import id_maps
    from lamina.engine.within import inside

    maps = id_maps()
    if maps is None:
        return {}
    from lamina.image.apply import IdMap

    ids = IdMap(maps.uids, maps.gids)
    return {"userxattr": True, "ids": ids, "within": partial(inside, maps.spec())}


def packing() -> Callable[..., Any] | None:
    """For `archive.save`: calls `pack_file` with what an ordinary user has to say; None for root."""
    found = words()
    if not found:
        return None
    ids, within = outside(found["ids"]), found["within"]
    return lambda work, layer, path: within(work, layer, path, True, ids)


def outside(ids: IdMap) -> IdMap:
    """The way back: what ids of files become in an archive."""
    from lamina.image.apply import IdMap

    def turned(lines: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        return tuple((there, here, count) for here, there, count in lines)

    return IdMap(turned(ids.uids), turned(ids.gids))
