"""Garbage collection: layers and blobs that nothing refers to, and what those left who were killed.

    turn on leases/, exclusive:  read who refers to what → sync what says so → move the rest into tmp/
    no lock:                     remove what was moved

Nobody waits for a removal, and no start for anything: see images.py. A record that says "not any more" is on the disk
before the first layer moves, so a power cut brings no image back whose layers are gone.
"""

from __future__ import annotations

import os
import time
from errno import ENOENT

from lamina.errors import Corrupt
from lamina.store import blobs, claims, images, layers, lock, snapshots, stage, successors, tags
from lamina.store.durable import sync_directory
from lamina.store.leases import leased
from lamina.store.references import References
from lamina.store.root import raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.sizes import count, tree_size
from lamina.store.trace import point
from lamina.store.tree import remove_tree
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.store.layers import Layer
    from lamina.store.root import Store
    from lamina.store.scratch import Remove

# a download that broke off is worth resuming for a week
PARTIAL_AGE = 7 * 24 * 3600


@value
class Kept:
    """Something that stays. `kind` is "layer", "blob", "image" or "download"; `because` are the reasons, never none."""

    kind: str
    id: str
    size: int
    because: tuple[str, ...]


@value
class Collected:
    """What was removed: ids of layers, digests of blobs, other files left by those who were killed; and what they were
    large. `kept` is filled where it was asked for.
    """

    freed: int
    inodes: int
    layers: tuple[str, ...]
    blobs: tuple[str, ...]
    leftovers: int
    kept: tuple[Kept, ...]


def collect(
    store: Store,
    explain: bool = False,
    *,
    dry: bool = False,
    remove: Remove = remove_tree,
    partial_age: float = PARTIAL_AGE,
) -> Collected:
    """Remove what nothing refers to. With *explain* say why everything else stays; with *dry* remove nothing.

    *remove* removes one tree; downloads that broke off go after *partial_age* seconds. Raises KernelError.
    """
    try:
        return _Collector(store, dry, remove, partial_age).run(explain)
    except OSError as error:
        raise_storage_error(error, "collect garbage", store.path)


def tidy(store: Store) -> None:
    """Remove what those left who ended in the middle, and nothing that anybody could use: leases, claims, and content
    that has no name yet. (`burial.bury_all` does the same for tmp/.) Raises OSError, KernelError.
    """
    with lock.turn(store.leases, lock.LOCK_EX):
        for path in leased(store)[1]:
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
    _Collector(store, False, remove_tree, PARTIAL_AGE).partials()
    claims.sweep(store)


