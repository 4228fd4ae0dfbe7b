"""Proving the store: everything that is there is whole, everything that is referred to is there, nothing was left over.

    damaged     something that was promised is not as it was: a digest, a layer, a record
    left over   nobody needs it: what those left who were killed, and garbage

Others may work meanwhile: what looks wrong is looked at again. With *repair* what is left over goes, and what is
damaged is taken out of the way, so that pulling again mends it; nothing that a container is over is taken from it.
"""

from __future__ import annotations

import os
from functools import partial
from stat import S_IMODE, S_ISDIR, S_ISREG

from lamina.errors import Corrupt, LaminaError, NotFound
from lamina.store import (
    blobs,
    burial,
    containers,
    garbage,
    images,
    layers,
    lock,
    names,
    record,
    seal,
    stage,
    successors,
    tags,
    volumes,
)
from lamina.store.check_states import check_states, coming, unreadable
from lamina.store.digest import LENGTHS, is_digest
from lamina.store.names import is_id, is_name
from lamina.store.references import ContainerUses
from lamina.store.root import DIRECTORIES, make_directory, raise_storage_error
from lamina.store.scratch import Scratch
from lamina.store.tree import remove_tree
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lamina.store.containers import Home
    from lamina.store.layers import Layer
    from lamina.store.root import Store
    from lamina.store.scratch import Remove

    Prove = Callable[[Layer], bool | None]

DAMAGED, LEFT_OVER = "damaged", "left over"


@value
class Finding:
    """Something that is not as it should be. `kind` says of what: store, blob, layer, image, name, container, snapshot,
    volume, network, lease, mount, garbage. `repaired` says whether it was mended or taken away; `remedy` what to do if
    not.
    """

    severity: str
    kind: str
    what: str
    problem: str
    repaired: bool = False
    remedy: str = ""


