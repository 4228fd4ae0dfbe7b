"""What a container wrote and nobody wants any more goes: at once out of the way, and then in its own time.

Moving it takes as long for a file as for a gigabyte. A thread removes it; if this process ends first, whoever uses the
store next goes on (`store.containers.bury_all`).
"""

from __future__ import annotations

import os

from lamina.engine.chains import chain_of
from lamina.engine.discard import remover
from lamina.engine.layers import lengthened
from lamina.errors import LaminaError
from lamina.store import layers
from lamina.store.root import raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from lamina.store.containers import Home


def sweep(home: Home, asked: dict[str, Any], further: Iterable[bytes] = ()) -> None:
    """Remove what the last change of the chain left behind, the *further* entries of the container's directory, and
    layers on their way that did not get there; but nothing that the record names. Uppers may be large, and go in their
    own time.
    """
    overlays = asked.get("overlays") or []
    named = {
        lengthened(path, home.path) for entry in overlays for path in (entry["upper"], entry["work"]) if path
    }
    entries = {*map(os.fsencode, asked.get("left") or ()), *further}
    entries |= {
        entry
        for entry in os.listdir(home.path)
        if entry.startswith((b"freezing-", b"volume-")) or entry.endswith(b".new")
    }
    left = [
        home.path + b"/" + entry
        for entry in sorted(entries)
        if entry.startswith((b"upper-", b"work-", b"freezing-", b"volume-")) and b"/" not in entry
    ]
    left = [path for path in left if path not in named and os.path.lexists(path)]
    if any(not os.path.basename(path).startswith(b"work-") for path in left):
        frozen = set(_frozen(home, asked))
        left = [path for path in left if _which(path) not in frozen]
    if left:
        bury(home, asked, left)


def _frozen(home: Home, asked: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Which directories the layers of the chain are, and their trees. After a power cut a file system without a journal
    may have the name still by which one of them was moved.
    """
    for ids in chain_of(asked).values():
        for layer in ids:
            for path in (layers.place_of(home.store, layer), layers.tree_of(home.store, layer)):
                if os.path.lexists(path):
                    yield _which(path)


def _which(path: bytes) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def bury(home: Home, asked: dict[str, Any], paths: list[bytes]) -> None:
    """Remove the directories *paths* of the container whose record is *asked*; uppers, which may be large, later.

    Raises KernelError.
    """
    remove = remover(asked)
    large = [path for path in paths if os.path.basename(path).startswith((b"upper-", b"volume-"))]
    for path in paths:
        if path not in large:
            point("state.remove")
            remove(path)
    if not large:
        return
    import threading

    from lamina.engine.within import maps_of, reach

    try:
        scratch = Scratch(home.store)
        for path in large:
            point("state.move-away")
            reach(lambda: maps_of(asked), os.rename, path, scratch.path + b"/" + os.path.basename(path))
    except OSError as error:
        raise_storage_error(error, "remove what the container wrote", home.path)
    threading.Thread(target=_remove, args=(scratch, asked), name="lamina-bury").start()


def _remove(scratch: Scratch, asked: dict[str, Any]) -> None:
    try:
        scratch.remove(remover(asked))
    except (OSError, LaminaError):
        scratch.leave()  # for the next time
