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

from lamina.errors import Corrupt, InvalidInput
from lamina.store import names, record
from lamina.store.digest import check_digest, hex_of
from lamina.store.root import raise_storage_error
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.stage import Stage

_HEX = frozenset("0123456789abcdef")
_REPAIR = "'lamina system check --repair' takes it away; then pull the image again"


@value
class Layer:
    """A layer that is there. `path` is its tree (absolute bytes); `size` the bytes of its regular files, each hard
    link's content once; `inodes` their number with all other entries; `created` in nanoseconds since 1970. `driver` is
    the driver whose form the tree has; `extra` what its maker wanted to be kept. Without `counted` both numbers are 0,
    because nobody wanted to know them yet: a frozen upper becomes a layer in constant time (sizes.py counts it).
    """

    id: str
    diff_id: str | None
    path: bytes
    size: int
    inodes: int
    created: int
    driver: str
    extra: dict[str, Any]
    counted: bool = True


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


def layer_of(directory: bytes, tree: bytes) -> str | None:
    """The id of the layer below *directory*, a store's `layers`, whose tree this is; None of another directory."""
    if not tree.startswith(directory + b"/") or not tree.endswith(b"/fs"):
        return None
    name = os.fsdecode(tree[len(directory) + 1 : -len(b"/fs")])
    return name if is_id(name) else None


def is_there(store: Store, identity: str) -> bool:
    """Whether the layer is there: one lstat(2). Raises InvalidInput."""
    return os.path.lexists(place_of(store, identity))


def find(store: Store, identity: str) -> Layer | None:
    """The layer, None where there is none. Raises InvalidInput, Corrupt, KernelError."""
    place = place_of(store, identity)
    try:
        found = record.read_of(place, b"layer.json")
    except Corrupt as error:
        why = error.message.partition(": ")[2]
        raise Corrupt(f"layer {identity[:12]}: {why}", remedy=_REPAIR) from None
    except OSError as error:
        raise_storage_error(error, "read layer", place)
    if found is None:
        return None
    return _layer(place, identity, found)


def _layer(place: bytes, identity: str, found: dict[str, Any]) -> Layer:
    try:
        layer = Layer(
            id=str(found["id"]),
            diff_id=None if found["diff_id"] is None else check_digest(found["diff_id"]),
            path=place + b"/fs",
            size=int(found["size"] or 0),
            inodes=int(found["inodes"] or 0),
            created=int(found["created"]),
            driver=str(found["driver"]),
            extra=dict(found.get("extra") or {}),
            counted=found["size"] is not None,
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
    from lamina.store import stage as making

    if id_hint is not None:
        lease.add_layer(id_hint)
    try:
        return making.Stage(store, id_hint, lease)
    except OSError as error:
        raise_storage_error(error, "make layer", store.tmp)
