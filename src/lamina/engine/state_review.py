"""What a container had done when a snapshot of it was made, and what becomes of that: looked at, applied."""

from __future__ import annotations

from lamina.engine import chains
from lamina.engine.reviewed import Reviewed
from lamina.engine.viewing import over_its_image
from lamina.overlay.spec import top_first
from lamina.store.layers import tree_of
from lamina.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.snapshots import SnapshotRecord


class StateReview(Reviewed):
    """The changes of the container at *home* as they were in the state *kept*.

    What is applied is noted in the container's own journal: `Container.undo` takes it back, and another state that is
    applied next finds on this machine what this one left.
    """

    def __init__(self, home: Home, kept: SnapshotRecord) -> None:
        self._home, self._kept = home, kept

    @property
    def name(self) -> str:
        """As it is called on a command line."""
        return f"{self._record.get('name')}@{self._kept.shown}"

    @property
    def image(self) -> str:
        """The image it was made from, as it was asked for."""
        return str(self._record.get("image", ""))

    @property
    def _record(self) -> dict[str, Any]:
        return self._home.asked()

    def _written(self, asked: dict[str, Any]) -> tuple[list[tuple[bytes, MountSpec]], dict[bytes, int]]:
        """Its topmost layer is to the others what an upper is; where nothing was written there is none."""
        stood = chains.on_chain(over_its_image(asked, self._kept), self._kept.chain, None)
        chain = chains.chain_of(stood)  # made shorter where layers were put together since
        found, own = [], {}
        for at, spec in super()._written(stood)[0]:
            ids = top_first(chain.get(at, ()))
            if ids:
                top = tree_of(self._home.store, ids[0])
                found.append((at, replace(spec, upperdir=top, workdir=None, lowerdirs=spec.lowerdirs[1:])))
                own[at] = len(ids) - 1
        return found, own
