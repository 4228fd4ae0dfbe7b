"""The driver that needs nothing of the kernel: every state is a full copy of what its chain shows.

    <place>/
    ├── state.json
    └── fs/              the copy; on a file system that can (btrfs, xfs, bcachefs) its files share their data

What was written is found by comparing the copy with the chain, file by file: right everywhere, and as slow as that.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from lamina.store import layers
from lamina.store.drivers import places
from lamina.store.drivers.contract import Root
from lamina.store.drivers.freezing import copy, freeze
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lamina.overlay.changes import Change
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store
    from lamina.store.usage import Amount


class Vfs:
    """Full copies. *userxattr*: marks in the layers are `user.overlay.*`. See contract.Driver."""

    name = "vfs"

    def __init__(self, store: Store, *, userxattr: bool = False) -> None:
        self.store, self.userxattr = store, userxattr

    def prepare(self, place: bytes, chain: Sequence[str], *, volatile: bool = False) -> Root:
        """A new active state: a copy. See contract.Driver."""
        return self._make(place, places.State(tuple(chain), False, volatile))

    def view(self, place: bytes, chain: Sequence[str]) -> Root:
        """A new view, of a copy as well. See contract.Driver."""
        return self._make(place, places.State(tuple(chain), True, False))

    def _make(self, place: bytes, state: places.State) -> Root:
        def fill() -> None:
            point("driver.fill")
            make_directory(place + b"/fs", 0o755)
            copy(places.lower(self.store, state.chain, self.userxattr), place + b"/fs")

        places.make(self.store, self.name, place, state, fill)
        return self.mounts(place)

    def mounts(self, place: bytes) -> Root:
        """The copy, as it is. See contract.Driver."""
        return Root(None, place + b"/fs", places.read(self.name, place).view)

    def changes(self, place: bytes) -> Iterator[Change]:
        """By way of a layer that is thrown away again. See contract.Driver."""
        from lamina.overlay.stack import Overlay

        state = places.read(self.name, place)
        if state.view:
            return
        lower = places.lower(self.store, state.chain, self.userxattr)
        upper = os.fsencode(tempfile.mkdtemp(dir=os.fsdecode(place), prefix="changes-"))
        try:
            freeze(place + b"/fs", lower, upper)
            yield from Overlay(replace(lower, upperdir=upper, workdir=upper)).changes()
        finally:
            shutil.rmtree(upper, ignore_errors=True)

    def usage(self, place: bytes) -> Amount:
        """The whole copy. See contract.Driver."""
        from lamina.store.usage import walked

        places.read(self.name, place)
        return walked(place + b"/fs")

    def commit(self, place: bytes, lease: Lease, identity: str | None = None) -> Layer:
        """What differs is copied once more, into the layer. See contract.Driver."""
        from lamina.store.usage import walked

        state = places.active(self.name, place)
        lower = places.lower(self.store, state.chain, self.userxattr)
        with layers.stage(self.store, identity, lease) as stage:
            try:
                point("driver.freeze")
                freeze(place + b"/fs", lower, stage.path)
            except OSError as error:
                raise_storage_error(error, "freeze a state of layers", place)
            amount = walked(stage.path)
            layer = stage.commit(None, amount.bytes, amount.inodes)
        places.remove(place)
        return layer

    def remove(self, place: bytes) -> None:
        """See contract.Driver."""
        places.remove(place)
