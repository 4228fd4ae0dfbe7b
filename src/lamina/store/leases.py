"""Leases: what somebody is about to use, so that garbage collection leaves it alone.

    with lease(store) as held:
        held.add_layer(identity)        # from here on it stays, whether it is there already or is made later
        ...                             # until a record or a container refers to it

A lease is a file in leases/ that its holder has locked: it ends with the process, whatever becomes of that. Each line
is one thing: `layer <id>`, `blob <digest>` or `image <id>`.

`leases/` itself is whose turn it is: an adder holds it shared for the time of one write(2) and one lstat(2), the
collector exclusively from reading the leases until it has moved away what nobody refers to. So a thing that
`add_layer` found is there as long as the lease is. Starting a container takes no lease: see images.py.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from contextlib import contextmanager

from lamina.errors import Corrupt, LaminaError
from lamina.store import lock, names
from lamina.store.digest import check_digest
from lamina.store.durable import write_all
from lamina.store.root import raise_storage_error
from lamina.store.trace import point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lamina.store.root import Store

KINDS = ("layer", "blob", "image")


class Lease:
    """A held lease; see the module. Safe to use from several threads, which add one after the other."""

    __slots__ = ("_found", "_kept", "_lock", "_turn", "path", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.leases + b"/" + names.new_id().encode()
        point("lease.create")
        with lock.turn(store.leases, lock.LOCK_SH):  # or the collector finds the file before it is locked
            held = lock.take(self.path, lock.LOCK_EX, create=True)
        assert held is not None
        self._lock = held
        self._turn = allocate_lock()
        self._kept: set[tuple[str, str]] = set()  # what is written in it
        self._found: set[tuple[str, str]] = set()  # and what of that is there, as long as this is

    def add_layer(self, identity: str) -> bool:
        """Keep the layer *identity* from now on. Whether it is there. Raises InvalidInput, KernelError."""
        from lamina.store.layers import place_of

        return self._add("layer", identity, place_of(self.store, identity))

    def add_blob(self, digest: str) -> bool:
        """Keep the blob *digest* from now on. Whether it is there. Raises InvalidInput, KernelError."""
        from lamina.store.blobs import place_of

        return self._add("blob", check_digest(digest), place_of(self.store, digest))

    def add_image(self, identity: str) -> bool:
        """Keep the record of the image *identity*, and with it all it refers to. Whether it is there."""
        from lamina.store.images import place_of

        return self._add("image", identity, place_of(self.store, identity))

    def add_all(self, layers: Iterable[str], blobs: Iterable[str]) -> tuple[str, str] | None:
        """Keep all these, with one write; kind and name of the first that is not there. Raises InvalidInput,
        KernelError.
        """
        from lamina.store import blobs as of_blobs
        from lamina.store import layers as of_layers

        wanted = [("layer", one, of_layers.place_of(self.store, one)) for one in layers]
        wanted += [("blob", check_digest(one), of_blobs.place_of(self.store, one)) for one in blobs]
        self._keep(wanted)
        return next(((kind, what) for kind, what, _ in wanted if (kind, what) not in self._found), None)

    def _add(self, kind: str, what: str, place: bytes) -> bool:
        self._keep([(kind, what, place)])
        return (kind, what) in self._found

    def _keep(self, wanted: list[tuple[str, str, bytes]]) -> None:
        """Kinds, names and places."""
        if not self._lock.held:
            raise LaminaError("keep something: the lease has ended")
        wanted = [one for one in wanted if one[:2] not in self._found]
        new = [one for one in wanted if one[:2] not in self._kept]
        if not new:
            # whoever collects has read of it since: what has come meanwhile stays, and needs no turn
            self._look(wanted)
            return
        text = "".join([f"{kind} {what}\n" for kind, what, _ in new])
        try:
            point("lease.add")
            with self._turn, lock.turn(self.store.leases, lock.LOCK_SH):
                end = os.lseek(self._lock.fd, 0, os.SEEK_END)
                try:
                    write_all(self._lock.fd, text.encode())
                except OSError:  # no room is left: half a line would spoil the next one
                    os.ftruncate(self._lock.fd, end)
                    raise
                self._kept.update([one[:2] for one in new])
                self._look(wanted)
        except OSError as error:
            raise_storage_error(error, f"keep {new[0][0]} {new[0][1]}", self.path)

    def _look(self, wanted: list[tuple[str, str, bytes]]) -> None:
        self._found.update([(kind, what) for kind, what, place in wanted if os.path.lexists(place)])

    def close(self) -> None:
        """End the lease; a second call does nothing."""
        if self._lock.held:
            try:
                os.unlink(self.path)
            except OSError:  # the collector finds that nobody holds it
                pass
            self._lock.release()

    def __repr__(self) -> str:
        return f"Lease({os.fsdecode(self.path)!r}{'' if self._lock.held else ', ended'})"


@contextmanager
def lease(store: Store) -> Iterator[Lease]:
    """A new lease for the time of the `with`. Raises KernelError."""
    try:
        held = Lease(store)
    except OSError as error:
        raise_storage_error(error, "make a lease", store.leases)
    try:
        yield held
    finally:
        held.close()


def leased(store: Store) -> tuple[dict[str, set[str]], list[bytes]]:
    """What the leases that somebody holds keep, by kind; and the files of those that nobody holds any more.

    For the holder of the exclusive turn. Raises Corrupt for a lease that cannot be read.
    """
    kept: dict[str, set[str]] = {kind: set() for kind in KINDS}
    ended: list[bytes] = []
    for entry in os.listdir(store.leases):
        path = store.leases + b"/" + entry
        try:
            free = lock.take(path, lock.LOCK_SH, wait=False)
        except FileNotFoundError:
            continue  # ended meanwhile, as its holder wished
        if free is not None:
            free.release()
            ended.append(path)
            continue
        for line in _read(path).splitlines():
            kind, _, what = line.partition(" ")
            if kind not in kept:
                raise Corrupt(f"read lease {os.fsdecode(path)}: it says {line[:80]!r}")
            kept[kind].add(what)
    return kept, ended


def _read(path: bytes) -> str:
    try:
        with open(path, "rb", opener=_no_link) as file:
            return file.read().decode("ascii", "replace")
    except FileNotFoundError:
        return ""


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
