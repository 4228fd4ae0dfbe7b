"""An image's layers with other owners: for an ordinary user's container whose ids are not the user's usual ones.

Only root may mount a file system with its ids mapped (mount_setattr(2)), so where another kernel's hand would do, the
layers are copied, each once: the copy is a layer of the store like any other, called after what it is a copy of and the
maps. Containers refer to it, and garbage collection takes it when none does any more. What a layer says of files that
are deleted below it goes through the same archive form in which layers travel.
"""

from __future__ import annotations

import os
import threading
from hashlib import sha256
from typing import TYPE_CHECKING

from lamina.errors import InvalidInput
from lamina.image.apply import IdMap, apply_layer
from lamina.image.pack.layer import pack_layer
from lamina.linux.fd import Fd
from lamina.store import layers
from lamina.store.claims import claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.engine.id_maps import IdMaps
    from lamina.store.leases import Lease
    from lamina.store.root import Store

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def shifted(
    store: Store,
    wanted: tuple[str, ...],
    usual: IdMaps,
    maps: IdMaps,
    lease: Lease,
    tell: Callable[[str], None] | None = None,
    owners: IdMaps | None = None,
) -> tuple[str, ...]:
    """The layers *wanted*, whose files have the ids of *usual*, as layers with those of *maps*; *lease* keeps them.

    *owners* are the maps of the files where these are others than *usual*, which is all that the user has. *tell* hears
    that copies are made. Raises InvalidInput for a file of somebody whom *maps* do not have, KernelError.
    """
    found = []
    for identity in wanted:
        copy = _name(identity, maps)
        lease.add_layer(copy)
        if not layers.is_there(store, copy):
            if tell is not None:
                tell("the image's layers are copied for these ids, once: the kernel lets only root map ids")
                tell = None
            with claim(store, copy):
                if not layers.is_there(store, copy):
                    _copy(store, identity, copy, usual, owners or usual, maps, lease)
        found.append(copy)
    return tuple(found)


def _name(identity: str, maps: IdMaps) -> str:
    return "x" + sha256(repr((identity, maps.uids, maps.gids)).encode()).hexdigest()[1:]


def _copy(
    store: Store, identity: str, copy: str, usual: IdMaps, owners: IdMaps, maps: IdMaps, lease: Lease
) -> None:
    from lamina.engine.within import inside

    source = layers.tree_of(store, identity)
    before, after = IdMap(owners.uids, owners.gids).reversed(), IdMap(maps.uids, maps.gids)
    with layers.stage(store, copy, lease) as stage:
        try:
            size, inodes = inside(usual.spec(), copy_tree, source, stage.path, before, after)
        except InvalidInput as error:
            raise InvalidInput(
                "run: userns: "
                + error.message.removeprefix("unpack layer: ").replace("you have", "the container has"),
                remedy="ask for more ids (auto:size=65536), or leave --userns out",
            ) from error
        stage.commit(None, size, inodes, {"shifted": identity})


def copy_tree(source: bytes, target: bytes, before: IdMap, after: IdMap) -> tuple[int, int]:
    """Copy a layer's tree into the empty directory *target*: *before* says who its owners are in a container, *after*
    who these become. Bytes and inodes.

    For a namespace in which every id is itself (engine/within). Raises InvalidInput, Unsupported, OSError.
    """
    reading, writing = map(Fd, os.pipe2(os.O_CLOEXEC))
    failures: list[BaseException] = []

    def pack() -> None:
        try:
            with writing, open(writing, "wb", closefd=False) as out, Fd(os.open(source, _DIRECTORY)) as tree:
                pack_layer(tree, out, userxattr=True, ids=before)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=pack, name="lamina-shift", daemon=True)
    with Fd(os.open(target, _DIRECTORY)) as directory:
        thread.start()
        try:
            with reading:
                done = apply_layer(lambda: os.read(reading, 1 << 18), directory, userxattr=True, ids=after)
        except BaseException:
            thread.join()  # it gets SIGPIPE's error, and its own failure was the first
            if failures and not isinstance(failures[0], BrokenPipeError):
                raise failures[0] from None
            raise
    thread.join()
    if failures:
        raise failures[0]
    return done.size, done.inodes
