"""Layers: immutable directories in overlay form, each independent of all others.

    layers/<id>/
    ├── fs/            the tree: whiteouts and opaque directories as overlayfs knows them
    └── layer.json     what is known of it: diff_id, size, inodes, when and how it was made

    <id>   an image's layer: the digits of its diff_id, the sha256 of the uncompressed tar, so one directory serves all
           images that contain it; a frozen upper: "x" and 63 digits, until somebody needs its digest

A layer appears whole, with one rename, after everything in it was synced. It goes whole too, and only by garbage
collection (garbage.py). So a layer whose directory is there is there: that takes one lstat(2).
"""

from __future__ import annotations

import os
import time
from errno import EEXIST, ENOTEMPTY

from lamina.document import encode
from lamina.errors import Corrupt, InvalidInput, LaminaError
from lamina.store import names, record
from lamina.store.digest import check_digest, hex_of
from lamina.store.durable import sync_directory, sync_file_system, write_all
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.trace import point
from lamina.store.tree import remove_tree
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.scratch import Remove

_HEX = frozenset("0123456789abcdef")
_REPAIR = "'lamina system check --repair' takes it away; then pull the image again"


@value
class Layer:
    """A layer that is there. `path` is its tree (absolute bytes); `size` the bytes of its regular files, each hard
    link's content once; `inodes` their number with all other entries; `created` in nanoseconds since 1970. `driver` is
    the driver whose form the tree has; `extra` what its maker wanted to be kept.
    """

    id: str
    diff_id: str | None
    path: bytes
    size: int
    inodes: int
    created: int
    driver: str
    extra: dict[str, Any]


def is_id(text: str) -> bool:
    """Whether *text* is a layer's id."""
    return len(text) == names.ID_LENGTH and (text[0] == "x" or text[0] in _HEX) and _HEX.issuperset(text[1:])


def check_id(text: str) -> str:
    """*text*, if it is a layer's id. Raises InvalidInput."""
    if not is_id(text):
        raise InvalidInput(f"layer {text[:200]!r}: not the id of a layer")
    return text


def layer_id(diff_id: str) -> str:
    """The id of the layer with that diff_id. Raises InvalidInput for anything but a sha256."""
    if check_digest(diff_id).startswith("sha256:"):
        return hex_of(diff_id)
    raise InvalidInput(f"diff_id {diff_id}: only sha256 is supported for these")


def new_id() -> str:
    """A random id for a layer whose digest is not known."""
    return "x" + names.new_id()[1:]


def place_of(store: Store, identity: str) -> bytes:
    """The directory of a layer, whether it is there or not. Raises InvalidInput."""
    return store.layers + b"/" + check_id(identity).encode()


def tree_of(store: Store, identity: str) -> bytes:
    """The tree of a layer, whether it is there or not: what becomes a lowerdir. Raises InvalidInput."""
    return place_of(store, identity) + b"/fs"


def is_there(store: Store, identity: str) -> bool:
    """Whether the layer is there: one lstat(2). Raises InvalidInput."""
    return os.path.lexists(place_of(store, identity))


def find(store: Store, identity: str) -> Layer | None:
    """The layer, None where there is none. Raises InvalidInput, Corrupt, KernelError."""
    place = place_of(store, identity)
    try:
        found = record.read_light(place, b"layer.json")
    except OSError as error:
        raise_storage_error(error, "read layer", place)
        raise
    if found is None:
        if os.path.lexists(place):
            raise Corrupt(f"layer {identity[:12]}: there is no layer.json in it", remedy=_REPAIR)
        return None
    return _layer(place, identity, found)


def _layer(place: bytes, identity: str, found: dict[str, Any]) -> Layer:
    try:
        layer = Layer(
            id=str(found["id"]),
            diff_id=None if found["diff_id"] is None else check_digest(found["diff_id"]),
            path=place + b"/fs",
            size=int(found["size"]),
            inodes=int(found["inodes"]),
            created=int(found["created"]),
            driver=str(found["driver"]),
            extra=dict(found.get("extra") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"layer {identity[:12]}: its layer.json is damaged: {error}", remedy=_REPAIR) from None
    if layer.id != identity:
        raise Corrupt(f"layer {identity[:12]}: its layer.json is that of {layer.id[:12]}", remedy=_REPAIR)
    return layer


def identities(store: Store) -> list[str]:
    """The ids of all layers, in no order."""
    return [name for entry in os.listdir(store.layers) if is_id(name := os.fsdecode(entry))]


def stage(store: Store, id_hint: str | None, lease: Lease) -> Stage:
    """An empty tree to be filled, which becomes a layer by `commit`. Raises InvalidInput, KernelError.

    *id_hint* is the id it will have, if that is known: it is kept by *lease* from now on.
    """
    if id_hint is not None:
        lease.add_layer(id_hint)
    try:
        return Stage(store, id_hint, lease)
    except OSError as error:
        raise_storage_error(error, "make layer", store.tmp)
        raise


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
        size: int,
        inodes: int,
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
        facts = {
            "id": identity,
            "diff_id": diff_id,
            "size": size,
            "inodes": inodes,
            "created": time.time_ns(),
            "driver": driver,
            "extra": extra or {},
        }
        try:
            self._write(facts)
            sync_file_system(self._file_system, what="layer")
            if not self._rename(identity):
                theirs = self._theirs(identity)
                if theirs is not None:
                    return theirs
            sync_directory(self.store.layers, what="layer")
        except OSError as error:
            raise_storage_error(error, "make layer", self._home)
            raise
        finally:
            self.close()
        return _layer(place_of(self.store, identity), identity, facts)

    def _write(self, facts: dict[str, Any]) -> None:
        point("layer.write-record")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._home + b"/layer.json", flags, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            write_all(descriptor, (encode(facts) + "\n").encode())
        finally:
            os.close(descriptor)

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

        What *remove* may not remove (files of subordinate ids) stays for `containers.bury_all`.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def discard(store: Store, identity: str, scratch: Scratch) -> bool:
    """Move a layer away, into *scratch*, where it is removed later; False if it is gone. For the collector.

    Raises OSError.
    """
    point("layer.discard")
    try:
        os.rename(place_of(store, identity), scratch.path + b"/layer-" + identity.encode())
    except FileNotFoundError:
        return False
    return True


__all__ = [
    "Layer",
    "Stage",
    "check_id",
    "discard",
    "find",
    "identities",
    "is_id",
    "is_there",
    "layer_id",
    "new_id",
    "place_of",
    "stage",
    "tree_of",
]
