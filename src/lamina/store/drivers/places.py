"""What drivers have in common: a place says in state.json which driver keeps it, over which chain, and whether it is a
view. It is written last, and goes first: what has none was never finished, or is on its way out.
"""

from __future__ import annotations

import os
from errno import ENOENT

from lamina.errors import Conflict, Corrupt, NotFound
from lamina.store import layers, record
from lamina.store.durable import stage_record
from lamina.store.root import make_directory, raise_storage_error
from lamina.store.trace import point
from lamina.store.tree import remove_tree
from lamina.values import value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lamina.overlay.spec import MountSpec
    from lamina.store.root import Store

FILE = b"state.json"


@value
class State:
    """What state.json says."""

    chain: tuple[str, ...]
    view: bool
    volatile: bool


def make(
    store: Store, driver: str, place: bytes, state: State, fill: Callable[[], None] | None = None
) -> None:
    """Make the directory *place* for a new state and let *fill* fill it. Raises NotFound, Conflict, KernelError."""
    for layer in state.chain:
        if not layers.is_there(store, layer):
            raise NotFound(f"use layer {layer[:12]}: it is not in this store")
    try:
        point("driver.mkdir")
        make_directory(place, 0o700)
    except FileExistsError:
        raise Conflict(f"make {os.fsdecode(place)}: it is there already") from None
    except OSError as error:
        raise_storage_error(error, "make a state of layers", place)
    try:
        if fill is not None:
            fill()
        facts = {"driver": driver, "chain": list(state.chain), "view": state.view, "volatile": state.volatile}
        stage_record(place, FILE, facts, what="driver")
        point("driver.rename")
        os.rename(place + b"/" + FILE + b".new", place + b"/" + FILE)
    except BaseException as error:
        remove(place)
        if isinstance(error, OSError):
            raise_storage_error(error, "make a state of layers", place)
        raise


def read(driver: str, place: bytes) -> State:
    """What the place is. Raises NotFound, Corrupt, KernelError."""
    try:
        found = record.read_light(place, FILE)
    except OSError as error:
        raise_storage_error(error, "read a state of layers", place)
    if found is None:
        raise NotFound(f"no state of layers at {os.fsdecode(place)}")
    if found.get("driver") != driver:
        raise Conflict(
            f"state of layers at {os.fsdecode(place)}: of the driver {found.get('driver')}, not {driver}"
        )
    try:
        chain = tuple([layers.check_id(layer) for layer in found["chain"]])
        return State(chain, bool(found["view"]), bool(found["volatile"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"state of layers at {os.fsdecode(place)}: damaged: {error}") from None


def active(driver: str, place: bytes) -> State:
    """What the place is, if it can be written to. Raises Conflict for a view, and as `read`."""
    state = read(driver, place)
    if state.view:
        raise Conflict(f"commit {os.fsdecode(place)}: it is a view, nothing can have changed")
    return state


def remove(place: bytes) -> None:
    """Remove the place; whoever is killed leaves one that is no state any more. Raises KernelError."""
    try:
        point("driver.remove")
        try:
            os.unlink(place + b"/" + FILE)
        except OSError as error:
            if error.errno != ENOENT:
                raise
        remove_tree(place)
    except OSError as error:
        raise_storage_error(error, "remove a state of layers", place)


def lower(store: Store, chain: Sequence[str], userxattr: bool) -> MountSpec:
    """What a chain shows, without anything above it."""
    from lamina.overlay.spec import MountSpec, steady_options, top_first

    trees = top_first([layers.tree_of(store, layer) for layer in chain])
    return MountSpec(
        lowerdirs=trees or (store.empty,), userxattr=userxattr, options=steady_options(userxattr)
    )
