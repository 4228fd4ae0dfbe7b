"""Making a layer, and taking one away: both with one rename.

    tmp/<random>/
    ├── lock
    └── layer/                what becomes layers/<id>
        ├── fs/               filled by whoever unpacks, copies or freezes
        └── layer.json

`commit` writes layer.json, syncs the file system once (syncfs: a layer of 18,000 files took 0.3 s, and 16 s with an
fsync for each), and renames. A layer that has its name has all of its content on the disk.
"""

from __future__ import annotations

import os
import time
from errno import EEXIST, ENOTEMPTY

from lamina.errors import Corrupt, InvalidInput, LaminaError
from lamina.store.durable import sync_directory, sync_file_system, write_unseen
from lamina.store.layers import Layer, find, layer_id, new_id, place_of
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.trace import point
from lamina.store.tree import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.scratch import Remove


class Stage:
    """A layer in the making. `path` is the tree to fill, empty, mode 0755, on the file system of the layers.

    In a `with` it is thrown away unless it was committed.
    """

    __slots__ = ("_file_system", "_home", "_scratch", "id", "lease", "path", "store")

    def __init__(self, store: Store, identity: str | None, lease: Lease) -> None:
        self.store, self.id, self.lease = store, identity, lease
        self._scratch = Scratch(store)
        self._file_system = -1
        self._home = self._scratch.path + b"/layer"
        self.path = self._home + b"/fs"
        try:
            point("layer.mkdir")
            make_directory(self._home, 0o700)
            make_directory(self.path, 0o755)
            # opened now: syncfs(2) reports the errors of writing back that happened since (Linux 5.8)
            self._file_system = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    def commit(
        self,
        diff_id: str | None,
        size: int | None,
        inodes: int | None,
        extra: dict[str, Any] | None = None,
        *,
        driver: str = "overlay2",
    ) -> Layer:
        """Make it a layer: synced, whole, under its id. If somebody else got there first, theirs is the layer.

        *diff_id* None: a frozen upper, whose digest nobody needed yet. Raises InvalidInput when *diff_id* is not that
        of the id it was staged for, KernelError.
        """
        identity = self.id if diff_id is None else layer_id(diff_id)
        if identity is None:
            identity = new_id()
        if self.id not in (None, identity):
            raise InvalidInput(f"layer {str(self.id)[:12]}: what was unpacked has the diff_id {diff_id}")
        if self._file_system < 0:
            raise LaminaError(f"layer {identity[:12]}: its stage is closed")
        self.lease.add_layer(identity)
        try:
            created = write_facts(
                self._home, identity, diff_id, size, inodes, extra, driver=driver, sync=False
            )
            sync_file_system(self._file_system, what="layer")
            theirs = None if self._rename(identity) else self._theirs(identity)
            sync_directory(self.store.layers, what="layer")  # theirs too: they may not have come so far
            if theirs is not None:
                return theirs
        except OSError as error:
            raise_storage_error(error, "make layer", self._home)
        finally:
            self.close()
        return Layer(
            identity,
            diff_id,
            place_of(self.store, identity) + b"/fs",
            size or 0,
            inodes or 0,
            created,
            driver,
            extra or {},
            size is not None,
        )

    def _rename(self, identity: str) -> bool:
        point("layer.rename")
        try:
            os.rename(self._home, place_of(self.store, identity))
            return True
        except OSError as error:
            if error.errno not in (EEXIST, ENOTEMPTY):
                raise
            return False

    def _theirs(self, identity: str) -> Layer | None:
        """Somebody else's layer; None if that is damaged, and now ours is there instead. The lease keeps either."""
        try:
            return find(self.store, identity)
        except Corrupt:
            # as a check would: nobody can have used it
            discard(self.store, identity, self._scratch)
            if not self._rename(identity):
                return find(self.store, identity)
            return None

    def close(self, remove: Remove = remove_tree) -> None:
        """Throw away what is not committed; a second call does nothing.

        What *remove* may not remove (files of subordinate ids) stays for `burial.bury_all`.
        """
        if self._file_system >= 0:
            os.close(self._file_system)
            self._file_system = -1
        try:
            self._scratch.remove(remove)
        except OSError:
            pass

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_facts(
    place: bytes,
    identity: str,
    diff_id: str | None,
    size: int | None,
    inodes: int | None,
    extra: dict[str, Any] | None = None,
    *,
    driver: str = "overlay2",
    sync: bool = True,
) -> int:
    """Write the layer.json of the directory *place*, which nobody else writes to; when, in ns. Raises OSError.

    *size* and *inodes* None: they are counted when somebody wants to know. *sync* False: the caller syncs the file
    system next, and that with it.
    """
    created = time.time_ns()
    facts = {
        "id": identity,
        "diff_id": diff_id,
        "size": size,
        "inodes": inodes,
        "created": created,
        "driver": driver,
        "extra": extra or {},
    }
    write_unseen(place + b"/layer.json", facts, what="layer", sync=sync)
    return created


def discard(store: Store, identity: str, scratch: Scratch) -> bytes | None:
    """Move a layer away, into *scratch*, where it is removed later; where it is now, None if it is gone. For the
    collector. Raises OSError.
    """
    point("layer.discard")
    gone = scratch.path + b"/layer-" + identity.encode()
    try:
        os.rename(place_of(store, identity), gone)
    except FileNotFoundError:
        return None
    return gone
