"""What forks did is brought together in their parent: three-way, against the state that they all began with.

    merge(home, [one, other])       # a new state of the container at *home*; Conflict, with the paths, where they disagree

Each fork in turn is compared with what there is by then: a path that two forks changed collides as if the parent had
changed it. What is taken is written into an upper of its own over the parent's state, which then becomes a layer; so the
parent has all of it or nothing, and the state from before stays, as a snapshot.
"""

from __future__ import annotations

import os
from time import time_ns

from lamina.engine import chains
from lamina.engine.comparing import changes_between, maps_of
from lamina.engine.freezing import freeze, is_volatile
from lamina.engine.snapshots import Snapshot
from lamina.engine.snapshotting import snapshot
from lamina.engine.state_turn import StateTurn
from lamina.engine.viewing import view_snapshot
from lamina.errors import Conflict, InvalidInput, NotFound, Unsupported
from lamina.overlay.merging import Collision, is_idle, merge, resolved
from lamina.store import snapshots
from lamina.store.leases import lease
from lamina.store.names import new_id
from lamina.store.snapshots import PlaceState, SnapshotRecord
from lamina.values import replace, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from lamina.engine.viewing import View
    from lamina.overlay.changes import Change
    from lamina.overlay.spec import MountSpec
    from lamina.store.containers import Home
    from lamina.store.leases import Lease
