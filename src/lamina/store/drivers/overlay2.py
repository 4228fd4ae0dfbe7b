"""The driver for overlayfs: layers are lower directories, what is written is an upper directory.

<place>/
├── state.json
├── layer/fs/        the upper directory: `commit` renames layer/ to layers/<id>, and moves no data
└── work/            the kernel's scratch space
"""

from __future__ import annotations

import os

from lamina.store import stage
from lamina.store.drivers import places
from lamina.store.drivers.contract import Root
from lamina.store.durable import sync_directory, sync_file_system
from lamina.store.layers import find, new_id, place_of
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.usage import Amount


class Overlay2:
    """The default. *userxattr*: marks are `user.overlay.*`, as a mount without root needs. See contract.Driver."""

    name = "overlay2"

    def __init__(self, store: Store, *, userxattr: bool = False) -> None:
        self.store, self.userxattr = store, userxattr

    def prepare(self, place: bytes, chain: Sequence[str], *, volatile: bool = False) -> Root:
        """A new active state: no file is copied. See contract.Driver."""

        def fill() -> None:
            point("driver.fill")
            make_directory(place + b"/layer", 0o700)
            make_directory(place + b"/layer/fs", 0o755)
            make_directory(place + b"/work", 0o700)

        places.make(self.store, self.name, place, places.State(tuple(chain), False, volatile), fill)
        return self.mounts(place)

    def view(self, place: bytes, chain: Sequence[str]) -> Root:
        """A new view. See contract.Driver."""
        places.make(self.store, self.name, place, places.State(tuple(chain), True, False))
        return self.mounts(place)

    def mounts(self, place: bytes) -> Root:
        """The stack; a view of less than two layers, which the kernel does not mount, has an empty one below."""
        state = places.read(self.name, place)
        if state.view:
            spec = places.lower(self.store, state.chain, self.userxattr)
            if len(spec.lowerdirs) < 2:
                spec = replace(spec, lowerdirs=(*spec.lowerdirs, self.store.merged))
            return Root(spec, None, True)
        return Root(self._stack(place, state), None, False)

    def changes(self, place: bytes) -> Iterator[Change]:
        """Read from the upper directory alone. See contract.Driver."""
        from lamina.overlay.stack import Overlay

        state = places.read(self.name, place)
        return iter(()) if state.view else Overlay(self._stack(place, state)).changes()

    def usage(self, place: bytes) -> Amount:
        """What is in the upper directory. See contract.Driver."""
        from lamina.store.usage import Amount, walked

        return Amount() if places.read(self.name, place).view else walked(place + b"/layer/fs")

    def commit(self, place: bytes, lease: Lease, identity: str | None = None) -> Layer:
        """One rename. See contract.Driver."""
        places.active(self.name, place)
        identity = new_id() if identity is None else identity
        if not (lease.add_layer(identity) and not os.path.lexists(place + b"/layer")):
            self._freeze(place, identity)
        layer = find(self.store, identity)
        assert layer is not None  # the lease keeps it
        places.remove(place)
        return layer

    def _freeze(self, place: bytes, identity: str) -> None:
        home, amount = place + b"/layer", self.usage(place)
        try:
            descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                stage.write_facts(
                    home, identity, None, amount.bytes, amount.inodes, driver=self.name, sync=False
                )
                sync_file_system(descriptor, what="driver")
            finally:
                os.close(descriptor)
            point("driver.commit")
            os.rename(home, place_of(self.store, identity))
            sync_directory(self.store.layers, what="driver")
        except OSError as error:
            raise_storage_error(error, "freeze a state of layers", place)

    def remove(self, place: bytes) -> None:
        """See contract.Driver."""
        places.remove(place)

    def _stack(self, place: bytes, state: places.State) -> MountSpec:
        lower = places.lower(self.store, state.chain, self.userxattr)
        return replace(
            lower, upperdir=place + b"/layer/fs", workdir=place + b"/work", volatile=state.volatile
        )