class _Collector:
    def __init__(self, store: Store, dry: bool, remove: Remove, partial_age: float) -> None:
        self.store, self.dry, self.remove, self.partial_age = store, dry, remove, partial_age
        self.freed = self.inodes = self.leftovers = 0
        self.kept: list[Kept] = []
        self.uncounted: list[Layer] = []

    def run(self, explain: bool) -> Collected:
        scratch: Scratch | None = None
        if not self.dry and successors.unfinished(
            self.store
        ):  # before, for then the old record's own are garbage
            with images.turn(self.store):
                successors.sweep(self.store)
        try:
            with lock.turn(self.store.leases, lock.LOCK_EX):
                found = References(self.store, settle=not self.dry)
                self.leftovers += found.settled
                dead_layers = self._unreferenced(found, found.layers, layers.identities(self.store))
                dead_blobs = self._unreferenced(found, found.blobs, list(blobs.identities(self.store)))
                if not self.dry:
                    if dead_layers or dead_blobs:
                        self._sync()
                        scratch = Scratch(self.store)
                    self._forget(found)
                for identity in dead_layers:
                    self._layer(identity, scratch)
                for digest in dead_blobs:
                    self._blob(digest, scratch)
                if scratch is not None:
                    sync_directory(self.store.layers, what="collect")
            self._count()
            self.partials()
            if not self.dry:
                claims.sweep(self.store)
                tags.sweep(self.store)
                snapshots.sweep(self.store)
        finally:
            if scratch is not None:
                scratch.remove(self.remove)
        if explain:
            self._explain(found, {*dead_layers, *dead_blobs})
        return Collected(
            freed=self.freed,
            inodes=self.inodes,
            layers=tuple(dead_layers),
            blobs=tuple(dead_blobs),
            leftovers=self.leftovers,
            kept=tuple(self.kept),
        )

    @staticmethod
    def _unreferenced(found: References, used: dict[str, list[str]], there: list[str]) -> list[str]:
        """Nothing, where somebody's references cannot be read."""
        return [] if found.unknown else sorted(one for one in there if one not in used)

    def _sync(self) -> None:
        for directory in (
            *(self.store.images + below for below in (b"/records", b"/removed", b"/names")),
            self.store.containers,
        ):
            sync_directory(directory, what="collect")

    def _forget(self, found: References) -> None:
        """What those left who were killed."""
        for path in found.ended:
            point("collect.unlink-lease")
            try:
                os.unlink(path)
                self.leftovers += 1
            except FileNotFoundError:
                pass

    def _layer(self, identity: str, scratch: Scratch | None) -> None:
        found = _found(self.store, identity)
        if scratch is not None:
            gone = stage.discard(self.store, identity, scratch)
            if gone is None:
                return
            found = None if found is None else replace(found, path=gone + b"/fs")
        if found is not None:
            self.uncounted += [] if found.counted else [found]
            self.freed += found.size
            self.inodes += found.inodes

    def _count(self) -> None:
        """Layers of which nobody knew how large they are: to count them may take long, and others wait for the turn."""
        for layer in self.uncounted:
            size, inodes = tree_size(layer.path, strict=False)
            self.freed += size
            self.inodes += inodes

    def _blob(self, digest: str, scratch: Scratch | None) -> None:
        size = blobs.size_of(self.store, digest) or 0
        if scratch is not None:
            point("collect.blob")
            try:
                os.unlink(blobs.place_of(self.store, digest))
            except IsADirectoryError:
                os.rename(
                    blobs.place_of(self.store, digest),
                    scratch.path + b"/blob-" + os.urandom(8).hex().encode(),
                )
            except FileNotFoundError:
                return
        self.freed += size
        self.inodes += 1

    def partials(self) -> None:
        """Downloads that nobody goes on with."""
        directory = self.store.blobs + b"/partial"
        for entry in os.listdir(directory):
            path = directory + b"/" + entry
            try:
                held = lock.take(path, lock.LOCK_EX, wait=False, named=True)  # it may be a blob by now
            except FileNotFoundError:
                continue
            size, age = _size_and_age(path)
            name = os.fsdecode(entry).replace("-", ":", 1)
            if held is None:
                self.kept.append(Kept("download", name, size, ("it is going on",)))
                continue
            with held:
                if ":" in name and age < self.partial_age:
                    self.kept.append(Kept("download", name, size, ("it broke off, and can be resumed",)))
                    continue
                if not self.dry:
                    point("collect.partial")
                    os.unlink(path)
                self.freed += size
                self.inodes += 1
                self.leftovers += 1

    def _explain(self, found: References, dead: set[str]) -> None:
        names = names_by_image(self.store)
        for identity, record in sorted(found.records.items()):
            because = [f"named {name}" for name in names.get(identity, ())] or [
                "it is an image without a name: 'lamina system prune' removes these"
            ]
            because += ["pinned"] if record.pinned else []
            self.kept.append(
                Kept("image", identity, record.size, (*because, *found.images.get(identity, ())))
            )
        kinds: list[tuple[str, dict[str, list[str]], list[str], Callable[[str], int]]] = [
            (
                "layer",
                found.layers,
                layers.identities(self.store),
                lambda one: size_of_layer(self.store, one)[0],
            ),
            (
                "blob",
                found.blobs,
                list(blobs.identities(self.store)),
                lambda one: blobs.size_of(self.store, one) or 0,
            ),
        ]
        for kind, used, there, size in kinds:
            for one in sorted(there):
                because = used.get(one) or [f"anything may use it: {why}" for why in found.unknown]
                if one not in dead and because:
                    self.kept.append(Kept(kind, one, size(one), tuple(because)))


def names_by_image(store: Store) -> dict[str, list[str]]:
    """The names of each image, sorted."""
    from lamina.store.tags import list_names

    found: dict[str, list[str]] = {}
    for name in list_names(store):
        found.setdefault(name.id, []).append(name.name)
    return {identity: sorted(names) for identity, names in found.items()}


def size_of_layer(store: Store, identity: str) -> tuple[int, int]:
    """Bytes and inodes of a layer as they were counted when it was made, or are now, once; 0 where that is damaged or
    gone.
    """
    found = _found(store, identity)
    if found is None:
        return 0, 0
    return (found.size, found.inodes) if found.counted else count(store, found)


def _found(store: Store, identity: str) -> Layer | None:
    try:
        return layers.find(store, identity)
    except Corrupt:
        return None


def _size_and_age(path: bytes) -> tuple[int, float]:
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno != ENOENT:
            raise
        return 0, 0.0
    return found.st_size, time.time() - found.st_mtime
