"""The contract of a layer driver.

    layer    immutable, in overlay form, independent of all others: layers.py. Any driver can use any layer
    chain    ids of layers, BASE FIRST, as an image has them; may be empty
    place    a directory of the caller's, on the file system of the store, in which a driver keeps one state
    active   a state that can be written to, of exactly one user; ends in commit() or remove()
    view     a state that cannot be written to; ends in remove()
    root     what to mount to see a state: data, mounted by the caller, and not while commit() or remove() run

    driver = Overlay2(store)
    root = driver.prepare(place, image.layers)         # mount it, run something in it, unmount it
    for change in driver.changes(place): ...
    with lease(store) as held:
        layer = driver.commit(place, held)             # the state is a layer now, the place is gone
    driver.view(other, (*image.layers, layer.id))      # shows what the active state showed

What a driver keeps exactly: owners, modes, times (ns), extended attributes, capabilities, ACLs, hard links, holes,
devices, fifos, sockets, names and contents of any bytes; of what the merged tree shows, not of how it came to be.

Whatever the driver: a place is made and goes whole; a call that fails or is killed leaves the state as it was, or a
place that `remove` removes. The layers of a chain must be kept by somebody (a container, a lease) as long as the state
is.
A chain may be served by other means than directories: a layer that is a file-system image, a snapshotting file system
that builds the chain. Such a driver gives a root of its own, and what it keeps besides is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.usage import Amount


@value
class Root:
    """What to mount: a stack, or a directory as it is (a bind mount), for reading only or for both."""

    overlay: MountSpec | None
    directory: bytes | None
    read_only: bool


class Driver(Protocol):
    """See the module's text. Paths are absolute bytes; every method raises KernelError, and Corrupt for a place
    that is damaged.
    """

    @property
    def name(self) -> str:
        """As it stands in records."""

    def prepare(self, place: bytes, chain: Sequence[str], *, volatile: bool = False) -> Root:
        """A new active state over *chain*, kept in the new directory *place*. With *volatile* a crash of the
        machine may lose it. Raises Conflict when *place* is there already, NotFound for a layer that is not.
        """

    def view(self, place: bytes, chain: Sequence[str]) -> Root:
        """A new view of *chain*. Raises as `prepare`."""

    def mounts(self, place: bytes) -> Root:
        """The root that `prepare` or `view` gave: the same answer every time. Raises NotFound."""

    def changes(self, place: bytes) -> Iterator[Change]:
        """What an active state did to its chain, sorted by path: applied to a copy of what the chain shows, it
        gives what the state shows. A view did nothing. Raises NotFound.
        """

    def usage(self, place: bytes) -> Amount:
        """What would become free if the state were removed: bytes of files, and inodes. Raises NotFound."""

    def commit(self, place: bytes, lease: Lease, identity: str | None = None) -> Layer:
        """Make the active state a layer with the id *identity* (layers.new_id(); None: a new one), on the disk when
        this returns; *lease* keeps it. The place is gone then.

        Whoever is killed on the way has the state, or the layer, which nobody keeps any more: who must not lose it
        names *identity* in a record that refers to it before, and calls again after. Raises NotFound, Conflict
        for a view.
        """

    def remove(self, place: bytes) -> None:
        """Remove a state, whatever is left of it; one that is not there is none."""
