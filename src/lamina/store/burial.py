"""Removing what `containers.Home.discard` moved away, and whoever did so did not come to remove."""

from __future__ import annotations

import os

from lamina.errors import Corrupt, LaminaError
from lamina.store import lock, names, record
from lamina.store.tree import empty, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamina.store.root import Store
    from lamina.store.tree import Remove


def bury_all(store: Store, remove: Remove = remove_tree) -> None:
    """Go on with removals whose remover died, or could not finish. What cannot be removed now either stays, for the
    next time: it must not keep anybody from what he wants to do.
    """
    for entry in os.listdir(store.tmp):
        grave = store.tmp + b"/" + entry
        try:
            name = (record.read(grave, b"container.json") or {}).get("name")
        except (Corrupt, OSError):
            name = None
        # first: killed later, nobody would know it any more
        if isinstance(name, str) and names.is_name(name):
            names.drop_stale(store.names, name, store.containers)
        try:
            bury(grave, remove)
        except (OSError, LaminaError):
            continue


def bury(grave: bytes, remove: Remove = remove_tree) -> bool:
    """Remove what `Home.discard` moved away; False while somebody else does. Raises what *remove* raises."""
    try:
        # made where there is none: it may be missing because whoever works here has not come so far yet, and then he
        # has to find that it is gone, not lose what he makes next
        held = lock.take_from_lookers(grave + b"/lock", create=True)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        remove(grave)
        return True
    if held is None:
        return False
    with held:
        empty(grave, lambda path: remove(_apart(path)))
    return True


def _apart(path: bytes) -> bytes:
    """Where *path* is from now on, out of reach of whoever works in it still: a thread of a program that is about to
    end (engine/recover.py, `abandon`) would make a layer of what is half removed.
    """
    apart = os.path.dirname(path) + b"/" + names.new_id().encode()
    os.rename(path, apart)
    return apart