@value
class Checked:
    """What was looked at, and found. `proven` layers and blobs were hashed and are right, `sealed` layers were hashed
    for the first time.
    """

    layers: int
    blobs: int
    images: int
    containers: int
    volumes: int
    proven: int
    sealed: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong any more."""
        return all(found.repaired for found in self.findings)


def check(
    store: Store,
    repair: bool = False,
    rehash: bool = False,
    *,
    prove: Prove | None = None,
    tree_digest: Callable[[bytes], str] = seal.tree_digest,
    remove: Remove = remove_tree,
    settle: Callable[[Home], None] | None = None,
) -> Checked:
    """Look at everything in the store, with *repair* mend it, with *rehash* read all content and compare digests.

    *prove* says of a layer whether its contents have its diff_id, None if it cannot. Its seal is compared as well (see
    seal.py), with *tree_digest* for trees of other users' ids. *remove* removes one tree. *settle* finishes what was
    begun with the states of a container. Raises KernelError.
    """
    try:
        return _Check(store, repair, rehash, prove, tree_digest, remove, settle).run()
    except OSError as error:
        raise_storage_error(error, "check the store", store.path)


class _Check:
    def __init__(
        self,
        store: Store,
        repair: bool,
        rehash: bool,
        prove: Prove | None,
        tree_digest: Callable[[bytes], str],
        remove: Remove,
        settle: Callable[[Home], None] | None,
    ) -> None:
        self.store, self.repair, self.rehash = store, repair, rehash
        self.prove, self.tree_digest, self.remove = prove, tree_digest, remove
        self.settle = settle
        self.findings: list[Finding] = []
        self.proven = self.sealed = 0
        self.uses = ContainerUses(store)
        self.used_layers: set[str] = set()

    def run(self) -> Checked:
        if not self._directories():
            return Checked(0, 0, 0, 0, 0, 0, 0, tuple(self.findings))  # the rest cannot be looked at
        self.uses.refresh()
        self.used_layers = {layer for use in self.uses for layer in use.layers}
        self._mounts()
        found_blobs, found_layers = self._blobs(), self._layers()
        found_images = self._images()
        self._names()
        self._successors()
        found_containers = self._containers()
        found_volumes = self._volumes()
        self._garbage()
        return Checked(
            found_layers,
            found_blobs,
            found_images,
            found_containers,
            found_volumes,
            self.proven,
            self.sealed,
            tuple(self.findings),
        )

    def _found(
        self,
        severity: str,
        kind: str,
        what: str,
        problem: str,
        mend: Callable[[], object] | None = None,
        remedy: str = "",
    ) -> None:
        """Write it down; with *repair* mend it, where that can be done."""
        finding = Finding(severity, kind, what, problem, remedy=remedy or "lamina system check --repair")
        if self.repair and mend is not None:
            try:
                mend()
                finding = replace(finding, repaired=True, remedy=remedy)
            except (OSError, LaminaError) as error:
                finding = replace(finding, remedy=f"it could not be repaired: {error}")
        self.findings.append(finding)

    # -- the directories

    def _directories(self) -> bool:
        """Whether all of them are there now."""
        for name, mode in DIRECTORIES.items():
            path = self.store.path + b"/" + name
            shown = os.fsdecode(name)
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                self._found(DAMAGED, "store", shown, "missing", partial(make_directory, path, mode))
                continue
            if not S_ISDIR(found.st_mode):
                self._found(DAMAGED, "store", shown, "no directory", remedy="move it away")
            elif S_IMODE(found.st_mode) != mode:
                problem = f"its mode is {S_IMODE(found.st_mode):o}, not {mode:o}"
                self._found(DAMAGED, "store", shown, problem, partial(os.chmod, path, mode))
        return all(os.path.isdir(self.store.path + b"/" + name) for name in DIRECTORIES)

    def _mounts(self) -> None:
        """In our own mount namespace there are none: every container mounts in its own."""
        from lamina.linux.constants import MNT_DETACH, UMOUNT_NOFOLLOW
        from lamina.linux.mount import umount2
        from lamina.linux.mountinfo import read_mountinfo

        ours = tuple(place + b"/" for place in (self.store.containers, self.store.layers, self.store.tmp))
        for mount in reversed(read_mountinfo()):
            point = mount.mount_point
            if point.startswith(ours) or point == self.store.merged:
                self._found(
                    LEFT_OVER,
                    "mount",
                    os.fsdecode(point),
                    f"mounted here ({os.fsdecode(mount.fstype)})",
                    partial(umount2, point, MNT_DETACH | UMOUNT_NOFOLLOW),
                )

    # -- blobs

    def _blobs(self) -> int:
        count = 0
        for algorithm in LENGTHS:
            directory = self.store.blobs + b"/" + algorithm.encode()
            for entry in sorted(os.listdir(directory)):
                digest = f"{algorithm}:{os.fsdecode(entry)}"
                path = directory + b"/" + entry
                if not is_digest(digest):
                    self._found(
                        LEFT_OVER, "blob", digest, "not the name of a blob", partial(self._discard, path)
                    )
                    continue
                count += 1
                self._blob(digest, path)
        return count

    def _blob(self, digest: str, path: bytes) -> None:
        try:
            found = os.lstat(path)
            if not S_ISREG(found.st_mode):
                self._found(DAMAGED, "blob", digest, "no file", partial(self._discard, path))
            elif self.rehash:
                blobs.verify(self.store, digest)
                self.proven += 1
        except Corrupt as error:
            self._found(
                DAMAGED, "blob", digest, error.message.partition(": ")[2], partial(self._discard, path)
            )
        except (FileNotFoundError, NotFound):
            pass  # collected meanwhile

    # -- layers

    def _layers(self) -> int:
        count = 0
        for entry in sorted(os.listdir(self.store.layers)):
            identity = os.fsdecode(entry)
            if not layers.is_id(identity):
                path = self.store.layers + b"/" + entry
                self._found(
                    LEFT_OVER, "layer", identity, "not the id of a layer", partial(self._discard, path)
                )
                continue
            count += 1
            self._layer(identity)
        return count

    def _layer(self, identity: str) -> None:
        place = layers.place_of(self.store, identity)
        try:
            found = layers.find(self.store, identity)
        except Corrupt as error:
            self._damaged_layer(identity, error.message.partition(": ")[2])
            return
        if found is None:
            return  # collected meanwhile
        if not os.path.isdir(found.path):
            if os.path.lexists(place):
                self._damaged_layer(identity, "its tree is missing")
        elif self.rehash:
            self._hash_layer(found, place)

    def _hash_layer(self, found: Layer, place: bytes) -> None:
        try:
            whole = None if self.prove is None else self.prove(found)
            if (
                whole is not False
            ):  # the archive's headers stay as they were, whatever became of modes and owners
                digest, before = self.tree_digest(found.path), seal.sealed(place)
                if before is None:
                    seal.seal(place, digest)
                    self.sealed += 1
                elif digest != before:
                    whole = False
                else:
                    whole = True
        except FileNotFoundError:
            return  # collected meanwhile
        except Corrupt as error:
            self._found(
                DAMAGED, "layer", found.id, error.message, partial(os.unlink, place + b"/" + seal.FILE)
            )
            return
        if whole:
            self.proven += 1
        elif whole is False:
            self._damaged_layer(found.id, "its content is not what was unpacked")

    def _damaged_layer(self, identity: str, problem: str) -> None:
        place = layers.place_of(self.store, identity)
        if identity not in self.used_layers:
            self._found(DAMAGED, "layer", identity, problem, partial(self._discard, place))
        elif os.path.isdir(place + b"/fs") and not _readable(self.store, identity):
            self._found(DAMAGED, "layer", identity, problem, partial(_describe_anew, place, identity))
        else:
            users = ", ".join(use.shown for use in self.uses if identity in use.layers)
            self._found(DAMAGED, "layer", identity, problem, remedy=f"remove the containers over it: {users}")

    # -- images

    def _images(self) -> int:
        count = 0
        for identity in sorted(images.identities(self.store)):
            count += 1
            try:
                found = images.get(self.store, identity)
            except Corrupt as error:
                problem = error.message.partition(": ")[2]
                self._found(DAMAGED, "image", identity, problem, partial(images.remove, self.store, identity))
                continue
            if found is None:
                continue
            missing = [layer for layer in found.layers if not layers.is_there(self.store, layer)]
            gone = [blob for blob in found.blobs if not blobs.has(self.store, blob)]
            if not (missing or gone) or images.get(self.store, identity) != found:
                continue
            if missing:
                problem = f"layer {missing[0][:12]} of it is missing"
                mend: Callable[[], object] = partial(images.remove, self.store, identity)
            else:
                problem = f"blob {gone[0]} of it is missing"
                mend = partial(images.forget_blobs, self.store, identity)
            self._found(DAMAGED, "image", identity, problem, mend, remedy="pull it again")
        return count

    def _names(self) -> None:
        directory = self.store.images + b"/names"
        for entry in sorted(os.listdir(directory)):
            path = directory + b"/" + entry
            if not entry.endswith(b".json"):
                continue  # somebody is writing it, or was: see `_garbage`
            try:
                found = record.read_light(directory, entry)
                if found is None:
                    continue
                name = tags.decode_name(found, entry)
            except Corrupt as error:
                self._found(DAMAGED, "name", os.fsdecode(entry)[:12], error.message, partial(_unlink, path))
                continue
            if not os.path.lexists(images.place_of(self.store, name.id)) and os.path.lexists(path):
                problem = f"its image {name.id[:12]} is gone"
                self._found(LEFT_OVER, "name", name.name, problem, partial(tags.sweep, self.store))

    def _successors(self) -> None:
        for old in successors.unfinished(self.store):
            problem = "what became of it is gone, or not all of it is done"
            self._found(LEFT_OVER, "image", old, problem, partial(tags.sweep, self.store))

    # -- containers and volumes

    def _containers(self) -> int:
        for entry in sorted(os.listdir(self.store.names)):
            name = os.fsdecode(entry)
            owner = names.holder(self.store.names, name) if names.is_name(name) else None
            if owner is None:
                path = self.store.names + b"/" + entry
                self._found(DAMAGED, "name", name, "it leads to no container", partial(_unlink, path))
            elif not os.path.lexists(self.store.containers + b"/" + owner.encode()):
                free = partial(names.drop_stale, self.store.names, name, self.store.containers)
                self._found(LEFT_OVER, "name", name, f"its container {owner[:12]} is gone", free)
        for use in self.uses:
            remedy = f"lamina rm -f {use.shown}"
            damaged = use.damaged if "snapshot" not in use.damaged else ""
            if damaged := damaged or unreadable(containers.Home(self.store, use.id)):
                self._found(DAMAGED, "container", use.shown, damaged, remedy=remedy)
            missing = [layer for layer in use.own if not layers.is_there(self.store, layer)]
            for layer in missing:
                if layer not in coming(containers.Home(self.store, use.id)) and _exists(self.store, use.id):
                    problem = f"layer {layer[:12]} of it is missing"
                    self._found(DAMAGED, "container", use.shown, problem, remedy=remedy)
            check_states(
                self.store, use, partial(self._found, DAMAGED), partial(self._found, LEFT_OVER), self.settle
            )
        return len(containers.identities(self.store))

    def _volumes(self) -> int:
        for entry in sorted(os.listdir(self.store.volumes)):
            name, place = os.fsdecode(entry), self.store.volumes + b"/" + entry
            if not is_name(name):
                self._found(LEFT_OVER, "volume", name, "not the name of a volume", remedy="move it away")
                continue
            try:
                volumes.find(self.store, name)
            except Corrupt as error:
                problem = error.message.partition(": ")[2]
                self._found(
                    DAMAGED,
                    "volume",
                    name,
                    problem,
                    partial(volumes.write_facts, place, name, {}, False),
                )
            if not os.path.isdir(place + b"/_data") and os.path.lexists(place):
                self._found(
                    DAMAGED,
                    "volume",
                    name,
                    "its data is missing",
                    partial(make_directory, place + b"/_data", 0o755),
                )
        return len(volumes.identities(self.store))

    # -- what is left over

    def _garbage(self) -> None:
        """What nobody holds and nobody refers to: no fault, a crash leaves it, and so does removing."""
        if self.repair:
            burial.bury_all(self.store, self.remove)
        found = garbage.collect(self.store, dry=not self.repair, remove=self.remove)
        for kind, what in (
            *(("layer", one) for one in found.layers),
            *(("blob", one) for one in found.blobs),
        ):
            self.findings.append(
                Finding(
                    LEFT_OVER,
                    kind,
                    what,
                    "nothing refers to it",
                    self.repair,
                    "" if self.repair else "lamina gc",
                )
            )
        for path in self._unheld():
            shown = os.fsdecode(os.path.relpath(path, self.store.path))
            problem = "left by somebody who was killed"
            self._found(
                LEFT_OVER, "garbage", shown, problem, partial(self._discard, path), remedy="lamina gc"
            )

    def _unheld(self) -> Iterator[bytes]:
        for directory, inner in (
            *((self.store.tmp, b"/lock"), (self.store.leases, b""), (self.store.claims, b"")),
            (self.store.images + b"/removed", b""),
        ):
            for entry in os.listdir(directory):
                path = directory + b"/" + entry
                try:
                    held = lock.take(path + inner, lock.LOCK_EX, wait=False)
                except (FileNotFoundError, NotADirectoryError):
                    held = None
                    if not os.path.lexists(path) or os.path.lexists(path + inner):
                        continue
                else:
                    if held is None:
                        continue
                    held.release()
                if os.path.lexists(path):
                    yield path

    def _discard(self, path: bytes) -> None:
        with Scratch(self.store) as scratch:
            os.rename(path, scratch.path + b"/" + os.urandom(8).hex().encode())
            scratch.remove(self.remove)


def _readable(store: Store, identity: str) -> bool:
    try:
        return layers.find(store, identity) is not None
    except Corrupt:
        return False


def _exists(store: Store, identity: str) -> bool:
    return is_id(identity) and os.path.lexists(
        store.containers + b"/" + identity.encode() + b"/container.json"
    )


def _describe_anew(place: bytes, identity: str) -> None:
    """A new layer.json for a tree that a container is over."""
    from lamina.store.usage import walked

    amount = walked(place + b"/fs")
    stage.write_facts(
        place, identity, None if identity[0] == "x" else f"sha256:{identity}", amount.bytes, amount.inodes
    )


def _unlink(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
