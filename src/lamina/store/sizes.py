"""How large a layer is that was made without counting: found out when somebody wants to know, and written down then."""

from __future__ import annotations

import os
from stat import S_ISREG

from lamina.errors import Corrupt, NotFound
from lamina.linux.fd import Fd
from lamina.store import durable, lock, record
from lamina.store.layers import place_of
from lamina.store.root import raise_storage_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lamina.store.layers import Layer
    from lamina.store.root import Store


def count(
    store: Store, layer: Layer, tree: Callable[[bytes], tuple[int, int]] | None = None
) -> tuple[int, int]:
    """Bytes and inodes of *layer*, which are noted in it. *tree* counts one tree, where that takes another's ids.

    What cannot be entered here counts as nothing, and then nothing is noted.
    """
    try:
        size, inodes = (tree or tree_size)(layer.path)
    except OSError:
        return tree_size(layer.path, strict=False)
    try:
        amend(store, layer.id, lambda facts: {**facts, "size": size, "inodes": inodes})
    except (OSError, NotFound, Corrupt):
        pass  # it is as large all the same
    return size, inodes


def tree_size(path: bytes, *, strict: bool = True) -> tuple[int, int]:
    """Bytes of the regular files, and the number of all entries, of the tree *path*; each file once. Raises OSError;
    with *strict* False what cannot be entered or vanishes meanwhile counts as nothing.

    A container may be at work in it: whatever it exchanges, and however deep it digs, nothing else is counted, and no
    less. What is mounted below does not belong to the tree.
    """
    from lamina.overlay.lookup import open_beneath

    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    waiting = [b""]
    try:
        top = Fd(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError:
        if strict:
            raise
        return 0, 0
    with top:
        while waiting:
            here = waiting.pop()
            try:
                with (
                    open_beneath(top, here, os.O_RDONLY | os.O_DIRECTORY) as directory,
                    os.scandir(directory) as entries,
                ):
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            name = os.fsencode(entry.name)
                            waiting.append(b"%b/%b" % (here, name) if here else name)
                        status = entry.stat(follow_symlinks=False)
                        if status.st_nlink > 1 and S_ISREG(status.st_mode):
                            if (status.st_dev, status.st_ino) in seen:
                                continue
                            seen.add((status.st_dev, status.st_ino))
                        size += status.st_size if S_ISREG(status.st_mode) else 0
                        inodes += 1
            except OSError:
                if strict:
                    raise
    return size, inodes


def amend(store: Store, identity: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Replace what layer.json says of the layer *identity* by what *change* makes of it, on the disk when this returns;
    those who do so take turns. Its tree never changes. Raises NotFound, Corrupt, KernelError.
    """
    place = place_of(store, identity)
    try:
        turn = lock.turn(place, lock.LOCK_EX)
    except FileNotFoundError:
        raise NotFound(f"layer {identity[:12]}: it is not there any more") from None
    with turn:
        facts = record.read_light(place, b"layer.json")
        if facts is None:
            raise NotFound(f"layer {identity[:12]}: it is not there any more")
        try:
            durable.write_record(place, b"layer.json", change(facts), what="layer-facts")
        except OSError as error:
            raise_storage_error(error, "describe layer", place)
