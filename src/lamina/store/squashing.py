"""Several layers of a chain made one layer, and of which step each of its entries is.

    layers/<id>/
    ├── fs/            what the run shows, in overlay form (overlay/squash.py)
    ├── layer.json     extra: {"squashed": [the ids of the run, base first]}
    └── origins        the steps, as a list in JSON; a NUL; and for each entry "STEP PATH" and a NUL

A step is {"layer", "created" and, of a frozen layer, "origin"}: what its layer.json said. It is copied, since the
layers of a run may be collected once nobody stands on them. Where a layer of the run was itself made of others, the
steps are theirs; steps of which nothing is left are not kept.

Which layers are worth it, `due` says: as `git repack --geometric` does, it leaves the lowest alone as long as each has
at least twice what all above it have together. So whatever is written is written again a logarithmic number of times.
"""

from __future__ import annotations

import json
import os
import time
from errno import ENOENT
from typing import TYPE_CHECKING

from lamina.errors import Corrupt, InvalidInput, NotFound
from lamina.overlay.spec import top_first
from lamina.overlay.squash import squash as squash_trees
from lamina.store import layers
from lamina.store.root import raise_storage_error
from lamina.values import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from lamina.overlay.squash import Squashed
    from lamina.store.layers import Layer
    from lamina.store.leases import Lease
    from lamina.store.root import Store

    Step = dict[str, Any]

FILE = b"origins"
_MET = b"/met"
# a layer below has at least so many times what all above it have
FACTOR = 2
# what copying so many bytes takes is taken to be as much as making an inode takes
BYTES_AN_INODE = 64 << 10


@value
class Origins:
    """Of a squashed layer: `steps`, base first, and `entries`, the number of the step by path (whiteouts too)."""

    steps: tuple[Step, ...]
    entries: dict[bytes, int]

    def step(self, path: bytes) -> Step | None:
        """What made the entry *path* (without a leading "/"; b"" is none), None where the layer has no such entry."""
        number = self.entries.get(path)
        return None if number is None else self.steps[number]


def due(costs: Sequence[int]) -> int:
    """How many of the topmost layers are to be made one, given what squashing each costs (base first): 0 or at least 2.

    Of the layers that are left each costs FACTOR times as much as all above it together, or more.
    """
    above = sum(costs)
    for kept, cost in enumerate(costs):
        above -= cost
        if cost < FACTOR * above:
            left = len(costs) - kept
            return left if left > 1 else 0
    return 0


def cost(size: int, inodes: int) -> int:
    """What making a layer of so many bytes and inodes again costs, in inodes."""
    return inodes + size // BYTES_AN_INODE


def squash(
    store: Store,
    run: Sequence[str],
    lease: Lease,
    *,
    userxattr: bool = False,
    bottom: bool = False,
    work: Callable[..., Squashed] | None = None,
) -> Layer:
    """The layers *run* (base first) as a new layer, which *lease* keeps, as it keeps them. Synced when it returns.

    *bottom*, *userxattr*: see overlay/squash.py; *work* calls that function with the arguments given to it, where its
    files can be reached (engine/within). Raises NotFound, Corrupt, InvalidInput for less than two layers, Unsupported,
    KernelError.
    """
    found = [_held(store, identity, lease) for identity in reversed(top_first(run))]
    if len(found) < 2:
        raise InvalidInput("squash layers: it takes at least two")
    with layers.stage(store, None, lease) as stage:
        home = os.path.dirname(stage.path)
        try:
            done = (work or _here)(
                squash_trees, [layer.path for layer in reversed(found)], stage.path,
                userxattr=userxattr, bottom=bottom, record=home + _MET,
            )  # fmt: skip
            _write(store, found, home)
        except OSError as error:
            raise_storage_error(error, "squash layers", stage.path)
        return stage.commit(None, done.size, done.inodes, _extra(found))


def _extra(found: list[Layer]) -> dict[str, Any]:
    """What is kept of the run: its layers, whose it was, and where starts had put something only to mount on it."""
    made = dict.fromkeys(place for layer in found for place in layer.extra.get("made") or ())
    last = found[-1].extra.get("origin") or {}
    whose = {key: last[key] for key in ("container", "container_name", "name", "at") if key in last}
    return {
        "squashed": [layer.id for layer in found],
        "origin": {**whose, "message": f"{len(found)} layers squashed", "created": time.time_ns()},
        **({"made": list(made)} if made else {}),
    }


def _here(work: Callable[..., Squashed], *args: Any, **keywords: Any) -> Squashed:
    return work(*args, **keywords)


def _held(store: Store, identity: str, lease: Lease) -> Layer:
    lease.add_layer(identity)
    found = layers.find(store, identity)
    if found is None:
        raise NotFound(f"squash layers: {identity[:12]} is not in this store")
    return found


def made_of(layer: Layer) -> tuple[str, ...]:
    """The layers, base first, that the squashed *layer* was made of; none for one that was not."""
    found = layer.extra.get("squashed")
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(one, str) and layers.is_id(one) for one in found):
        raise Corrupt(f"layer {layer.id[:12]}: what it says of its origin is damaged")
    return tuple(found)


def origins(layer: Layer) -> Origins | None:
    """Of which step each entry is, of a layer that was squashed; None of another. Raises Corrupt, KernelError."""
    place = os.path.dirname(layer.path)
    try:
        with open(place + b"/" + FILE, "rb", opener=_no_link) as file:
            head, _, rest = file.read().partition(b"\0")
    except OSError as error:
        if error.errno == ENOENT:
            return None
        raise_storage_error(error, "read the origins of layer", place)
    try:
        steps = json.loads(head)
        entries = dict(_entries(rest))
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise ValueError("no list of steps")
        if entries and not 0 <= min(entries.values()) <= max(entries.values()) < len(steps):
            raise ValueError("a step that is none")
    except ValueError as error:
        raise Corrupt(f"layer {layer.id[:12]}: its origins are damaged: {error}") from None
    return Origins(tuple(steps), entries)


def step_of(layer: Layer) -> Step:
    """What is known of how a layer came about, as one step."""
    step: Step = {"layer": layer.id, "created": layer.created}
    if isinstance(origin := layer.extra.get("origin"), dict):
        step["origin"] = origin
    return step


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    for line in data.split(b"\0"):
        if line:
            number, _, path = line.partition(b" ")
            yield path, int(number)


def _write(store: Store, found: list[Layer], home: bytes) -> None:
    """Make `origins` of what was met: numbers of layers, the topmost being 0, become numbers of steps."""
    with open(home + _MET, "rb") as file:
        met = file.read()
    known = [origins(layer) for layer in found]
    entries: list[tuple[tuple[int, int], bytes]] = []  # (layer, step in it, -1 for all of it), path
    for path, number in _entries(met):
        at = len(found) - 1 - number
        inner = known[at]
        entries.append(((at, -1 if inner is None else inner.entries.get(path, -1)), path))
    order = sorted({step for step, _ in entries})
    place = {step: number for number, step in enumerate(order)}
    steps = []
    for at, below in order:
        inner = known[at]
        steps.append(step_of(found[at]) if inner is None or below < 0 else inner.steps[below])
    with open(home + b"/" + FILE, "xb") as file:
        file.write(json.dumps(steps).encode() + b"\0")
        file.writelines(b"%d %b\0" % (place[step], path) for step, path in entries)
    os.unlink(home + _MET)
